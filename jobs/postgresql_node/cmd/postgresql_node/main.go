// Command postgresql_node makes instances of the service postgresql.
package main

import (
	"os"

	"github.com/clusterworks/deploy/jobs/component/node"
	postgresqlnode "github.com/clusterworks/deploy/jobs/postgresql_node"
)

func main() { os.Exit(node.Main(postgresqlnode.Definition())) }
