// Command deploy makes a cluster what its manifest says.
package main

import (
	"os"

	"github.com/clusterworks/deploy/deployer/internal/cli"
	"github.com/clusterworks/deploy/jobs"
	"github.com/clusterworks/deploy/templates"
)

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version string

func main() {
	os.Exit(cli.Main(os.Args, cli.Builtin{Version: version, Jobs: jobs.FS, Templates: templates.FS}))
}
