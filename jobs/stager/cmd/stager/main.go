// Command stager makes droplets of apps. With run-plugin as its first argument
// it is the process of one plugin.
package main

import (
	"context"
	"os"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/stager"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == stager.RunPlugin {
		os.Exit(stager.PluginMain(os.Args[2:]))
	}
	os.Exit(component.Main("stager", func(ctx context.Context, p component.Process) error {
		s, err := stager.New(p)
		if err != nil {
			return err
		}
		return s.Run(ctx)
	}))
}
