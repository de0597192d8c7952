package terraform

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/hashicorp/hcl/v2"
	hcljson "github.com/hashicorp/hcl/v2/json"
	"github.com/zclconf/go-cty/cty"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew")

func module(text string) fstest.MapFS {
	return fstest.MapFS{"plain/main.tf": {Data: []byte(text)}, "plain/.terraform/x": {Data: []byte("not ours")}}
}

func TestRootModule(t *testing.T) {
	o := Options{Dir: t.TempDir(), Templates: module("# a module"), Template: "plain"}
	in := Input{
		Deployment:   Deployment{Name: "cf", ID: "d-1"},
		SSHPublicKey: "ssh-ed25519 AAAA",
		Instances: map[string]InstanceInput{
			"web/0": {Group: "web", Tags: map[string]string{"${a}": "%{ if true }"}},
			"db/0":  {Group: "db", CPUs: 2, MemoryMB: 512, DiskGB: 8, AZ: "z1", Image: "i", Network: "n", StaticAddress: "10.0.0.9", Options: map[string]string{"flavor": "big"}},
		},
		Disks: map[string]DiskInput{"db/0": {Group: "db", SizeGB: 20, Attached: true}},
		Settings: map[string]cty.Value{
			"publish": cty.ObjectVal(map[string]cty.Value{"127.0.0.1:8080": cty.StringVal("web:80")}),
			"list":    cty.TupleVal([]cty.Value{cty.NumberFloatVal(1.5), cty.True, cty.NullVal(cty.String)}),
		},
	}
	first, err := o.writeRoot(in)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(o.Dir, rootFile))
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "main.tf.json")
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got %s\nwant %s", got, want)
	}

	again, err := o.writeRoot(in)
	if err != nil || again.digest != first.digest {
		t.Errorf("the same input has digests %s and %s, %v", first.digest, again.digest, err)
	}
	o.Templates = module("# a module, changed")
	if changed, err := o.writeRoot(in); err != nil || changed.digest == first.digest {
		t.Errorf("another template has the same digest, %v", err)
	}
	o.Templates = fstest.MapFS{"plain/other.tf": {Data: []byte("# renamed")}}
	if _, err := o.writeRoot(in); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(o.Dir, templateDir, "*")); err != nil || len(left) != 1 {
		t.Errorf("the copied template holds %v, %v", left, err)
	}
}

func TestTemplateSources(t *testing.T) {
	base := t.TempDir()
	own := filepath.Join(base, "my", "template")
	if err := os.MkdirAll(own, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(own, "main.tf"), []byte("# mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	work := filepath.Join(base, "work")
	if err := os.Mkdir(work, 0o700); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ template, source, failure string }{
		{"plain", "./template", ""},
		{"./my/template", "../my/template", ""},
		{own, "../my/template", ""},
		{"git::https://example.com/vms.git?ref=v1", "git::https://example.com/vms.git?ref=v1", ""},
		{"example/vms/openstack", "example/vms/openstack", ""},
		{"plane", "", "built in are plain"},
		{"./my", "", "no .tf file"},
		{"./your", "", "cannot read the template ./your"},
	}
	for _, test := range tests {
		o := Options{Dir: work, BaseDir: base, Templates: module("# a module"), Template: test.template}
		_, source, err := o.template()
		if source != test.source || (test.failure == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.failure) {
			t.Errorf("%s: %q, %v", test.template, source, err)
		}
	}
}

// What the engine's parser makes of an escaped value is the value.
func TestEscape(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOf(rapid.SampledFrom([]rune(`$%{}a"\ ~`))).Draw(t, "text")
		data, err := json.Marshal(map[string]any{"v": escape(map[string]any{text: text})})
		if err != nil {
			t.Fatal(err)
		}
		file, diags := hcljson.Parse(data, "x.tf.json")
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		attributes, diags := file.Body.JustAttributes()
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		got, diags := attributes["v"].Expr.Value(&hcl.EvalContext{})
		if diags.HasErrors() {
			t.Fatalf("%q becomes %s: %s", text, data, diags)
		}
		if want := cty.ObjectVal(map[string]cty.Value{text: cty.StringVal(text)}); !got.RawEquals(want) {
			t.Fatalf("%q becomes %s, read as %#v", text, data, got)
		}
	})
}

func TestForgetProvider(t *testing.T) {
	o := Options{Dir: t.TempDir()}
	path := filepath.Join(o.Dir, engineLock)
	if err := o.forgetProvider(); err != nil {
		t.Errorf("without a lock file: %v", err)
	}
	const lock = `provider "deploy.internal/deploy/localvm" {
  version = "0.1.7"
  hashes  = ["h1:abc="]
}

provider "registry.opentofu.org/hashicorp/aws" {
  version = "6.0.0"
}
`
	if err := os.WriteFile(path, []byte(lock), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := o.forgetProvider(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || bytes.Contains(got, []byte("localvm")) || !bytes.Contains(got, []byte("hashicorp/aws")) {
		t.Errorf("the lock file is %q, %v", got, err)
	}
}

func TestReadInstances(t *testing.T) {
	whole := func() map[string]any {
		return map[string]any{
			"id": "i-1", "address": "10.0.0.1", "ssh_host": "10.0.0.1", "ssh_port": 22, "ssh_user": "root",
			"agent_dir": "/var/agent", "os": "linux", "arch": "amd64", "running": true,
		}
	}
	lacking := func(name string, value any) map[string]any {
		m := whole()
		m[name] = value
		return m
	}
	tests := map[string]struct {
		output any
		want   string // in the error, "" if there is none
	}{
		"whole":     {map[string]any{"web/0": whole()}, ""},
		"none":      {nil, "web/0 is missing"},
		"another":   {map[string]any{"web/0": whole(), "web/1": whole()}, "web/1 was not asked for"},
		"no id":     {map[string]any{"web/0": lacking("id", "")}, "web/0 has no id"},
		"no arch":   {map[string]any{"web/0": lacking("arch", nil)}, "web/0 has no arch"},
		"odd port":  {map[string]any{"web/0": lacking("ssh_port", 70000)}, "ssh_port 70000"},
		"text port": {map[string]any{"web/0": lacking("ssh_port", "22")}, "CONTRACT.md"},
		"list":      {[]any{}, "CONTRACT.md"},
	}
	for name, test := range tests {
		output, err := json.Marshal(test.output)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readInstances(output, Input{Instances: map[string]InstanceInput{"web/0": {}}})
		if (test.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && got["web/0"].Address != "10.0.0.1" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func FuzzEventLog(f *testing.F) {
	f.Add([]byte(`{"@message":"a: Creating...","type":"apply_start"}`+"\n"), 7)
	f.Add([]byte(`{"type":"diagnostic","diagnostic":{"severity":"error","summary":"S","detail":"D","range":{"filename":"f","start":{"line":3}}}}`+"\nnot JSON\n"), 1)
	f.Add([]byte("{}\n\n{"), 2)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		var whole, parts []string
		one := newEventLog(func(line string) { whole = append(whole, line) })
		two := newEventLog(func(line string) { parts = append(parts, line) })
		_, _ = one.Write(data)
		cut = max(0, min(cut, len(data)))
		_, _ = two.Write(data[:cut])
		_, _ = two.Write(data[cut:])
		if strings.Join(whole, "\n") != strings.Join(parts, "\n") || len(one.errors) != len(two.errors) {
			t.Errorf("in one piece %q, in two %q", whole, parts)
		}
	})
}
