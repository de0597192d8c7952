// Command vmc pushes apps to a cloud controller and looks after them.
package main

import (
	"os"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/vmc"
)

func main() { os.Exit(vmc.Main(os.Args[1:])) }
