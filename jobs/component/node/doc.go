// Package node is the base of service nodes: programs that make a service's
// instances, such as databases, and the users of apps that are bound to them.
//
// A service of one's own is a Service; this package does the rest: it keeps a
// record of every instance on disk, announces what it can take, answers each
// operation of a gateway, and removes what an operation has left half-made.
// gateway, its neighbour, is the side of the cloud controller. Begin with Service,
// then Run. The job redis_node is one to look at.
package node
