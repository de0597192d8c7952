// Command deploy makes a cluster what its manifest says.
package main

import (
	"os"

	"github.com/clusterworks/deploy/deployer/internal/cli"
	"github.com/clusterworks/deploy/jobs"
	"github.com/clusterworks/deploy/templates"
)

func main() {
	os.Exit(cli.Main(os.Args, cli.Builtin{Jobs: jobs.FS, Templates: templates.FS}))
}
