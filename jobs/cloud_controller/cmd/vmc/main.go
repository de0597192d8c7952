// Command vmc pushes apps to a cloud controller and looks after them.
package main

import (
	"os"

	"github.com/clusterworks/deploy/jobs/cloud_controller/vmc"
)

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version = "devel"

func main() { os.Exit(vmc.Main(version, os.Args[1:])) }
