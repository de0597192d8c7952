// Command redis_node makes instances of the service redis.
package main

import (
	"os"

	"github.com/clusterworks/deploy/jobs/component/node"
	redisnode "github.com/clusterworks/deploy/jobs/redis_node"
)

func main() { os.Exit(node.Main(redisnode.Definition())) }
