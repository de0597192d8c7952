// Package component is the base of all components of the cluster: it reads the
// configuration file (the YAML keys of the original, docs/protocol.md), keeps the
// connection to the message bus, announces the component and serves its status,
// answers the agent on the control socket, and ends in order: readiness fails,
// routes are withdrawn, requests in progress are finished.
//
// A component's program is a stub around Main; its package opens a Component
// and passes to Run the parts that shall run. The messages are in jobs/wire. The
// contract with the agent is described in README.md; neither side imports the
// other.
package component
