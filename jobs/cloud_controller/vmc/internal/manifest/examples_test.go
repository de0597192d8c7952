package manifest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/goccy/go-yaml"
)

// TestExamplesAreReadBy2012 (S3-3): the manifests of the examples have the form that the
// vmc of 2012 wrote, a map from paths to apps. At a list it breaks off, whatever the
// command is.
func TestExamplesAreReadBy2012(t *testing.T) {
	files, err := filepath.Glob("../../../../../examples/apps/*/manifest.yml")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d manifests, %v", len(files), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var old struct {
			Applications map[string]map[string]any `yaml:"applications"`
		}
		if err := yaml.Unmarshal(data, &old); err != nil || len(old.Applications) != 1 {
			t.Errorf("%s: %d apps by path, %v", file, len(old.Applications), err)
			continue
		}
		m, err := Parse(data)
		if err != nil || len(m.Apps) != 1 {
			t.Errorf("%s: %+v, %v", file, m, err)
			continue
		}
		for path, app := range old.Applications {
			if app["path"] != nil || app["name"] != m.Apps[0].Name || filepath.Clean(path) != filepath.Clean(m.Apps[0].Path) {
				t.Errorf("%s: %q has %v, read as %+v", file, path, app, m.Apps[0])
			}
		}
	}
}
