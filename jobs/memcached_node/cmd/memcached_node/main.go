// Command memcached_node makes instances of the service memcached.
package main

import (
	"os"

	"github.com/clusterworks/deploy/jobs/component/node"
	memcachednode "github.com/clusterworks/deploy/jobs/memcached_node"
)

func main() { os.Exit(node.Main(memcachednode.Definition())) }
