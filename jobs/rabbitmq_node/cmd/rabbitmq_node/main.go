// Command rabbitmq_node makes instances of the service rabbitmq.
package main

import (
	"os"

	"github.com/clusterworks/deploy/jobs/component/node"
	rabbitmqnode "github.com/clusterworks/deploy/jobs/rabbitmq_node"
)

func main() { os.Exit(node.Main(rabbitmqnode.Definition())) }
