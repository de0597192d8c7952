// Command stager makes droplets of apps. With run-plugin as its first argument
// it is the process of one plugin; "stager check-isolation -c FILE" says whether the
// machine keeps plugins apart as the configuration requires.
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
	run := func(ctx context.Context, p component.Process) error {
		s, err := stager.New(p)
		if err != nil {
			return err
		}
		return s.Run(ctx)
	}
	if len(os.Args) > 1 && os.Args[1] == "check-isolation" {
		os.Args = append(os.Args[:1:1], os.Args[2:]...)
		run = func(ctx context.Context, p component.Process) error { return stager.CheckIsolation(ctx, p, os.Stdout) }
	}
	os.Exit(component.Main("stager", run))
}
