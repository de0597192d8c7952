// Command cloud_controller runs a cloud controller.
package main

import (
	"context"
	"os"

	"github.com/clusterworks/deploy/jobs/cloud_controller"
	"github.com/clusterworks/deploy/jobs/component"
)

func main() {
	os.Exit(component.Main("cloud_controller", func(ctx context.Context, p component.Process) error {
		r, err := cloudcontroller.New(p)
		if err != nil {
			return err
		}
		return r.Run(ctx)
	}))
}
