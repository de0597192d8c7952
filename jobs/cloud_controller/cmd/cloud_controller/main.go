// Command cloud_controller runs a cloud controller. "cloud_controller census -c FILE"
// says what lives in its own database.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/clusterworks/deploy/jobs/cloud_controller"
	"github.com/clusterworks/deploy/jobs/component"
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == "census" && os.Args[2] == "-c" {
		if err := cloudcontroller.Census(context.Background(), os.Args[3], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "cloud_controller:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(component.Main("cloud_controller", func(ctx context.Context, p component.Process) error {
		r, err := cloudcontroller.New(p)
		if err != nil {
			return err
		}
		return r.Run(ctx)
	}))
}
