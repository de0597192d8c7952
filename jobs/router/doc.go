// Package router is the HTTP router of the cluster: it learns over the bus which
// instances serve which host names (messages in jobs/wire) and proxies requests
// to them in one hop, streaming, WebSocket included. It speaks the protocol of
// the original router (docs/protocol.md) and answers its successor's clients.
//
// table.go is the routing table, which requests read without a lock; proxy.go the way
// of a request, and relay.go that of all but upgrades; internal/upstream the connections to
// instances; router.go ties them to the component base of jobs/component.
package router
