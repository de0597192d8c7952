package localvm

import (
	"os"
	"testing"
)

// TestMain lets the test binary stand for deploy, which inits and publications
// are subcommands of.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "local-init":
			os.Exit(InitMain(os.Args[2:]))
		case "local-publish":
			os.Exit(PublishMain(os.Args[2:]))
		}
	}
	os.Exit(m.Run())
}
