// Package upstream sends HTTP/1.1 requests to backends and reads their answers.
//
// It stands in the place of http.Transport, which hands each request to two
// goroutines of its connection and back: half of what a proxied request costs.
// Here the caller's goroutine writes the request and reads the answer; only a
// request's body has a goroutine of its own. Most answers are read by plain.go;
// those whose framing it does not take for certain are read by http.ReadResponse,
// and a fuzz target holds the two against each other. Requests come with their
// head written, or are written by http.Request.Write.
package upstream
