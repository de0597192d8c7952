// Command dns runs the deployment's name server.
package main

import (
	"context"
	"os"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/dns"
)

func main() {
	os.Exit(component.Main("dns", func(ctx context.Context, p component.Process) error {
		s, err := dns.New(p)
		if err != nil {
			return err
		}
		return s.Run(ctx)
	}))
}
