// Package network gives a confined program a network of its own: a network namespace
// in which only it listens, and from which nothing leads out but what its warden
// carries. The warden stands in both networks. What comes in on one of the program's
// ports it passes on to it; what the program dials, the kernel sends to the warden,
// which looks at the Policy and dials itself. Nothing of the machine is changed for
// it: no interface, no route, no rule of its firewall.
//
// policy.go decides, namespace.go and rules.go make the namespace, relay.go and
// dns.go carry, names.go finds out the host name that a program asks for.
package network
