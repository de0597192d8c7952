// Command lb_check checks a configuration of nginx before it is used, and proves
// that it serves every domain once it is.
package main

import (
	"os"

	"github.com/clusterworks/deploy/jobs/nginx"
)

func main() { os.Exit(nginx.Main(os.Args[1:], os.Stderr)) }
