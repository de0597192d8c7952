// Command shim is the parent of one process; see package shim. It is a program
// of its own because there are as many of it as there are processes: it takes a
// third of the memory that the agent would take in its place.
package main

import (
	"os"

	"github.com/clusterworks/deploy/agent/internal/shim"
)

func main() { os.Exit(shim.Main(os.Args[1:])) }
