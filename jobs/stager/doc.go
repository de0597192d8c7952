// Package stager makes droplets of apps: it takes requests over the bus (messages
// in jobs/wire), fetches an app's files, has a plugin turn them into what a DEA
// can run, and gives that to the cloud controller.
//
// stager.go ties requests to the component base of jobs/component; task.go is
// the way of one app; transfer.go fetches and delivers; internal/plugins has a
// plugin a kind of app; internal/archive unpacks and packs.
package stager
