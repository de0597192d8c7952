// Command service_gateway is the gateway of a service; which one, its configuration
// says. With one of gateway.Commands as its first argument it asks the gateway that
// runs with that configuration: "service_gateway check-orphans -c FILE".
package main

import (
	"context"
	"os"
	"slices"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/gateway"
)

func main() {
	run := gateway.Run
	if len(os.Args) > 3 && slices.Contains(gateway.Commands, os.Args[1]) && os.Args[2] == "-c" {
		command, args := os.Args[1], os.Args[4:]
		os.Args = []string{os.Args[0], "-c", os.Args[3]}
		run = func(ctx context.Context, p component.Process) error {
			return gateway.Operate(ctx, p, command, args, os.Stdout)
		}
	}
	os.Exit(component.Main("service_gateway", run))
}
