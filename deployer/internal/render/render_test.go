package render

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/manifests"
)

const jobHCL = `
property "port" { 
  type    = number
  default = 8080
}
property "level" {
  type    = string
  default = "info"
}
property "password" {
  type      = string
  sensitive = true
  required  = true
}
property "peers" {
  type    = list(string)
  default = []
}
property "tls" {
  type    = bool
  default = false
}
package "web" { program = "web" }
template "web.yml" {
  mode = "0664" # it holds a password: others get nothing all the same
}
template "level" {
  mode      = "0644"
  on_change = "reload"
}
process "web" {
  command = ["${package.web.path}/web", "-c", "${path.config}/web.yml"]
  env     = { PORT = property.port }
  reload { signal = "HUP" }
}
process "worker" {
  command = ["${package.web.path}/worker"]
}
listen "http" { port = property.port }
`

const webYML = `port: ${property.port}
password: ${property.password}
%{ for p in property.peers ~}
peer: ${p}
%{ endfor ~}
%{ if property.tls ~}
tls: on
%{ endif ~}
`

// world is a manifest with one job and what is known of it.
type world struct {
	properties string
	facts      manifests.Facts
	packages   map[string]Package
	key        string
	template   string
}

func newWorld() *world {
	return &world{
		properties: `password = secret.web.value
      peers = group.web.instances[*].address`,
		facts: manifests.Facts{
			DeploymentID: "d1",
			Secrets:      map[string]cty.Value{"web": cty.ObjectVal(map[string]cty.Value{"value": cty.StringVal("s3cret")})},
			Instances: map[string][]manifests.Instance{"web": {
				{Group: "web", Index: 0, Address: "127.0.0.2", AgentDir: "/vm0/agent"},
				{Group: "web", Index: 1, Address: "127.0.0.3", AgentDir: "/vm1/agent"},
			}},
		},
		packages: map[string]Package{"web": {Digest: "abc", Size: 1}},
		key:      "key",
		template: webYML,
	}
}

func (w *world) render(t *testing.T) *Instance {
	t.Helper()
	in, err := w.try(t)
	if err != "" {
		t.Fatal(err)
	}
	return in
}

func (w *world) try(t *testing.T) (*Instance, string) {
	t.Helper()
	m, diags := w.load(t)
	if diags.HasErrors() {
		return nil, diags.Error()
	}
	r := New(m, w.facts, []byte(w.key), w.packages)
	in, diags := r.Instance(m.Group("web"), w.facts.Instances["web"][0])
	if diags.HasErrors() {
		return nil, diags.Error()
	}
	return in, ""
}

func (w *world) renderer(t *testing.T) (*manifests.Manifest, *Renderer) {
	t.Helper()
	m, diags := w.load(t)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return m, New(m, w.facts, []byte(w.key), w.packages)
}

func (w *world) load(t *testing.T) (*manifests.Manifest, hcl.Diagnostics) {
	t.Helper()
	source := `deployment "cf" { domain = "cf.localhost" }
infrastructure "local" {}
secret "web" { type = "password" }
group "web" {
  instances = 2
  job "web" {
    properties {
      ` + w.properties + `
    }
  }
}
`
	return manifests.Load(fstest.MapFS{"cluster.hcl": {Data: []byte(source)}}, "cluster.hcl", manifests.Options{Jobs: fstest.MapFS{
		"web/job.hcl":           {Data: []byte(jobHCL)},
		"web/templates/web.yml": {Data: []byte(w.template)},
		"web/templates/level":   {Data: []byte("${property.level}\n")},
	}})
}

func TestInstance(t *testing.T) {
	in := newWorld().render(t)
	if !in.Known || in.Spec.Generation == "" {
		t.Fatalf("known %v, generation %q", in.Known, in.Spec.Generation)
	}
	job := in.Spec.Jobs[0]
	want := "port: 8080\npassword: s3cret\npeer: 127.0.0.2\npeer: 127.0.0.3\n"
	if got := string(job.Files[0].Content); got != want {
		t.Errorf("web.yml is\n%s\nwant\n%s", got, want)
	}
	if got := in.Files[FileKey{"web", "web.yml"}].String(); strings.Contains(got, "s3cret") || !strings.Contains(got, "password: (sensitive)\npeer: 127.0.0.2") {
		t.Errorf("shown as\n%s", got)
	}
	if got := Redact(job.Files[0].Content, job.Files[0].Sensitive); got != in.Files[FileKey{"web", "web.yml"}].String() {
		t.Errorf("redacted from the spec it is\n%s", got)
	}
	if got := job.Processes[0].Command; !slices.Equal(got, []string{"/vm0/agent/store/abc/web", "-c", "/vm0/agent/jobs/web/web.yml"}) {
		t.Errorf("command %q", got)
	}
	if got := job.Listens[0].Address; got != "127.0.0.2:8080" {
		t.Errorf("listens on %q", got)
	}
	if job.Files[0].Mode != 0o640 || job.Files[1].Mode != 0o644 || job.Files[1].OnChange != api.OnChangeReload {
		t.Errorf("files are %+v", job.Files)
	}
	data, err := json.Marshal(in.Spec)
	if err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(newWorld().render(t).Spec)
	if err != nil || string(again) != string(data) {
		t.Error("rendered twice it differs")
	}
}

func TestWhatIsUnknownStaysOpen(t *testing.T) {
	w := newWorld()
	w.facts.Instances["web"][1].Address = ""
	in := w.render(t)
	if in.Known || in.Spec.Generation != "" || in.Spec.Jobs[0].Processes[0].Digest != "" {
		t.Errorf("known %v, generation %q", in.Known, in.Spec.Generation)
	}
	got := in.Files[FileKey{"web", "web.yml"}].String()
	if !strings.Contains(got, "peer: 127.0.0.2\npeer: (known after apply)\n") {
		t.Errorf("shown as\n%s", got)
	}
}

// Each change asks for just what it must: a digest covers what its owner was
// started with, and nothing else.
func TestDigests(t *testing.T) {
	base := newWorld().render(t).Spec.Jobs[0].Processes
	tests := []struct {
		name                    string
		change                  func(*world)
		web, webReload, workers bool // differ
	}{
		{"nothing", func(*world) {}, false, false, false},
		{"a restart-class file", func(w *world) { w.template += "# more\n" }, true, false, true},
		{"a reload-class file", func(w *world) { w.properties += "\nlevel = \"debug\"" }, false, true, true}, // worker cannot reload
		{"an environment variable", func(w *world) { w.properties += "\nport = 9090" }, true, false, true},   // and in the file
		{"the package", func(w *world) { w.packages = map[string]Package{"web": {Digest: "def"}} }, true, false, true},
		{"the key", func(w *world) { w.key = "other" }, true, true, true},
		{"a secret", func(w *world) {
			w.facts.Secrets["web"] = cty.ObjectVal(map[string]cty.Value{"value": cty.StringVal("other")})
		}, true, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			tt.change(w)
			got := w.render(t).Spec.Jobs[0].Processes
			if d := got[0].Digest != base[0].Digest; d != tt.web {
				t.Errorf("digest of web differs: %v, want %v", d, tt.web)
			}
			if d := got[0].ReloadDigest != base[0].ReloadDigest; d != tt.webReload {
				t.Errorf("reload digest of web differs: %v, want %v", d, tt.webReload)
			}
			if d := got[1].Digest != base[1].Digest; d != tt.workers {
				t.Errorf("digest of worker differs: %v, want %v", d, tt.workers)
			}
		})
	}
}

func TestProblems(t *testing.T) {
	tests := []struct {
		name   string
		change func(*world)
		want   string
	}{
		{"a list as text", func(w *world) { w.template = "${property.peers}" }, "have list of string"},
		{"a template that does not parse", func(w *world) { w.template = "${" }, "web.yml"},
		{"an unknown property", func(w *world) { w.template = "${property.prot}" }, "prot"},
		{"a package that is not built", func(w *world) { w.packages = nil }, "make build"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld()
			tt.change(w)
			if _, err := w.try(t); !strings.Contains(err, tt.want) {
				t.Errorf("got %q, want it to tell %q", err, tt.want)
			}
		})
	}
}

func TestRedactNeverShowsMoreThanItShould(t *testing.T) {
	for _, ranges := range [][]api.Range{{{Start: 2, End: 99}}, {{Start: 3, End: 5}, {Start: 4, End: 6}}} {
		if got := Redact([]byte("a secret"), ranges); got != SensitiveText {
			t.Errorf("ranges %v show %q", ranges, got)
		}
	}
}

func TestSecretConditionHidesItsBranch(t *testing.T) {
	w := newWorld()
	w.template = `%{ if property.password == "s3cret" }yes%{ else }no%{ endif }`
	if got := w.render(t).Files[FileKey{"web", "web.yml"}].String(); got != SensitiveText {
		t.Errorf("shown as %q", got)
	}
}

func TestErrorsWithholdSecrets(t *testing.T) {
	w := newWorld()
	w.template = `${parseint(property.password, 10)}`
	if _, err := w.try(t); err == "" || strings.Contains(err, "s3cret") {
		t.Errorf("the error is %q", err)
	}
}

func TestInputsNameWhatChanged(t *testing.T) {
	before := newWorld().render(t)
	changed := func(w *world) []string {
		t.Helper()
		after := w.render(t)
		var names []string
		for name, digest := range after.Spec.Jobs[0].Inputs {
			if before.Spec.Jobs[0].Inputs[name] != digest {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	if got := changed(newWorld()); got != nil {
		t.Errorf("the same world: %v", got)
	}
	w := newWorld()
	w.properties += "\nport = 9090"
	if got := changed(w); !slices.Equal(got, []string{"property.port"}) {
		t.Errorf("another port: %v", got)
	}
	w = newWorld()
	w.template += "more\n"
	if got := changed(w); !slices.Equal(got, []string{"template.web.yml"}) {
		t.Errorf("another template: %v", got)
	}
	w = newWorld()
	w.facts.Instances["web"][1].Address = "127.0.0.9"
	if got := changed(w); !slices.Equal(got, []string{"property.peers"}) {
		t.Errorf("another address of a peer: %v", got)
	}
	w = newWorld()
	w.facts.Secrets["web"] = cty.ObjectVal(map[string]cty.Value{"value": cty.StringVal("other")})
	if got := changed(w); !slices.Equal(got, []string{"property.password"}) {
		t.Errorf("another password: %v", got)
	}

	want := map[Part][]string{
		{"web", PartFile, "web.yml"}:   {"property.password", "property.peers", "property.port", "property.tls", "template.web.yml"},
		{"web", PartFile, "level"}:     {"property.level", "template.level"},
		{"web", PartProcess, "web"}:    {"package.web", "path.config", "property.port"},
		{"web", PartProcess, "worker"}: {"package.web"},
	}
	for part, names := range want {
		if got := before.Sources[part]; !slices.Equal(got, names) {
			t.Errorf("%v is made of %v, want %v", part, got, names)
		}
	}

	// They tell nothing to who does not have the key, and are not what is compared.
	w = newWorld()
	w.key = "another"
	if got := w.render(t).Spec.Jobs[0].Inputs["property.password"]; got == before.Spec.Jobs[0].Inputs["property.password"] {
		t.Error("the digest of a password does not depend on the key")
	}
	w = newWorld()
	w.properties += "\nlevel = \"info\"" // as the default: nothing changes
	if w.render(t).Spec.Generation != before.Spec.Generation {
		t.Error("a property that changes nothing made another generation")
	}
}

// What is not known yet concerns only what depends on it.
func TestUnknownLeavesTheRestKnown(t *testing.T) {
	w := newWorld()
	w.properties = `password = secret.web.value
      level = group.web.instances[1].address`
	w.facts.Instances["web"][1].Address = ""
	p := w.render(t).Spec.Jobs[0].Processes
	if p[0].Digest == "" || p[0].ReloadDigest != "" {
		t.Errorf("a reload-class file is unknown: got digests %q and %q of the process that reloads", p[0].Digest, p[0].ReloadDigest)
	}
	if p[1].Digest != "" {
		t.Errorf("the process that must restart for it has the digest %q", p[1].Digest)
	}
	w = newWorld()
	w.properties = `password = secret.web.value
      port = length(group.web.instances[1].address)`
	w.facts.Instances["web"][1].Address = ""
	w.template = "nothing\n"
	p = w.render(t).Spec.Jobs[0].Processes
	if p[0].Digest != "" || p[0].ReloadDigest == "" || p[1].Digest == "" {
		t.Errorf("the environment of web is unknown: got digests %+v", p)
	}
}

func TestAllRendersOnlyWhatChanged(t *testing.T) {
	w := newWorld()
	m, r := w.renderer(t)
	g := m.Group("web")
	list := func() (out []Wanted) {
		for _, in := range w.facts.Instances["web"] {
			out = append(out, Wanted{g, in})
		}
		return out
	}
	first, diags := r.All(list())
	if diags[0].HasErrors() || diags[1].HasErrors() {
		t.Fatal(diags)
	}
	for i, in := range w.facts.Instances["web"] {
		if one, _ := r.Instance(g, in); one.Spec.Generation != first[i].Spec.Generation {
			t.Errorf("instance %d differs when it is rendered alone", i)
		}
	}
	r = r.With(w.facts, w.packages)
	for _, in := range w.facts.Instances["web"] {
		if _, anew, _ := r.instance(g, in); anew {
			t.Errorf("rendered %v again from the same facts", in)
		}
	}
	w.facts.Instances = map[string][]manifests.Instance{"web": slices.Clone(w.facts.Instances["web"])}
	w.facts.Instances["web"][0].AgentDir = "/elsewhere"
	r = r.With(w.facts, w.packages)
	for i, in := range w.facts.Instances["web"] {
		if _, anew, _ := r.instance(g, in); anew != (i == 0) {
			t.Errorf("instance %d rendered again: %v", i, anew)
		}
	}
}

func TestDifference(t *testing.T) {
	a, b := newWorld().render(t), newWorld().render(t)
	if got := difference(a, b); got != "" {
		t.Errorf("the same differs: %s", got)
	}
	b.Files[FileKey{"web", "level"}] = Text{{Text: "other"}}
	if got := difference(a, b); got != "web/level" {
		t.Errorf("another file: got %q", got)
	}
	b = newWorld().render(t)
	b.Spec.Jobs[0].Processes[0].Command[0] = "other"
	if got := difference(a, b); got != "the specification" {
		t.Errorf("another command: got %q", got)
	}
}

// Blocks may stand in any order: a generation is the same however the jobs of a
// group, and the templates and ports of a job, are laid out.
func TestOrderOfBlocksMakesNoGeneration(t *testing.T) {
	blocks := func(backwards bool, parts ...string) string {
		if backwards {
			slices.Reverse(parts)
		}
		return strings.Join(parts, "\n")
	}
	generation := func(jobs, parts bool, port int) string {
		t.Helper()
		source := "deployment \"d\" {}\ninfrastructure \"local\" {}\ngroup \"g\" {\n" + blocks(jobs, `job "a" {}`, `job "b" {}`) + "\n}\n"
		job := `process "main" { command = ["/bin/sleep", "1000"] }` + "\n" + blocks(parts, `template "x" {
  on_change = "none"
}`, `template "y" {
  on_change = "none"
}`, fmt.Sprintf(`listen "one" { port = %d }`, port), fmt.Sprintf(`listen "two" { port = %d }`, port+1))
		m, diags := manifests.Load(fstest.MapFS{"m.hcl": {Data: []byte(source)}}, "m.hcl", manifests.Options{Jobs: fstest.MapFS{
			"a/job.hcl": {Data: []byte(job)}, "a/templates/x": {Data: []byte("x")}, "a/templates/y": {Data: []byte("y")},
			"b/job.hcl": {Data: []byte(strings.ReplaceAll(job, "port = ", "port = 1"))}, "b/templates/x": {Data: []byte("x")}, "b/templates/y": {Data: []byte("y")},
		}})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		in, diags := New(m, manifests.Facts{}, []byte("key"), nil).Instance(m.Group("g"), manifests.Instance{Group: "g", Address: "127.0.0.2", AgentDir: "/vm0/agent"})
		if diags.HasErrors() || !in.Known {
			t.Fatal(diags, in.Known)
		}
		return in.Spec.Generation
	}
	was := generation(false, false, 7000)
	for _, order := range [][2]bool{{true, false}, {false, true}, {true, true}} {
		if now := generation(order[0], order[1], 7000); now != was {
			t.Errorf("jobs backwards %v, their parts backwards %v: another generation", order[0], order[1])
		}
	}
	if generation(false, false, 7002) == was {
		t.Error("another port is no other generation")
	}
}

// How people may see a command goes to the agent with it: without what is secret.
func TestCommandsAreShownWithoutSecrets(t *testing.T) {
	m, diags := manifests.Load(fstest.MapFS{"m.hcl": {Data: []byte(`deployment "d" {}
infrastructure "local" {}
secret "key" { type = "password" }
group "g" {
  job "a" {
    properties {
      key   = secret.key.value
      later = group.g.instances[0].address
    }
  }
}
`)}}, "m.hcl", manifests.Options{Jobs: fstest.MapFS{"a/job.hcl": {Data: []byte(`
property "key" { type = string }
property "later" { type = string }
process "some" { command = ["/bin/a", 7, "-k=${property.key}"] }
process "all" { command = concat(["/bin/a"], split(",", property.key)) }
process "later" { command = ["/bin/a", property.later] }
`)}}})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	facts := manifests.Facts{Secrets: map[string]cty.Value{"key": cty.ObjectVal(map[string]cty.Value{"value": cty.StringVal("s3cret,x")})}}
	in, diags := New(m, facts, []byte("key"), nil).Instance(m.Group("g"), manifests.Instance{Group: "g"})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	job := in.Spec.Jobs[0]
	got, err := json.Marshal(job.Commands)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"all":["(sensitive)","(sensitive)","(sensitive)"],"some":["/bin/a","7","(sensitive)"]}`; string(got) != want {
		t.Errorf("shown are %s, want %s; runs %q", got, want, job.Processes[0].Command)
	}
}
