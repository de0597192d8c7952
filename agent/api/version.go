package api

// Version is the version of this API. It grows with every change that one side
// must know of to be understood by the other; a field that may be ignored is
// none. Agents tell theirs in Inventory.
//
// A deployer asks an agent of a lower version for nothing but its Inventory
// before it has put its own in that one's place, and leaves an agent of a higher
// version alone: a newer deployer has put it there. So of every version, past and
// to come, an Inventory must be readable, and of it Agent, DeploymentID, Instance,
// VMID, Epoch and Active mean what they mean now.
const Version = 1
