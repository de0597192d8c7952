// Package gateway is the base of service gateways, and all of one: between the cloud
// controller, which asks over HTTP for instances of a service and for users of them,
// and the service's nodes, which it asks over the bus to make them.
//
// What differs between services is in the configuration file, so one program,
// service_gateway, is the gateway of each. node, its neighbour, is the other side.
// Decisions are in pool.go, orphans.go and handles.go, without clock and network;
// begin with gateway.go. README.md says how an app comes to its database.
package gateway
