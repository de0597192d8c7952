// Package supervise keeps processes running. Each process has a shim
// (internal/shim) as its parent and a goroutine here that owns its state; the
// Supervisor may be closed, or killed, and opened again without a process
// noticing.
//
// On disk, below the agent's folder:
//
//	processes/<job>/<process>.json        what is wanted and from which spec; survives a reboot
//	run/<job>/<process>.shim/             the shim's records of the last start (package shim)
//	run/<job>/<process>.shim/history.json restarts and last exit; gone at a reboot
//	run/<job>/<process>.sock              the process's control socket
//	log/<job>/<process>.log               its output, rotated to .log.1 and so on by the shim
//
// Decisions are apart from deeds: state.go says which state follows which and
// what is to be done, restarts.go when an ended process starts again, checks.go
// what the answers of checks amount to, rule.go whether the instance is healthy.
// They touch neither clock, disk nor process. process.go does what they say.
package supervise
