// Command dea runs instances of apps. "dea check-evacuation -c FILE" says
// whether other DEAs have room for those of this one.
package main

import (
	"context"
	"os"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/dea"
)

func main() {
	run := func(ctx context.Context, p component.Process) error {
		d, err := dea.New(p)
		if err != nil {
			return err
		}
		return d.Run(ctx)
	}
	if len(os.Args) > 1 && os.Args[1] == "check-evacuation" {
		os.Args = append(os.Args[:1:1], os.Args[2:]...)
		run = func(ctx context.Context, p component.Process) error {
			return dea.CheckEvacuation(ctx, p, os.Stdout)
		}
	}
	os.Exit(component.Main("dea", run))
}
