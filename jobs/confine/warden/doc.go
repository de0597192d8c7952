// Package warden runs one instance of an app. A warden is a small process of its
// own (jobs/confine/cmd/warden), so that a DEA may crash or be replaced without
// touching the apps: it is the parent of the app, ends all that the app has
// started, and records how it ended. Where the kernel allows it, the warden is
// process 1 of a PID namespace of its own: nothing of the app can outlive it.
//
// The warden's folder, which the app cannot see, holds
//
//	spec.json    what to run, written by the DEA before the start
//	start.json   the warden's pid, start time and boot id (Started)
//	exit.json    how the app ended (Ended)
//	warden.sock  answers as long as the warden lives
//	sessions.sock  where sessions are asked for, commands beside the app (session.go)
//	stderr       what the warden itself had to say, empty as a rule
//	root/        where the app's file system is put together
//
// The DEA makes the socket and hands it down listening: a refused connection
// means that the warden is gone, an end of file on a connection that it ends now.
// By then exit.json is written and nothing of the app is left.
//
// What it has in common with the shim of the agent is in agent/host/parent. Here,
// client.go is the side of who starts a warden, main.go runs in the warden,
// records.go serves both.
package warden
