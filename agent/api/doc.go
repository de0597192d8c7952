// Package api is the contract between the deployer and the agent: what an
// instance shall be (Spec), what it is (Inventory), and the requests that lead
// from one to the other. It imports the standard library only and holds no
// behaviour beyond names, digests and small predicates on its own types.
//
// Every method is one request and one JSON reply, so the same API travels over
// the agent's unix socket (HTTP, POST /v1/<method>) and over NATS (subject
// agent.<group>.<index>.<method>). Long work is an Operation: accepted to disk
// at once and then followed with MethodWait, which may be repeated over either
// transport.
package api
