// Command dea runs instances of apps. "dea check-evacuation -c FILE" says whether
// other DEAs have room for those of this one, "dea check-isolation -c FILE" whether
// the machine keeps apps apart as the configuration requires.
package main

import (
	"context"
	"io"
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
	checks := map[string]func(context.Context, component.Process, io.Writer) error{
		"check-evacuation": dea.CheckEvacuation, "check-isolation": dea.CheckIsolation,
	}
	if len(os.Args) > 1 && checks[os.Args[1]] != nil {
		check := checks[os.Args[1]]
		os.Args = append(os.Args[:1:1], os.Args[2:]...)
		run = func(ctx context.Context, p component.Process) error { return check(ctx, p, os.Stdout) }
	}
	os.Exit(component.Main("dea", run))
}
