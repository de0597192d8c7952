package manifests

import (
	"bytes"
	"os"
	"testing"

	"github.com/hashicorp/hcl/v2"
)

// loadFile loads a manifest of testdata with the jobs there.
func loadFile(t testing.TB, path string) *Manifest {
	t.Helper()
	m, diags := Load(path, Options{Jobs: os.DirFS("testdata/jobs")})
	if len(diags) > 0 {
		t.Fatalf("%s:\n%s", path, shown(t, m.Files, diags))
	}
	return m
}

// shown is what a user sees of diagnostics.
func shown(t testing.TB, files map[string]*hcl.File, diags hcl.Diagnostics) string {
	t.Helper()
	var out bytes.Buffer
	if err := hcl.NewDiagnosticTextWriter(&out, files, 0, false).WriteDiagnostics(diags); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestLoadDesign(t *testing.T) {
	m := loadFile(t, "testdata/valid/design.hcl")
	t.Logf("%+v", m)
	m = loadFile(t, "testdata/valid/cluster.hcl")
	t.Logf("%+v", m)
}
