// Package localvm makes "VMs" on the machine it runs on: the infrastructure
// behind templates/local. A VM is a folder, an address of its own in
// 127.0.0.0/8 or on a bridge, and an init: a detached process that serves SSH and SFTP on that
// address and keeps the VM's boot services running.
//
// Three programs do this, each in a package of its own, which know only this one:
//
//	provider   the Terraform provider: makes, changes and deletes VMs below one folder
//	vminit     the init of a VM: SSH server, boot services
//	publish    forwards an address of this machine to VMs
//
// This package has what they share: how a detached process is started, found and
// ended (daemon.go), how all that carries a VM's id is found and ended
// (processes.go), namespaces (isolation.go), bridges (network.go), and what is in a
// folder (folder.go).
//
// Everything that a VM runs has DEPLOY_VM=<id> in its environment, so whatever
// it left behind is found and ended with it. Where the kernel allows it, the init
// is process 1 of a PID namespace, with a /proc of its own, and everything ends
// with it; elsewhere, or if that is asked for, all are plain processes of the
// current user, with no isolation but the address and the folder.
package localvm
