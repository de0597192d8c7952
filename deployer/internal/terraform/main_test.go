package terraform

import (
	"os"
	"testing"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

// TestMain lets the test binary stand for deploy: the local provider starts
// inits and publications with it, and engines start it as a provider.
func TestMain(m *testing.M) {
	switch {
	case localvm.IsProvider(os.Args[0]):
		os.Exit(localvm.ProviderMain())
	case len(os.Args) > 1 && os.Args[1] == "local-init":
		os.Exit(localvm.InitMain(os.Args[2:]))
	case len(os.Args) > 1 && os.Args[1] == "local-publish":
		os.Exit(localvm.PublishMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}
