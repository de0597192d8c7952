package render

import (
	"testing"
	"testing/fstest"

	"github.com/clusterworks/deploy/manifests"
)

// A raw file arrives byte by byte, and is not printed in a plan if it is binary.
func TestRawFiles(t *testing.T) {
	files := map[string]string{"logo.png": "\x89PNG\r\n\x00\x1b[31m", "curl.sh": "curl -w '%{http_code}' ${1:-x}\n"}
	jobs := fstest.MapFS{"web/job.hcl": {Data: []byte("template \"logo.png\" { raw = true }\ntemplate \"curl.sh\" { raw = true }\n")}}
	for name, content := range files {
		jobs["web/templates/"+name] = &fstest.MapFile{Data: []byte(content)}
	}
	m, diags := manifests.Load(fstest.MapFS{"m.hcl": {Data: []byte("deployment \"d\" {}\ninfrastructure \"local\" {}\ngroup \"g\" {\n  job \"web\" {}\n}\n")}}, "m.hcl", manifests.Options{Jobs: jobs})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	facts := manifests.Facts{Instances: map[string][]manifests.Instance{"g": {{Group: "g", Address: "127.0.0.2", AgentDir: "/vm"}}}}
	rendered, all := New(m, facts, []byte("key"), nil).All([]Wanted{{m.Group("g"), facts.Instances["g"][0]}})
	if all[0].HasErrors() {
		t.Fatal(all[0])
	}
	for _, f := range rendered[0].Spec.Jobs[0].Files {
		if string(f.Content) != files[f.Path] {
			t.Errorf("%s is %q", f.Path, f.Content)
		}
		shown := Redact(f.Content, f.Sensitive)
		if got := rendered[0].Files[FileKey{"web", f.Path}].String(); got != shown {
			t.Errorf("%s is shown as %q and %q", f.Path, got, shown)
		}
		want := "(binary, 13 bytes, sha256 5d2a8a4c9ee8)\n"
		if f.Path == "curl.sh" {
			want = files[f.Path]
		}
		if len(shown) != len(want) || f.Path == "curl.sh" && shown != want {
			t.Errorf("%s is shown as %q", f.Path, shown)
		}
	}
}
