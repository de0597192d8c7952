// Command uaa is the user component. "uaa census -c FILE" says what lives in its own
// database.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/uaa"
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == "census" && os.Args[2] == "-c" {
		if err := uaa.Census(context.Background(), os.Args[3], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "uaa:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(component.Main("uaa", func(ctx context.Context, p component.Process) error {
		u, err := uaa.New(p)
		if err != nil {
			return err
		}
		return u.Run(ctx)
	}))
}
