// Command uaa is the user component.
package main

import (
	"context"
	"os"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/uaa"
)

func main() {
	os.Exit(component.Main("uaa", func(ctx context.Context, p component.Process) error {
		u, err := uaa.New(p)
		if err != nil {
			return err
		}
		return u.Run(ctx)
	}))
}
