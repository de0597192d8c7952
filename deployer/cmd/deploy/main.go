// Command deploy makes a cluster what its manifest says.
package main

import (
	"os"

	"deploy/deployer/internal/cli"
	"deploy/jobs"
	"deploy/templates"
)

func main() {
	os.Exit(cli.Main(os.Args, cli.Builtin{Jobs: jobs.FS, Templates: templates.FS}))
}
