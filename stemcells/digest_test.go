//go:build vm

package stemcells_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSameInputsSameDigest builds the base once more and compares it with the one that
// STEMCELL names; if Debian has other packages since that was built, it builds twice.
func TestSameInputsSameDigest(t *testing.T) {
	first := strings.TrimSuffix(os.Getenv("STEMCELL"), ".qcow2")
	read := func(path string) string {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("STEMCELL is not what stemcells/build made: %v; type make test-vm", err)
		}
		return string(data)
	}
	build := func() string {
		out := strings.Fields(run(t, "sh", "./build", "--force", "--out", t.TempDir(), "base"))
		return strings.TrimSuffix(out[len(out)-1], ".qcow2")
	}
	second := build()
	if read(first+".packages") != read(second+".packages") {
		t.Log("Debian has other packages since the first one was built")
		first, second = second, build()
	}
	for _, what := range []string{".packages", ".root.sha256", ".qcow2.sha256"} {
		if a, b := read(first+what), read(second+what); a != b {
			t.Errorf("%s of %s differs:\n%s%s", what, filepath.Base(first), a, b)
		}
	}
}
