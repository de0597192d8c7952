// Command router runs the cluster's HTTP router.
package main

import (
	"context"
	"os"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/router"
)

func main() {
	os.Exit(component.Main("router", func(ctx context.Context, p component.Process) error {
		r, err := router.New(p)
		if err != nil {
			return err
		}
		return r.Run(ctx)
	}))
}
