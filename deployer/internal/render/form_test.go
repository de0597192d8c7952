package render

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/clusterworks/deploy/manifests"
)

// The blocks of a job and of a manifest that formOf changes.
const (
	formJob = `
property "late" {
  type      = number
  default   = 2
  on_change = "restart"
}
property "early" {
  type      = number
  default   = 1
  on_change = "restart"
}
property "settings" {
  type    = map(string)
  default = {}
}
template "b.sh" { on_change = "restart" }
template "a.sh" { on_change = "restart" }
template "b.yml" { on_change = "reload" }
template "a.yml" { on_change = "reload" }
listen "second" { port = 7002 }
listen "first" { port = 7001 }
hook "pre_start" { command = ["/bin/true"] }
hook "errand" {
  name    = "two"
  command = ["/bin/true", "2"]
}
hook "errand" {
  name    = "one"
  command = ["/bin/true", "1"]
}
process "web" {
  command = ["/bin/web"]
  env     = { B = "2", A = "1" }
  check "tcp" { target = "7002" }
  check "tcp" { target = "7001" }
  check "exec" { command = ["/bin/true"] }
  reload { signal = "HUP" }
}
process "other" { command = ["/bin/other"] }
`
	formManifest = `deployment "d" {}
infrastructure "local" {}
variable "size" { default = 3 }
locals {
  word = "w"
}
group "g" {
  job "web" {
    properties {
      late     = var.size
      settings = { y = "2", x = local.word }
    }
  }
  job "side" {}
}
`
)

// TestFormChangesNothing: what means the same is the same, however it is written.
// Neither is anything restarted or reloaded, nor is there another generation.
func TestFormChangesNothing(t *testing.T) {
	type digests struct{ generation, processes string }
	render := func(job, manifest string) digests {
		t.Helper()
		files := fstest.MapFS{"web/job.hcl": {Data: []byte(job)}, "side/job.hcl": {Data: []byte(`process "side" { command = ["/bin/side"] }`)}}
		for _, name := range []string{"a.sh", "b.sh", "a.yml", "b.yml"} {
			files["web/templates/"+name] = &fstest.MapFile{Data: []byte(name + " ${jsonencode(property.settings)}")}
		}
		m, diags := manifests.Load(fstest.MapFS{"m.hcl": {Data: []byte(manifest)}}, "m.hcl", manifests.Options{Jobs: files})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		in, diags := New(m, manifests.Facts{}, []byte("key"), nil).Instance(m.Group("g"), manifests.Instance{Group: "g", Address: "127.0.0.2", AgentDir: "/vm0/agent"})
		if diags.HasErrors() || !in.Known {
			t.Fatal(diags, in.Known)
		}
		d := digests{generation: in.Spec.Generation}
		for _, name := range []string{"side/side", "web/other", "web/web"} {
			for _, j := range in.Spec.Jobs {
				for _, p := range j.Processes {
					if j.Name+"/"+p.Name == name {
						d.processes += name + " " + p.Digest + " " + p.ReloadDigest + "\n"
					}
				}
			}
		}
		return d
	}
	was := render(formJob, formManifest)

	swap := func(text, a, b string) string {
		t.Helper()
		if strings.Count(text, a) != 1 || strings.Count(text, b) != 1 {
			t.Fatalf("%q or %q is not there just once", a, b)
		}
		return strings.NewReplacer(a, b, b, a).Replace(text)
	}
	late, early, _ := strings.Cut(formJob[strings.Index(formJob, `property "late"`):strings.Index(formJob, `property "settings"`)], "property \"early\"")
	for name, job := range map[string]string{
		"templates that restart":       swap(formJob, `template "b.sh"`, `template "a.sh"`),
		"templates that reload":        swap(formJob, `template "b.yml"`, `template "a.yml"`),
		"templates of two kinds":       swap(formJob, `template "b.sh" { on_change = "restart" }`, `template "a.yml" { on_change = "reload" }`),
		"ports":                        swap(formJob, `listen "second" { port = 7002 }`, `listen "first" { port = 7001 }`),
		"hooks":                        swap(formJob, `hook "pre_start" { command = ["/bin/true"] }`, "hook \"errand\" {\n  name    = \"one\"\n  command = [\"/bin/true\", \"1\"]\n}"),
		"checks":                       swap(formJob, `check "tcp" { target = "7002" }`, `check "exec" { command = ["/bin/true"] }`),
		"checks of one kind":           swap(formJob, `check "tcp" { target = "7002" }`, `check "tcp" { target = "7001" }`),
		"variables of the environment": swap(formJob, `B = "2"`, `A = "1"`),
		"properties":                   strings.Replace(formJob, late+`property "early"`+early, `property "early"`+early+late, 1),
		"comments":                     strings.ReplaceAll(formJob, "\nhook", "\n# a hook\nhook"),
		"lines of Windows":             strings.ReplaceAll(formJob, "\n", "\r\n"),
	} {
		if job == formJob {
			t.Errorf("%s: the job is as it was", name)
		}
		if now := render(job, formManifest); now != was {
			t.Errorf("%s in another order or form: generation %.8s, was %.8s\n%s\nwas\n%s", name, now.generation, was.generation, now.processes, was.processes)
		}
	}
	for name, manifest := range map[string]string{
		"jobs":               strings.Replace(strings.Replace(formManifest, "  job \"side\" {}\n", "", 1), "  job \"web\"", "  job \"side\" {}\n  job \"web\"", 1),
		"a map":              swap(formManifest, `y = "2"`, `x = local.word`),
		"properties":         swap(formManifest, "late     = var.size", `settings = { y = "2", x = local.word }`),
		"a local's name":     strings.ReplaceAll(strings.ReplaceAll(formManifest, "local.word", "local.term"), "word =", "term ="),
		"a variable's name":  strings.NewReplacer(`"size"`, `"number"`, "var.size", "var.number").Replace(formManifest),
		"comments":           strings.ReplaceAll(formManifest, "\n      late", "\n      // late\n      late"),
		"formatting":         strings.ReplaceAll(formManifest, "\n  ", "\n\t\t    "),
		"lines of Windows":   strings.ReplaceAll(formManifest, "\n", "\r\n"),
		"blocks of the file": strings.Replace(strings.Replace(formManifest, "variable \"size\" { default = 3 }\n", "", 1), "deployment", "variable \"size\" { default = 3 }\ndeployment", 1),
	} {
		if manifest == formManifest {
			t.Errorf("%s: the manifest is as it was", name)
		}
		if now := render(formJob, manifest); now != was {
			t.Errorf("%s of the manifest: generation %.8s, was %.8s\n%s\nwas\n%s", name, now.generation, was.generation, now.processes, was.processes)
		}
	}
	// What does mean something is seen.
	for name, job := range map[string]string{
		"another file that restarts": strings.Replace(formJob, `template "b.sh" { on_change = "restart" }`, `template "b.sh" { on_change = "none" }`, 1),
		"another value":              strings.Replace(formJob, "default   = 1", "default   = 7", 1),
	} {
		if now := render(job, formManifest); now.processes == was.processes || now.generation == was.generation {
			t.Errorf("%s changes nothing", name)
		}
	}
}
