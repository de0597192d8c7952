package deployer_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
)

var update = flag.Bool("update", false, "write the golden files of testdata/diagnostics")

// builtInLine is a place in a built-in job.
var builtInLine = regexp.MustCompile(`\b((?:nats|nginx|router)/job\.hcl:)\d+`)

// What `deploy validate` prints of the mistakes that users are most likely to
// make: in the manifest, in a job of their own, in a template.
func TestDiagnostics(t *testing.T) {
	t.Parallel()
	folders, err := filepath.Glob("testdata/diagnostics/*/cluster.hcl")
	if err != nil || len(folders) < 40 {
		t.Fatalf("%d mistakes, want 40 or more (%v)", len(folders), err)
	}
	programs := deployer.ProgramFolder(t, "agent", "lb_check", "nats", "router")
	// Diagnostics name the jobs there are: those of long ago, or each new one would
	// change them.
	jobs := t.TempDir()
	for _, name := range []string{"nats", "nginx", "router"} {
		if err := os.CopyFS(filepath.Join(jobs, name), os.DirFS("../jobs/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, manifest := range folders {
		dir := filepath.Dir(manifest)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			d, err := deployer.New(deployer.Config{
				Manifest: manifest, StateDir: filepath.Join(t.TempDir(), "state"),
				Jobs: os.DirFS(jobs), Templates: os.DirFS("../templates"), Packages: programs,
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err = d.Validate(); err == nil {
				t.Fatal("it is valid")
			}
			var out bytes.Buffer
			views.Error(&out, err, false, 78)
			// Lines are cut to the width, with blanks left at their ends.
			lines := strings.Split(out.String(), "\n")
			for i := range lines {
				lines[i] = strings.TrimRight(lines[i], " ")
			}
			// Built-in jobs grow; a mistake in a manifest does not change with them.
			got := builtInLine.ReplaceAllString(strings.Join(lines, "\n"), "${1}LINE")
			golden := filepath.Join(dir, "want.txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("want:\n%s\ngot:\n%s", want, got)
			}
			if !strings.Contains(got, dir+"/") {
				t.Errorf("it does not tell where:\n%s", got)
			}
		})
	}
}
