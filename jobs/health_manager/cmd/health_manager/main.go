// Command health_manager keeps the cluster's apps as their users want them.
package main

import (
	"context"
	"os"

	"github.com/clusterworks/deploy/jobs/component"
	healthmanager "github.com/clusterworks/deploy/jobs/health_manager"
)

func main() {
	os.Exit(component.Main("health_manager", func(ctx context.Context, p component.Process) error {
		m, err := healthmanager.New(p)
		if err != nil {
			return err
		}
		return m.Run(ctx)
	}))
}
