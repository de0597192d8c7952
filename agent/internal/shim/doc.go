// Package shim is the parent of one process. A shim is a small process of its
// own (agent/cmd/shim, or the agent's program started as "agent shim"; both with
// "--dir DIR"), so that an agent may crash or be replaced without touching what
// it supervises: the shim owns the process, its log and the records of its start
// and its end.
//
// DIR holds
//
//	spec.json   what to start, written by the agent before each start
//	start.json  pid, start time and boot id of the process (Started)
//	exit.json   how it ended (Ended)
//	shim.sock   answers as long as the shim lives
//	stderr      what the shim itself had to say, empty as a rule
//
// The agent makes the socket and hands it down listening, so that somebody
// answers on it exactly as long as the shim is there: a refused connection
// means that it is gone, an end of file on a connection that it ends now. By
// then exit.json is written, the log is complete and, unless the kill mode is
// "process", nothing that the process has started is left.
//
// If the shim itself is killed, the kernel kills the process (PDEATHSIG); what
// that one had started is found by Sweep.
//
// What a shim has in common with the parent of an app (jobs/confine/warden) is in
// agent/host/parent. Here, client.go and records.go are the agent's side, main.go
// and limits.go run in the shim.
package shim
