// Package dea runs instances of apps: the Droplet Execution Agent of the
// original (docs/protocol.md), with the same messages (jobs/wire). internal/core
// is its pure state machine; internal/bits fetches droplets; jobs/confine/warden is
// the parent process of one app, which outlives the DEA. This package ties them
// to the bus, the disk and the component base of jobs/component.
//
// dea.go is the loop and the bus, attend.go what happens to one instance,
// recover.go the way back after a crash of the DEA itself, drain.go the way out,
// evacuation.go whether the others have room, sample.go the quotas, files.go the
// file server, env.go what an app is told, ports.go, users.go and isolation.go
// what it gets of the machine.
package dea
