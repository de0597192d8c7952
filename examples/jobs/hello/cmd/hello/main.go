// Command hello runs the example's web server.
package main

import (
	"context"
	"os"

	"github.com/clusterworks/deploy/examples/jobs/hello"
	"github.com/clusterworks/deploy/jobs/component"
)

func main() {
	os.Exit(component.Main("hello", func(ctx context.Context, p component.Process) error {
		h, err := hello.New(p)
		if err != nil {
			return err
		}
		return h.Run(ctx)
	}))
}
