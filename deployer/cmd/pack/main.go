// Command pack is the last step of `make build`: it turns the programs built
// for one platform into what the deployer puts on VMs.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/clusterworks/deploy/deployer/internal/packages"
)

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: pack PROGRAMS_DIR PACKAGES_DIR OS/ARCH PROGRAM...")
		os.Exit(2)
	}
	goos, goarch, ok := strings.Cut(os.Args[3], "/")
	if !ok {
		fmt.Fprintf(os.Stderr, "pack: %q is not of the form OS/ARCH, such as linux/amd64\n", os.Args[3])
		os.Exit(2)
	}
	result, err := packages.Pack(os.Args[1], os.Args[2], goos, goarch, os.Args[4:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
	fmt.Printf("%s: %s\n", os.Args[3], result)
}
