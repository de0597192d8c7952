// Package upstream sends HTTP/1.1 requests to backends and reads their answers.
//
// It stands in the place of http.Transport, which hands each request to two
// goroutines of its connection and back: half of what a proxied request costs.
// Here the caller's goroutine writes the request and reads the answer; only a
// request's body has a goroutine of its own. What is on the wire is written by
// http.Request.Write and read by http.ReadResponse, so it means the same as with
// http.Transport, and a test holds the two against each other.
package upstream
