package source

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/clusterworks/deploy/manifests"
)

// Diagnostics name files by the paths that the user typed, also of files that
// cannot be read.
func TestManifestPaths(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for name, text := range map[string]string{"one.hcl": "x", "folder/a.hcl": "x", "folder/.hidden.hcl": "y", "good.hcl": `deployment "d" {}`} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for typed, want := range map[string]string{
		"one.hcl":                           "one.hcl:1,",
		"./one.hcl":                         "./one.hcl:1,",
		"folder/../one.hcl":                 "folder/../one.hcl:1,",
		filepath.Join(dir, "one.hcl"):       filepath.Join(dir, "one.hcl") + ":1,",
		"folder":                            "folder/a.hcl:1,",
		"./folder/":                         "folder/a.hcl:1,",
		".":                                 "one.hcl:1,",
		dir:                                 filepath.Join(dir, "one.hcl") + ":1,",
		"none.hcl":                          "none.hcl: no such file or directory",
		"folder/none.hcl":                   "folder/none.hcl: no such file or directory",
		filepath.Join(dir, "x", "none.hcl"): filepath.Join(dir, "x", "none.hcl") + ": no such file or directory",
	} {
		d := &Source{Options: Options{Manifest: typed, Jobs: fstest.MapFS{}}}
		if _, diags := d.read(); !strings.Contains(diags.Error(), want) {
			t.Errorf("%s gives %v, want %q", typed, diags, want)
		}
	}
	d := &Source{Options: Options{Manifest: "good.hcl", VarFiles: []string{"missing.vars"}, Jobs: fstest.MapFS{}}}
	_, diags := d.read()
	if text := diags.Error(); !strings.Contains(text, "missing.vars: no such file") || len(diags) != 2 { // and there is no infrastructure
		t.Errorf("a missing file of variables gives %v", diags)
	}
}

// A revision is loaded from memory: nothing is written, so no folder is needed.
func TestRevisionNeedsNoFolder(t *testing.T) {
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "none"))
	s := &revision{files: map[string][]byte{
		"manifest/a.hcl":            []byte("deployment \"d\" {}\ninfrastructure \"local\" {}\nrelease \"mine\" { path = \"../jobs\" }\nrelease \"unused\" { path = \"../none\" }\n"),
		"manifest/b.hcl":            []byte("group \"g\" {\n  job \"built_in\" {}\n  job \"own\" {}\n}\n"),
		"manifest/override.hcl":     []byte("group \"g\" { instances = 3 }\n"),
		"jobs/built_in/job.hcl":     nil,
		"releases/mine/own/job.hcl": []byte("description = \"own\"\n"),
	}}
	m, err := s.load(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if g := m.Group("g"); g.Instances != 3 || len(g.Jobs) != 2 || g.Jobs[1].Spec.Release != "mine" || len(m.Sources) != 3 {
		t.Errorf("loaded %+v from %d files", g, len(m.Sources))
	}
}

// A revision keeps the bases of jobs, so that the jobs can be loaded from it.
func TestRevisionKeepsBases(t *testing.T) {
	jobs := fstest.MapFS{
		"web/job.hcl":           {Data: []byte("bases = [\"shared\"]\ntemplate \"web.yml\" {}\n")},
		"web/templates/web.yml": {Data: []byte("a: 1\n")},
		"shared/base.hcl":       {Data: []byte("property \"port\" { default = 80 }\n")},
	}
	job, diags := manifests.LoadJob(jobs, "web")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	files := map[string][]byte{}
	if err := keepJob(files, "jobs", job); err != nil {
		t.Fatal(err)
	}
	for name, f := range jobs {
		if string(files["jobs/"+name]) != string(f.Data) {
			t.Errorf("%s is kept as %q", name, files["jobs/"+name])
		}
	}
}
