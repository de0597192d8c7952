// Package wire holds every subject and message that the components send each
// other over NATS, as the original vcap components did. Two dialects exist: the
// older one (until June 2012) and the later; both are read, the later is sent.
// Decoding is therefore lenient where the dialects differ and nowhere else.
//
// It imports the standard library only, so that anything may import it.
package wire
