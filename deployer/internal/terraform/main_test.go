package terraform

import (
	"os"
	"testing"

	"github.com/clusterworks/deploy/deployer/internal/localvm/provider"
	"github.com/clusterworks/deploy/deployer/internal/localvm/publish"
	"github.com/clusterworks/deploy/deployer/internal/localvm/vminit"
)

// TestMain lets the test binary stand for deploy: the local provider starts
// inits and publications with it, and engines start it as a provider.
func TestMain(m *testing.M) {
	switch {
	case provider.IsProvider(os.Args[0]):
		os.Exit(provider.Main())
	case len(os.Args) > 1 && os.Args[1] == "local-init":
		os.Exit(vminit.Main(os.Args[2:]))
	case len(os.Args) > 1 && os.Args[1] == "local-publish":
		os.Exit(publish.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}
