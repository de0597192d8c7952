// Command lb_check checks the certificates of a configuration of nginx and puts
// them where it names them.
package main

import (
	"os"

	"github.com/clusterworks/deploy/jobs/nginx"
)

func main() { os.Exit(nginx.Main(os.Args[1:], os.Stderr)) }
