// Package localvm makes "VMs" on the machine it runs on: the infrastructure
// behind templates/local. A VM is a folder, an address of its own in
// 127.0.0.0/8, and an init: a detached process that serves SSH and SFTP on that
// address and keeps the VM's boot services running.
//
//	provider.go, machine.go, disk.go, publication.go   the Terraform provider
//	serve.go       how the engine reaches it: by reattach, or as a mirror
//	host.go        makes, changes, ends VMs below one folder
//	addresses.go   which address a new VM gets
//	daemon.go      starts, finds and ends the detached processes
//	processes.go   finds and ends everything that carries a VM's id
//	init*.go       the init: InitMain, its SSH server, its boot services
//	publish.go     PublishMain: forwards a TCP port to VMs
//
// Everything that a VM runs has DEPLOY_VM=<id> in its environment, so whatever
// it left behind is found and ended with it. Where the kernel lets us, the init
// is process 1 of a PID namespace, with a /proc of its own, and everything ends
// with it (isolation.go); else, or if that is asked for, all are plain processes
// of the current user, with no isolation but the address and the folder.
package localvm
