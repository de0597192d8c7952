// Command service_broker offers services that live elsewhere.
package main

import (
	"os"

	"github.com/clusterworks/deploy/jobs/component"
	servicebroker "github.com/clusterworks/deploy/jobs/service_broker"
)

func main() { os.Exit(component.Main("service_broker", servicebroker.Run)) }
