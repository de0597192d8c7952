// Command warden is the parent of one instance of an app; see package warden. It
// is a program of its own because there are as many of it as there are
// instances: it takes a fraction of the memory that the DEA would take in its
// place.
package main

import (
	"os"

	"github.com/clusterworks/deploy/jobs/confine/warden"
)

func main() { os.Exit(warden.Main(os.Args[1:])) }
