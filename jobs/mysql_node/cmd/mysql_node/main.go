// Command mysql_node makes instances of the service mysql.
package main

import (
	"os"

	"github.com/clusterworks/deploy/jobs/component/node"
	mysqlnode "github.com/clusterworks/deploy/jobs/mysql_node"
)

func main() { os.Exit(node.Main(mysqlnode.Definition())) }
