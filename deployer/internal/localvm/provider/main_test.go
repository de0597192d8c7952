package provider

import (
	"os"
	"testing"

	"github.com/clusterworks/deploy/deployer/internal/localvm/publish"
	"github.com/clusterworks/deploy/deployer/internal/localvm/vminit"
)

// TestMain lets the test binary stand for deploy, which inits and publications
// are subcommands of.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "local-init":
			os.Exit(vminit.Main(os.Args[2:]))
		case "local-publish":
			os.Exit(publish.Main(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}
