package manifests

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files of testdata/invalid")

func TestPKI(t *testing.T) {
	for text, want := range map[string]PKI{
		"":                                 {CertificateLife: 365 * 24 * time.Hour, CALife: 10 * 365 * 24 * time.Hour},
		"pki {}":                           DefaultPKI(),
		`pki { certificate_life = "60s" }`: {CertificateLife: time.Minute, CALife: DefaultPKI().CALife},
		"pki {\n  certificate_life = \"60s\"\n  ca_life = \"10m\"\n}": {CertificateLife: time.Minute, CALife: 10 * time.Minute},
	} {
		m, diags := loadText(t, "deployment \"d\" {}\ninfrastructure \"local\" {}\n"+text+"\n")
		if diags.HasErrors() || m.PKI != want {
			t.Errorf("%q gives %+v, %v", text, m.PKI, diags)
		}
	}
}

// load loads a manifest of testdata, a file or a folder, which diagnostics call as
// it is given.
func load(path string, o Options) (*Manifest, hcl.Diagnostics) {
	o.OpenRelease = func(r Release) (fs.FS, error) {
		_, err := os.Stat(r.Path)
		return os.DirFS(r.Path), err
	}
	if o.Jobs == nil {
		o.Jobs = os.DirFS("testdata/jobs")
	}
	name := "."
	if filepath.Ext(path) == ".hcl" {
		path, name = filepath.Split(path)
	}
	o.Prefix = filepath.Clean(path) + "/"
	return Load(os.DirFS(path), name, o)
}

// loadFile loads a manifest of testdata in which nothing is wrong.
func loadFile(t testing.TB, path string) *Manifest {
	t.Helper()
	m, diags := load(path, Options{})
	if len(diags) > 0 {
		t.Fatalf("%s:\n%s", path, shown(t, m.Files, diags))
	}
	return m
}

// loadText loads a manifest from its text.
func loadText(t testing.TB, text string) (*Manifest, hcl.Diagnostics) {
	t.Helper()
	return loadWith(text, Options{Jobs: os.DirFS("testdata/jobs")})
}

// loadWith loads a manifest from its text with options.
func loadWith(text string, o Options) (*Manifest, hcl.Diagnostics) {
	return Load(fstest.MapFS{"m.hcl": {Data: []byte(text)}}, "m.hcl", o)
}

// shown returns what a user sees of diagnostics.
func shown(t testing.TB, files map[string]*hcl.File, diags hcl.Diagnostics) string {
	t.Helper()
	var out bytes.Buffer
	if err := hcl.NewDiagnosticTextWriter(&out, files, 0, false).WriteDiagnostics(diags); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func entries(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("no files at %s (%v)", pattern, err)
	}
	return paths
}

func TestValid(t *testing.T) {
	for _, path := range entries(t, "testdata/valid/*") {
		t.Run(filepath.Base(path), func(t *testing.T) { loadFile(t, path) })
	}
	for _, path := range entries(t, "testdata/jobs/*") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			job, diags := LoadJob(os.DirFS("testdata/jobs"), filepath.Base(path))
			if len(diags) > 0 {
				t.Fatal(shown(t, job.Files, diags))
			}
		})
	}
}

var expectation = regexp.MustCompile(`(error|warning): ([^;]+)`)

// expected reads what the comments of a file's lines say will be reported there.
func expected(t *testing.T, path string) []string {
	t.Helper()
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for i, line := range strings.Split(string(source), "\n") {
		if _, comment, found := strings.Cut(line, "#"); found {
			for _, m := range expectation.FindAllStringSubmatch(comment, -1) {
				list = append(list, fmt.Sprintf("%d: %s: %s", i+1, m[1], strings.TrimSpace(m[2])))
			}
		}
	}
	slices.Sort(list)
	return list
}

// reported puts the diagnostics about one file in the form of expected.
func reported(diags hcl.Diagnostics, name string) []string {
	var list []string
	for _, d := range diags {
		line := 0
		if d.Subject != nil {
			if d.Subject.Filename != name {
				continue
			}
			line = d.Subject.Start.Line
		}
		severity := "error"
		if d.Severity == hcl.DiagWarning {
			severity = "warning"
		}
		list = append(list, fmt.Sprintf("%d: %s: %s", line, severity, d.Summary))
	}
	slices.Sort(list)
	return list
}

func compare(t *testing.T, files map[string]*hcl.File, diags hcl.Diagnostics, path, name string) {
	t.Helper()
	want, got := expected(t, path), reported(diags, name)
	if !slices.Equal(want, got) {
		t.Errorf("%s:\nwant %s\ngot  %s\n%s", path, strings.Join(want, "\n     "), strings.Join(got, "\n     "), shown(t, files, diags))
	}
	for _, d := range diags {
		if d.Detail == "" {
			t.Errorf("%s: %q does not say what to do", path, d.Summary)
		}
		if d.Subject != nil && files[d.Subject.Filename] == nil {
			t.Errorf("%s: no source for the excerpt of %s", path, d.Subject.Filename)
		}
	}
}

// What is expected stands on its line of the file, and nothing else is
// reported: all problems at once, and none because of another.
func TestErrors(t *testing.T) {
	for _, path := range entries(t, "testdata/errors/*.hcl") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			m, diags := load(path, Options{})
			compare(t, m.Files, diags, path, path)
		})
	}
	for _, path := range entries(t, "testdata/errors/jobs/*") {
		name := filepath.Base(path)
		t.Run("job "+name, func(t *testing.T) {
			job, diags := LoadJob(os.DirFS("testdata/errors/jobs"), name)
			compare(t, job.Files, diags, path+"/job.hcl", name+"/job.hcl")
		})
	}
}

// The whole text that a user sees.
func TestInvalid(t *testing.T) {
	for _, path := range entries(t, "testdata/invalid/*") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			m, diags := load(path, Options{})
			got := shown(t, m.Files, diags)
			golden := filepath.Join(path, "messages.txt")
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
		})
	}
}

func TestLoadDesign(t *testing.T) {
	m := loadFile(t, "testdata/valid/design.hcl")
	if m.Deployment.Name != "cf" || m.Deployment.Domain != "cf.localhost" {
		t.Errorf("deployment is %+v", m.Deployment)
	}
	if got := m.Infrastructure.Settings["publish"]; m.Infrastructure.Template != "local" || got.GetAttr("127.0.0.1:8080").AsString() != "lb:8080" {
		t.Errorf("infrastructure is %+v", m.Infrastructure)
	}
	if s := m.Secrets["nats"]; s == nil || s.Type != SecretPassword || s.Length != 32 {
		t.Errorf("secret is %+v", s)
	}
	want := DefaultUpdate()
	want.MaxInFlight = Amount{Number: 34, Percent: true}
	if got := m.Group("nats").Update; got != want {
		t.Errorf("update is %+v, want %+v", got, want)
	}
	dea := m.Group("dea")
	want.MaxInFlight = Amount{Number: 1}
	if dea.Update != want {
		t.Errorf("update of dea is %+v, want %+v", dea.Update, want)
	}
	if dea.Instances != 3 || !slices.Equal(dea.AZs, []string{"z1", "z2"}) || dea.Disk.SizeGB != 10 ||
		dea.VMFor(0).Name != "small" || dea.VMFor(2).MemoryMB != 4096 {
		t.Errorf("dea is %+v", dea)
	}
	if got := fmt.Sprint(m.Group("lb").Requires, m.Group("router").Requires, dea.Requires); got != "[router] [nats] []" {
		t.Errorf("groups require %s", got)
	}
	if got := waves(m); got != "nats dea | router | lb" {
		t.Errorf("order is %q", got)
	}
}

func waves(m *Manifest) string {
	var all []string
	for _, wave := range m.Order {
		var names []string
		for _, g := range wave {
			names = append(names, g.Name)
		}
		all = append(all, strings.Join(names, " "))
	}
	return strings.Join(all, " | ")
}

// Of amounts, for every group: at least one instance may go, a percentage of
// what may go is never more than that, one of what must stay never less.
func TestAmounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 5000).Draw(t, "n")
		percent := rapid.IntRange(1, 100).Draw(t, "percent")
		number := rapid.IntRange(1, 6000).Draw(t, "number")
		share, count := Amount{percent, true}, Amount{Number: number}
		if got := share.Of(n); got < 1 || got > n || got > 1 && got*100 > percent*n || got < n && (got+1)*100 <= percent*n {
			t.Fatalf("%d%% of %d is %d", percent, n, got)
		}
		if got := count.Of(n); got != min(number, n) {
			t.Fatalf("%d of %d is %d", number, n, got)
		}
		u := Update{MaxInFlight: share}
		if got := u.Available(n); got != n-share.Of(n) {
			t.Fatalf("max_in_flight of %d%% leaves %d of %d", percent, got, n)
		}
		u.MinAvailable = &share
		if got := u.Available(n); got < 0 || got > n-1 || got < n-1 && got*100 < percent*n || got > 0 && (got-1)*100 >= percent*n {
			t.Fatalf("at least %d%% of %d is %d", percent, n, got)
		}
		u.MinAvailable = &count
		if got := u.Available(n); got != min(number, n-1) {
			t.Fatalf("at least %d of %d is %d", number, n, got)
		}
	})
	if got := (Update{MinAvailable: &Amount{}}).Available(7); got != 0 {
		t.Errorf("at least 0 of 7 is %d", got)
	}
}

func TestLoadFolder(t *testing.T) {
	o := Options{Vars: map[string]string{"size": "large", "words": `{ a = { text = "ho" } }`}}
	m, diags := load("testdata/valid/folder", o)
	if len(diags) > 0 {
		t.Fatal(shown(t, m.Files, diags))
	}
	if m.Infrastructure.Template != "hosts" || len(m.Infrastructure.Settings) != 1 {
		t.Errorf("the overriding infrastructure is %+v", m.Infrastructure)
	}
	echo := m.Group("echo")
	if echo.Instances != 3 || !echo.PreventDestroy || echo.VM.CPUs != 8 || echo.Network.Options["id"] != "net-1" {
		t.Errorf("echo is %+v", echo)
	}
	if echo.Update.MaxInFlight != (Amount{50, true}) {
		t.Errorf("update of echo is %+v", echo.Update)
	}
	if s := m.Secrets["web"]; s.CA != "root" || s.CommonName != "web.cf.localhost" {
		t.Errorf("certificate is %+v", s)
	}
	// The release comes before the built-in jobs.
	if dea := m.Group("dea").Jobs[0].Spec; len(dea.Templates) != 1 || dea.Range.Filename != "testdata/valid/folder/jobs/dea/job.hcl" {
		t.Errorf("dea is %+v", dea)
	}
	ctx, diags := m.JobContext(Facts{}, "echo", 0, echo.Jobs[0])
	if diags.HasErrors() {
		t.Fatal(shown(t, m.Files, diags))
	}
	property := ctx.Variables["property"]
	if got := property.GetAttr("text").AsString(); got != "HO" {
		t.Errorf("the overriding property is %q", got)
	}
	if property.GetAttr("all").IsKnown() {
		t.Errorf("addresses are known without facts: %#v", property)
	}
}

func TestVariables(t *testing.T) {
	text := `
		deployment "d" {}
		infrastructure "local" { value = var.v }
		variable "v" {
			type = %s
		}
	`
	file := func(name, text string) VarFile { return VarFile{Path: name, Source: []byte(text)} }
	for name, c := range map[string]struct {
		kind string
		o    Options
		want string // GoString of the value, or a part of the message
	}{
		"none":               {"string", Options{}, `Variable "v" has no default and was not set`},
		"environment":        {"string", Options{Environ: []string{"A=b", "DEPLOY_VAR_v=x=y"}}, `cty.StringVal("x=y")`},
		"unknown in environ": {"string", Options{Environ: []string{"DEPLOY_VAR_v=1", "DEPLOY_VAR_w=2"}}, `cty.StringVal("1")`},
		"file":               {"string", Options{Environ: []string{"DEPLOY_VAR_v=e"}, VarFiles: []VarFile{file("a", `v = "1"`), file("b", `v = "2"`)}}, `cty.StringVal("2")`},
		"flag first":         {"string", Options{Vars: map[string]string{"v": "f"}, VarFiles: []VarFile{file("a", `v = "1"`)}}, `cty.StringVal("f")`},
		"number":             {"number", Options{Vars: map[string]string{"v": "3"}}, `cty.NumberIntVal(3)`},
		"not a number":       {"number", Options{Vars: map[string]string{"v": "three"}}, `a number is required`},
		"list":               {"list(number)", Options{Vars: map[string]string{"v": `[1, "2"]`}}, `cty.ListVal([]cty.Value{cty.NumberIntVal(1), cty.NumberIntVal(2)})`},
		"bad expression":     {"list(number)", Options{Vars: map[string]string{"v": `[1`}}, `Unterminated`},
		"any":                {"any", Options{Vars: map[string]string{"v": `[1]`}}, `cty.StringVal("[1]")`},
		"unknown flag":       {"any", Options{Vars: map[string]string{"v": `1`, "vv": "1"}}, `declares no variable "vv", which --var sets. Did you mean "v"?`},
		"unknown in file":    {"any", Options{VarFiles: []VarFile{file("a", "v = 1\nvw = 1")}}, `declares no variable "vw"`},
		"json":               {"list(string)", Options{VarFiles: []VarFile{file("a.json", `{"v": ["${x}", "%{ if", 3]}`)}}, `cty.ListVal([]cty.Value{cty.StringVal("${x}"), cty.StringVal("%{ if"), cty.StringVal("3")})`},
		"broken json":        {"any", Options{VarFiles: []VarFile{file("a.json", "{\n  \"v\": 1,\n}")}}, "Error: Trailing comma in object\n\n  on a.json line 2"},
		"unknown in json":    {"any", Options{VarFiles: []VarFile{file("a.json", `{"v": 1, "vw": 1}`)}}, `declares no variable "vw"`},
		"deep json":          {"any", Options{VarFiles: []VarFile{file("a.json", `{"v": `+strings.Repeat("[", 1e6))}}, `Text too complex`},
		"quoted brackets":    {"any", Options{VarFiles: []VarFile{file("a.json", `{"v": "\\"}`)}}, `cty.StringVal("\\")`},
		"cut json":           {"any", Options{VarFiles: []VarFile{file("a.json", `{"v": 5, "w": `)}}, "Error: Unclosed object"},
		"hcl as json":        {"any", Options{VarFiles: []VarFile{file("a.json", `v = 5`)}}, "must be one JSON object; HCL needs another name"},
		"json as hcl":        {"any", Options{VarFiles: []VarFile{file("a.vars", `{"v": 5}`)}}, "give the file a name that ends in .json"},
		"default of a list":  {"any\ndefault = [1]", Options{Vars: map[string]string{"v": `["a", 2]`}}, `cty.TupleVal([]cty.Value{cty.StringVal("a"), cty.NumberIntVal(2)})`},
		"default of a text":  {"any\ndefault = \"b\"", Options{Vars: map[string]string{"v": `["a", 2]`}}, `cty.StringVal("[\"a\", 2]")`},
		"no object":          {"any", Options{VarFiles: []VarFile{file("a.json", `3`)}}, `object`},
		"no text":            {"string", Options{Environ: []string{"DEPLOY_VAR_v=p\xe4ss"}}, `from the environment is not UTF-8 text`},
		"no constant":        {"any", Options{VarFiles: []VarFile{file("a", "v = var.x")}}, `Variables may not be used here`},
	} {
		t.Run(name, func(t *testing.T) {
			m, diags := loadWith(fmt.Sprintf(text, c.kind), c.o)
			got := shown(t, m.Files, diags)
			if !diags.HasErrors() {
				got = m.Infrastructure.Settings["value"].GoString()
			}
			if !strings.Contains(got, c.want) || name != "no object" && strings.Contains(got, "Root value") {
				t.Errorf("got %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestUnreadable(t *testing.T) {
	for path, want := range map[string]string{
		"testdata/none.hcl": "testdata/none.hcl: no such file or directory",
		"testdata/none":     "testdata/none: no such file or directory",
		"testdata/jobs":     "the folder testdata/jobs holds no .hcl file",
	} {
		m, diags := load(path, Options{})
		if m == nil || !strings.Contains(shown(t, m.Files, diags), want) {
			t.Errorf("%s gives %v, want %q", path, diags, want)
		}
	}
	if job, diags := LoadJob(fstest.MapFS{}, "none"); !diags.HasErrors() || job == nil {
		t.Error("a job that is not there was loaded")
	}
	if _, diags := LoadJob(os.DirFS("testdata/jobs"), "../jobs/nats"); !diags.HasErrors() {
		t.Error("a job was loaded from outside")
	}
}

func TestJobDefaults(t *testing.T) {
	job, diags := LoadJob(os.DirFS("testdata/jobs"), "router")
	if len(diags) > 0 {
		t.Fatal(shown(t, job.Files, diags))
	}
	p, h, tmpl := job.Processes[0], job.Hooks[0], job.Templates[0]
	if p.KillMode != "group" || p.StopSignal != "TERM" || p.StopGrace != 10*time.Second || !p.Control || !p.Reload.Control ||
		p.Checks[0].Failures != 3 || p.Checks[0].Target != nil || p.Checks[0].Host != nil || p.Reload.Command != nil {
		t.Errorf("process is %+v", p)
	}
	if h.Kind != "pre_start" || h.Timeout != time.Minute || h.OnTimeout != "fail" || h.Env != nil {
		t.Errorf("hook is %+v", h)
	}
	if tmpl.Mode != 0o640 || tmpl.OnChange != "restart" || tmpl.Destination != "config/router.yml" {
		t.Errorf("template is %+v", tmpl)
	}
	if job.Consumes[0].Type != BusLink || job.Mbus.Files[0] != "config/*.yml" {
		t.Errorf("job is %+v", job)
	}
}

// component = true adds what the job does not have itself.
func TestComponent(t *testing.T) {
	load := func(text string) *Job {
		t.Helper()
		job, diags := LoadJob(fstest.MapFS{
			"x/job.hcl":              {Data: []byte(text)},
			"x/templates/bus-ca.pem": {Data: []byte("${certificate.bus.ca}")},
		}, "x")
		if diags.HasErrors() {
			t.Fatal(shown(t, job.Files, diags))
		}
		return job
	}
	job := load(`process "x" {
  command   = ["x"]
  component = true
}`)
	p := job.Processes[0]
	if !p.Control || p.Reload == nil || !p.Reload.Control || job.Property("log_level") == nil || job.Certificates[0].Name != "bus" ||
		job.Consumes[0].Name != BusLink || job.Templates[0].OnChange != "reload" {
		t.Errorf("a component is %+v with the process %+v", job, p)
	}
	job = load(`consumes "bus" { optional = true }
property "log_level" { default = "warn" }
process "x" {
  command   = ["x"]
  component = true
  reload { signal = "HUP" }
}`)
	p = job.Processes[0]
	if !p.Control || p.Reload.Signal != "HUP" || p.Reload.Control || len(job.Properties) != 1 || job.Properties[0].Default.AsString() != "warn" ||
		len(job.Consumes) != 1 || !job.Consumes[0].Optional {
		t.Errorf("a component with blocks of its own is %+v with the process %+v", job, p)
	}
	if job := load("process \"x\" {\n  command = [\"x\"]\n  component = false\n}"); job.Processes[0].Control || len(job.Properties) > 0 {
		t.Errorf("no component is %+v", job)
	}
	_, diags := LoadJob(fstest.MapFS{"x/job.hcl": {Data: []byte("process \"x\" {\n  command = [\"x\"]\n  component = true\n}")}}, "x")
	if len(diags) != 1 || diags[0].Summary != "Missing template" || !strings.Contains(diags[0].Detail, "bus-ca.pem") {
		t.Errorf("without its template: %v", diags)
	}
}

// A job has the blocks of its bases that it does not have itself.
func TestBases(t *testing.T) {
	load := func(job string) (*Job, hcl.Diagnostics) {
		return LoadJob(fstest.MapFS{
			"x/job.hcl": {Data: []byte(job)},
			"shared/base.hcl": {Data: []byte(`property "port" {
  type        = number
  description = "port"
  on_change   = "restart"
}
property "open" { default = false }
hook "errand" {
  name    = "clean"
  command = ["clean"]
}
`)},
			"shared/more/base.hcl": {Data: []byte("hook \"errand\" {\n  name    = \"more\"\n  command = [\"more\"]\n}\n")},
			"wrong/base.hcl":       {Data: []byte("description = \"none\"\nhook \"errand\" {}\n")},
		}, "x")
	}
	job, diags := load("bases = [\"shared\", \"shared/more\"]\nproperty \"port\" { default = 80 }\n")
	if diags.HasErrors() {
		t.Fatal(shown(t, job.Files, diags))
	}
	port := job.Property("port")
	if port.Description != "port" || port.OnChange != "restart" || !port.Default.RawEquals(cty.NumberIntVal(80)) || job.Property("open") == nil {
		t.Errorf("properties of a job with bases: %+v", job.Properties)
	}
	if len(job.Hooks) != 2 || !slices.Equal(job.Bases, []string{"shared/base.hcl", "shared/more/base.hcl"}) {
		t.Errorf("hooks %+v of the bases %v", job.Hooks, job.Bases)
	}
	if job, _ := load("bases = [\"shared\"]\nhook \"errand\" {\n  name = \"own\"\n  command = [\"own\"]\n}\n"); len(job.Hooks) != 1 || job.Hooks[0].Name != "own" {
		t.Errorf("a job with an errand of its own has %+v", job.Hooks)
	}
	for text, want := range map[string]string{
		`bases = ["none"]`:     "Cannot read base",
		`bases = ["../x"]`:     "Cannot read base",
		`bases = [property.p]`: "This must be a constant",
		`bases = ["wrong"]`:    "A base has blocks only",
	} {
		if _, diags := load(text + "\n"); !strings.Contains(diags.Error()+fmt.Sprint(diags.Errs()), want) {
			t.Errorf("%s: %v, want %q", text, diags.Errs(), want)
		}
	}
}

func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/valid/*.hcl", "testdata/valid/*/*.hcl", "testdata/errors/*.hcl", "testdata/invalid/*/*.hcl"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range paths {
			source, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(source), "")
			f.Add("deployment \"d\" {}\ninfrastructure \"local\" {}", string(source))
		}
	}
	jobs := os.DirFS("testdata/jobs")
	f.Fuzz(func(t *testing.T, base, over string) {
		m, diags := Load(fstest.MapFS{"m.hcl": {Data: []byte(base)}, "m_override.hcl": {Data: []byte(over)}}, ".", Options{Jobs: jobs})
		shown(t, m.Files, diags)
		if diags.HasErrors() {
			return
		}
		e := m.Evaluator(Facts{})
		for _, g := range m.Groups {
			for _, job := range g.Jobs {
				if _, diags := e.JobContext(g.Name, 0, job); diags.HasErrors() && g.Instances > 0 {
					t.Errorf("valid, but without facts: %s", shown(t, m.Files, diags))
				}
			}
		}
	})
}

func FuzzLoadJob(f *testing.F) {
	for _, pattern := range []string{"testdata/jobs/*/job.hcl", "testdata/errors/jobs/*/job.hcl"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, path := range paths {
			source, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(source), "x: ${property.port}")
		}
	}
	f.Fuzz(func(t *testing.T, spec, template string) {
		job, diags := LoadJob(fstest.MapFS{
			"fuzz/job.hcl":         {Data: []byte(spec)},
			"fuzz/templates/a.yml": {Data: []byte(template)},
		}, "fuzz")
		shown(t, job.Files, diags)
	})
}

// Nesting that would use up the parser's stack, which nothing can recover
// from, is an error like any other.
func TestTooComplex(t *testing.T) {
	const nested, chained = 1_001, 20_001
	for name, text := range map[string]string{
		"lists":       "x = " + strings.Repeat("[", nested),
		"parentheses": "x = " + strings.Repeat("(", nested),
		"objects":     "x = " + strings.Repeat("{a=", nested),
		"templates":   "x = " + strings.Repeat("\"${", nested),
		"blocks":      strings.Repeat("b {\n", nested),
		"signs":       "x = " + strings.Repeat("-", chained) + "1",
		"negations":   "x = " + strings.Repeat("!", chained) + "true",
		"choices":     "x = " + strings.Repeat("a?", chained),
		"sums":        "x = 1" + strings.Repeat("+1", chained),
		"indexes":     "x = a" + strings.Repeat("[0]", chained),
		"splats":      "x = a" + strings.Repeat(".*", chained),
	} {
		t.Run(name, func(t *testing.T) {
			if _, diags := loadText(t, text); !diags.HasErrors() || diags[0].Summary != "Text too complex" {
				t.Errorf("got %s", diags)
			}
		})
	}
	_, diags := LoadJob(fstest.MapFS{
		"deep/job.hcl":     {Data: []byte(`template "a" {}`)},
		"deep/templates/a": {Data: []byte(strings.Repeat("%{ if true }", chained))},
	}, "deep")
	if !diags.HasErrors() || diags[0].Summary != "Text too complex" {
		t.Errorf("got %s", diags)
	}
}

// The largest sums allowed can be read and evaluated.
func TestComplex(t *testing.T) {
	m, diags := loadText(t, `
		deployment "d" {}
		infrastructure "local" { sum = 1`+strings.Repeat("+1", 20_000)+` }`)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	if got, _ := m.Infrastructure.Settings["sum"].AsBigFloat().Int64(); got != 20_001 {
		t.Errorf("sum is %d", got)
	}
}
