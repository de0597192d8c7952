// Command static_server serves files: it goes into the droplets of static apps.
package main

import (
	"os"

	"github.com/clusterworks/deploy/jobs/stager/staticserver"
)

func main() { os.Exit(staticserver.Main()) }
