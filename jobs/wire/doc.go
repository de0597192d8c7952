// Package wire holds every subject and message that the components send each
// other over NATS, as the components of the original did (docs/protocol.md). Two
// dialects exist: the older one (until June 2012) and the later. Both are read,
// the later is sent; decoding is lenient where they differ and nowhere else.
//
// It imports the standard library only, so that anything may import it.
package wire
