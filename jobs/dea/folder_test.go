package dea

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/jobs/confine/warden"
)

// What is wrong with a droplet is said in words, with no error that is none.
func TestMakeFolderRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		entry entry
		want  string
	}{
		"large startup":       {entry{name: "startup", text: strings.Repeat("x", maxStartup+1), mode: 0o500}, "its file startup has more than 1048576 bytes"},
		"startup is a folder": {entry{name: "startup/x", text: "x"}, "cannot read its file startup"},
		"no startup":          {entry{name: "x", text: "x"}, "its file startup"},
		"large":               {entry{name: "x", text: strings.Repeat("x", 3<<20)}, "unpacked it is larger than the 2 MB"},
		"outside":             {entry{name: "../x", text: "x"}, `its entry "../x" is outside`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "droplet.tgz")
			if err := os.WriteFile(file, archive(t, tc.entry), 0o600); err != nil {
				t.Fatal(err)
			}
			var spec warden.Spec
			spec.Dir, spec.Limits.DiskBytes = filepath.Join(dir, "app"), 2<<20
			err := makeFolder(context.Background(), file, spec, "")
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "%!") {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}
