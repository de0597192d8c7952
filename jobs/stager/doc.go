// Package stager makes droplets of apps. It takes requests over the bus (messages
// in jobs/wire, the original's contract in docs/protocol.md), fetches an app's
// files, runs a plugin that makes a droplet of them, and uploads it to the cloud
// controller.
//
// stager.go ties requests to the component base of jobs/component; task.go is
// the way of one app; transfer.go fetches and delivers; internal/plugins has a
// plugin a kind of app; internal/archive unpacks and packs.
package stager
