package manifests

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"pgregory.net/rapid"
)

// look evaluates an expression and says what it is: its value, "unknown", and
// whether it is sensitive.
func look(t *testing.T, ctx *hcl.EvalContext, expr string) string {
	t.Helper()
	e, diags := hclsyntax.ParseExpression([]byte(expr), "test", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	v, diags := e.Value(ctx)
	if diags.HasErrors() {
		return "error: " + diags[0].Summary
	}
	out := ""
	if v.HasMark(Sensitive) {
		out = "sensitive "
	}
	v, _ = v.UnmarkDeep()
	if !v.IsWhollyKnown() {
		return out + "unknown"
	}
	return out + v.GoString()
}

// clusterFacts returns what is known of valid/cluster.hcl when all is there.
func clusterFacts(m *Manifest) Facts {
	f := Facts{
		DeploymentID: "id-1",
		Secrets:      map[string]cty.Value{"nats": cty.ObjectVal(map[string]cty.Value{"value": cty.StringVal("hunter22")})},
		Instances:    map[string][]Instance{},
		Certificates: map[CertificateKey]cty.Value{
			{Group: "nats", Index: 0, Job: "nats", Name: "server"}: cty.ObjectVal(map[string]cty.Value{
				"ca": cty.StringVal("CA"), "certificate": cty.StringVal("CERT"), "private_key": cty.StringVal("KEY"),
			}),
		},
		Packages: map[string]string{"nats": "abc", "router": "def"},
	}
	for n, g := range m.Groups {
		for i := range g.Instances {
			f.Instances[g.Name] = append(f.Instances[g.Name], Instance{
				Group: g.Name, Index: i, AZ: "z1", Address: fmt.Sprintf("10.0.%d.%d", n, i), AgentDir: fmt.Sprintf("/vms/%s-%d", g.Name, i),
			})
		}
	}
	return f
}

// TestEarlierDefaults: a property that was closed since has its earlier default where
// an earlier version made the deployment and the manifest does not set it.
func TestEarlierDefaults(t *testing.T) {
	files := fstest.MapFS{
		"j/job.hcl": {Data: []byte(`
property "open" {
  type            = bool
  default         = false
  earlier_default = true
}
property "needed" {
  type            = bool
  earlier_default = true
}
property "limit" {
  type            = number
  default         = 10
  earlier_default = 0
}
property "plain" { default = "x" }
process "p" { command = ["p"] }
`)},
		"cluster.hcl": {Data: []byte(`
deployment "d" {}
infrastructure "local" {}
vm "default" {
  cpus      = 1
  memory_mb = 64
}
group "a" {
  job "j" {}
}
group "b" {
  job "j" {
    properties {
      open  = false
      limit = null
    }
  }
}
`)},
	}
	m, diags := Load(files, "cluster.hcl", Options{Jobs: files})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	for _, tc := range []struct {
		group   string
		earlier bool
		want    string
	}{
		{"a", false, `{"limit":10,"needed":null,"open":false,"plain":"x"}`},
		{"a", true, `{"limit":0,"needed":true,"open":true,"plain":"x"}`},
		{"b", true, `{"limit":0,"needed":true,"open":false,"plain":"x"}`},
	} {
		ctx, diags := m.JobContext(Facts{Earlier: tc.earlier}, tc.group, 0, m.Group(tc.group).Jobs[0])
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		if got := jsonText(ctx.Variables["property"]); got != tc.want {
			t.Errorf("group %s, earlier %v: %s, want %s", tc.group, tc.earlier, got, tc.want)
		}
	}
	want := []EarlierDefault{{"a", "j", "open", "true", "false"}, {"a", "j", "needed", "true", "false"}, {"a", "j", "limit", "0", "10"}, {"b", "j", "needed", "true", "false"}}
	if got := m.EarlierDefaults(); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestLevels: a property with levels says what a fact must be at least, and is one of
// them.
func TestLevels(t *testing.T) {
	load := func(properties string) (*Manifest, hcl.Diagnostics) {
		files := fstest.MapFS{
			"j/job.hcl": {Data: []byte(`
property "isolation" {
  type    = string
  default = "namespaces"
  levels  = ["processes", "namespaces", "full"]
}
property "other" {
  type   = string
  levels = ["low", "high"]
}
process "p" { command = ["p"] }
`)},
			"cluster.hcl": {Data: []byte("deployment \"d\" {}\ninfrastructure \"local\" {}\nvm \"default\" {\n  cpus      = 1\n  memory_mb = 64\n}\n" +
				"group \"a\" {\n  job \"j\" {\n    properties {\n" + properties + "\n    }\n  }\n}\n")},
		}
		return Load(files, "cluster.hcl", Options{Jobs: files})
	}
	for properties, want := range map[string][]Level{
		"":                                      {{"j", "isolation", "namespaces", []string{"processes", "namespaces", "full"}}},
		"isolation = \"full\"\nother = \"low\"": {{"j", "isolation", "full", []string{"processes", "namespaces", "full"}}, {"j", "other", "low", []string{"low", "high"}}},
	} {
		m, diags := load(properties)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		job := m.Groups[0].Jobs[0]
		ctx, diags := m.JobContext(Facts{}, "a", 0, job)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		if diff := cmp.Diff(want, LevelsOf(job.Spec, ctx)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", properties, diff)
		}
	}
	if _, diags := load("isolation = \"fulll\""); !diags.HasErrors() || !strings.Contains(diags.Error(), "One of processes, namespaces, full.") {
		t.Errorf("a level that is none: %v", diags)
	}
}

func TestEvaluator(t *testing.T) {
	m := loadFile(t, "testdata/valid/cluster.hcl")
	all := clusterFacts(m)
	leaving := clusterFacts(m)
	leaving.Leaving = map[string][]Instance{"nats": {{Group: "nats", Index: 0, Address: "10.0.0.9"}}}
	for name, c := range map[string]struct {
		facts Facts
		group string
		index int
		want  map[string]string
	}{
		"everything known": {all, "nats", 0, map[string]string{
			"property.port":                  "cty.NumberIntVal(4222)",
			"property.password":              `sensitive cty.StringVal("hunter22")`,
			"certificate.server.private_key": `sensitive cty.StringVal("KEY")`,
			"certificate.server.certificate": `cty.StringVal("CERT")`,
			"package.nats.path":              `cty.StringVal("/vms/nats-0/store/abc")`,
			"path.root":                      `cty.StringVal("/vms/nats-0")`,
			"path.config":                    `cty.StringVal("/vms/nats-0/jobs/nats")`,
			"path.data":                      `cty.StringVal("/vms/nats-0/data/nats")`,
			"path.log":                       `cty.StringVal("/vms/nats-0/log/nats")`,
			"path.run":                       `cty.StringVal("/vms/nats-0/run/nats")`,
			"path.image":                     `cty.StringVal("/")`,
			"deployment.id":                  `cty.StringVal("id-1")`,
			"instance.id":                    `cty.StringVal("nats/0")`,
			"instance.az":                    `cty.StringVal("z1")`,
			"upper(instance.group)":          `cty.StringVal("NATS")`,
			"var.x":                          "error: Unknown variable",
			"secret.nats":                    "error: Unknown variable",
		}},
		"nothing known": {Facts{}, "nats", 0, map[string]string{
			"property.port":                  "cty.NumberIntVal(4222)",
			"property.password":              "sensitive unknown",
			"certificate.server.private_key": "sensitive unknown",
			"certificate.server.ca":          "unknown",
			"package.nats.path":              "unknown",
			"path.config":                    "unknown",
			"deployment.id":                  "unknown",
			"deployment.name":                `cty.StringVal("cf")`,
			"instance.id":                    `cty.StringVal("nats/0")`,
			"instance.address":               "unknown",
			"group.instances":                "unknown",
		}},
		"its own group": {all, "router", 1, map[string]string{
			"group.instances[*].address": `cty.ListVal([]cty.Value{cty.StringVal("10.0.2.0"), cty.StringVal("10.0.2.1"), cty.StringVal("10.0.2.2")})`,
			"length(group.instances)":    "cty.NumberIntVal(3)",
			"group.lb":                   "error: Unsupported attribute",
		}},
		"a link": {all, "router", 1, map[string]string{
			"link.bus.property.password":          `sensitive cty.StringVal("hunter22")`,
			"link.bus.property.port":              "cty.NumberIntVal(4222)",
			"link.bus.property.other":             "error: Unsupported attribute",
			"link.bus.instances[0].address":       `cty.StringVal("10.0.0.0")`,
			"link.bus.instances[*].id":            `cty.ListVal([]cty.Value{cty.StringVal("nats/0")})`,
			"instance.index":                      "cty.NumberIntVal(1)",
			"package.router.path":                 `cty.StringVal("/vms/router-1/store/def")`,
			"[for i in link.bus.instances: i.az]": `cty.TupleVal([]cty.Value{cty.StringVal("z1")})`,
		}},
		"a link to who is replaced": {leaving, "router", 1, map[string]string{
			"link.bus.instances[*].address": `cty.ListVal([]cty.Value{cty.StringVal("10.0.0.0"), cty.StringVal("10.0.0.9")})`,
			"length(group.leaving)":         "cty.NumberIntVal(0)",
		}},
		"its own VM is replaced": {leaving, "nats", 0, map[string]string{
			"length(group.instances)":  "cty.NumberIntVal(1)",
			"group.leaving[*].address": `cty.ListVal([]cty.Value{cty.StringVal("10.0.0.9")})`,
		}},
		"a link, nothing known": {Facts{}, "router", 1, map[string]string{
			"link.bus.property.password": "sensitive unknown",
			"link.bus.property.port":     "cty.NumberIntVal(4222)",
			"link.bus.instances":         "unknown",
		}},
		"a system package and another group": {all, "lb", 0, map[string]string{
			"package.nginx.path": `cty.StringVal("nginx")`,
			"property.routers":   `cty.ListVal([]cty.Value{cty.StringVal("10.0.2.0"), cty.StringVal("10.0.2.1"), cty.StringVal("10.0.2.2")})`,
			"property.domains":   `cty.ListVal([]cty.Value{cty.StringVal("*")})`,
		}},
		"another group, nothing known": {Facts{}, "lb", 0, map[string]string{
			"package.nginx.path": `cty.StringVal("nginx")`,
			"property.routers":   "unknown",
		}},
		"itself": {all, "hello", 2, map[string]string{
			"property.peers":  `cty.ListVal([]cty.Value{cty.StringVal("10.0.3.0"), cty.StringVal("10.0.3.1"), cty.StringVal("10.0.3.2")})`,
			"property.number": "cty.NumberIntVal(2)",
			"property.host":   `cty.StringVal("hello.cf.localhost")`,
			"property.limits": `cty.ObjectVal(map[string]cty.Value{"connections":cty.NumberIntVal(100), "name":cty.StringVal("x")})`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			job := m.Group(c.group).Jobs[0]
			ctx, diags := m.Evaluator(c.facts).JobContext(c.group, c.index, job)
			if len(diags) > 0 {
				t.Fatal(shown(t, m.Files, diags))
			}
			for _, expr := range slices.Sorted(maps.Keys(c.want)) {
				if got := look(t, ctx, expr); got != c.want[expr] {
					t.Errorf("%s is %s, want %s", expr, got, c.want[expr])
				}
			}
		})
	}
}

func TestOptionalLinkIsNull(t *testing.T) {
	m, diags := loadText(t, `
		deployment "d" {}
		infrastructure "local" {}
		group "hello" {
			job "hello" {
				properties { host = "h" }
			}
		}`)
	if len(diags) > 0 {
		t.Fatal(shown(t, m.Files, diags))
	}
	ctx, diags := m.JobContext(Facts{}, "hello", 0, m.Groups[0].Jobs[0])
	if len(diags) > 0 {
		t.Fatal(shown(t, m.Files, diags))
	}
	if got := look(t, ctx, "link.bus == null"); got != "cty.True" {
		t.Errorf("link.bus == null is %s", got)
	}
}

// What is secret stays so on its way through locals, functions and defaults.
func TestSensitive(t *testing.T) {
	m, diags := loadText(t, `
		deployment "d" {}
		infrastructure "local" {}
		secret "nats" { type = "password" }
		secret "ca" { type = "ca" }
		secret "web" {
			type = "certificate"
			ca   = secret.ca
		}
		variable "host" {
			default   = "h"
			sensitive = true
		}
		locals {
			url    = "nats://${secret.nats.value}@x"
			public = secret.web.certificate
		}
		group "hello" {
			job "hello" {
				properties {
					host   = var.host
					peers  = [local.url, "plain"]
					limits = { name = local.public }
					number = length(secret.nats.value)
				}
			}
		}`)
	if len(diags) > 0 {
		t.Fatal(shown(t, m.Files, diags))
	}
	ctx, diags := m.JobContext(Facts{
		Secrets: map[string]cty.Value{
			"nats": cty.ObjectVal(map[string]cty.Value{"value": cty.StringVal("hunter22")}),
			"web":  cty.ObjectVal(map[string]cty.Value{"certificate": cty.StringVal("PEM")}),
		},
	}, "hello", 0, m.Groups[0].Jobs[0])
	if len(diags) > 0 {
		t.Fatal(shown(t, m.Files, diags))
	}
	for expr, want := range map[string]string{
		"property.host":                 `sensitive cty.StringVal("h")`,
		"property.peers[0]":             `sensitive cty.StringVal("nats://hunter22@x")`,
		"property.peers[1]":             `cty.StringVal("plain")`,
		"property.limits.name":          `cty.StringVal("PEM")`,
		"property.number":               "sensitive cty.NumberIntVal(8)",
		"nonsensitive(property.host)":   `cty.StringVal("h")`,
		"jsonencode([property.number])": `sensitive cty.StringVal("[8]")`,
	} {
		if got := look(t, ctx, expr); got != want {
			t.Errorf("%s is %s, want %s", expr, got, want)
		}
	}
}

// Rules and types that nothing contradicted at loading are held when the
// values are there, without showing them.
func TestEvaluatorReports(t *testing.T) {
	m := loadFile(t, "testdata/valid/cluster.hcl")
	f := clusterFacts(m)
	f.Secrets = map[string]cty.Value{"nats": cty.ObjectVal(map[string]cty.Value{"value": cty.StringVal("xyz")})}
	_, diags := m.JobContext(f, "nats", 0, m.Group("nats").Jobs[0])
	text := shown(t, m.Files, diags)
	if !strings.Contains(text, "The password is too short.") || !strings.Contains(text, "line 13") || strings.Contains(text, "xyz") {
		t.Errorf("got %s", text)
	}
	m, diags = loadText(t, `
		deployment "d" {}
		infrastructure "local" {}
		locals { first = group.dea.instances[1].address }
		group "dea" {
			instances = 2
			job "dea" {}
		}
		group "hello" {
			job "hello" {
				properties { host = local.first }
			}
		}`)
	if len(diags) > 0 {
		t.Fatal(shown(t, m.Files, diags))
	}
	_, diags = m.JobContext(Facts{Instances: map[string][]Instance{"dea": {{Group: "dea"}}}}, "hello", 0, m.Group("hello").Jobs[0])
	if text := shown(t, m.Files, diags); !strings.Contains(text, "Invalid index") {
		t.Errorf("got %s", text)
	}
}

// One evaluator serves a large group, from several goroutines, and evaluates
// what the instances share once.
func TestEvaluatorShares(t *testing.T) {
	const n = 1000
	m, diags := loadText(t, fmt.Sprintf(`
		deployment "d" {}
		infrastructure "local" {}
		secret "nats" { type = "password" }
		group "nats" {
			job "nats" {
				properties { password = secret.nats.value }
			}
		}
		group "hello" {
			instances = %d
			job "hello" {
				properties {
					host   = "h"
					peers  = group.hello.instances[*].address
				}
			}
		}`, n))
	if len(diags) > 0 {
		t.Fatal(shown(t, m.Files, diags))
	}
	e := m.Evaluator(clusterFacts(m))
	job := m.Group("hello").Jobs[0]
	contexts := make([]*hcl.EvalContext, n)
	var wait sync.WaitGroup
	for part := range 4 {
		wait.Go(func() {
			for i := part; i < n; i += 4 {
				contexts[i], _ = e.JobContext("hello", i, job)
			}
		})
	}
	wait.Wait()
	if got := testing.AllocsPerRun(1, func() { e.JobContext("hello", 7, job) }); got > 200 {
		t.Errorf("one more instance of %d takes %v allocations: the peers are evaluated again", n, got)
	}
	for i, ctx := range contexts {
		if got := look(t, ctx, fmt.Sprintf("property.peers[%d] == instance.address", i)); got != "cty.True" {
			t.Fatalf("instance %d is not its own peer: %s", i, got)
		}
	}
}

// Every group starts after those it requires, as early as it can; what cannot
// be ordered is a cycle that is shown.
func TestOrderRespectsRequires(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(r, "groups")
		forward := rapid.Bool().Draw(r, "references go backwards only")
		var text strings.Builder
		text.WriteString("deployment \"d\" {}\ninfrastructure \"local\" {}\n")
		wanted := map[string]map[string]bool{}
		for i := range n {
			name := fmt.Sprintf("g%d", i)
			wanted[name] = map[string]bool{}
			most := n - 1
			if forward {
				most = i
			}
			var peers []string
			for range rapid.IntRange(0, 3).Draw(r, "references") {
				other := fmt.Sprintf("g%d", rapid.IntRange(0, most).Draw(r, "to"))
				peers = append(peers, fmt.Sprintf("group.%s.instances[*].address", other))
				if other != name {
					wanted[name][other] = true
				}
			}
			fmt.Fprintf(&text, "group %q {\n job \"hello\" {\n properties {\n host = \"h\"\n peers = flatten([%s])\n}\n}\n}\n", name, strings.Join(peers, ", "))
		}
		m, diags := loadText(t, text.String())
		wave := map[string]int{}
		for i, groups := range m.Order {
			for _, g := range groups {
				if _, twice := wave[g.Name]; twice {
					r.Fatalf("%s starts twice", g.Name)
				}
				wave[g.Name] = i
			}
		}
		for _, g := range m.Groups {
			if !slices.Equal(g.Requires, slices.Sorted(maps.Keys(wanted[g.Name]))) {
				r.Fatalf("%s requires %v, want %v", g.Name, g.Requires, wanted[g.Name])
			}
			at, ordered := wave[g.Name]
			if !ordered {
				continue
			}
			earliest := 0
			for _, other := range g.Requires {
				before, ok := wave[other]
				if !ok {
					r.Fatalf("%s starts, %s, which it requires, does not", g.Name, other)
				}
				earliest = max(earliest, before+1)
			}
			if at != earliest {
				r.Fatalf("%s starts in wave %d, could in %d", g.Name, at, earliest)
			}
		}
		if diags.HasErrors() != (len(wave) < n) {
			r.Fatalf("%d of %d groups are ordered, with %s", len(wave), n, diags)
		}
		if forward && diags.HasErrors() {
			r.Fatalf("no cycle, but %s", diags)
		}
		for _, d := range diags {
			if d.Summary != "Cycle in the start order" {
				r.Fatal(d)
			}
			shownCycle, _, _ := strings.Cut(d.Detail, ":")
			path := strings.Split(shownCycle, " -> ")
			for i := range path[1:] {
				if !wanted[path[i]][path[i+1]] {
					r.Fatalf("%s is shown, but %s does not require %s", shownCycle, path[i], path[i+1])
				}
			}
			if len(path) < 3 || path[0] != path[len(path)-1] {
				r.Fatalf("%s is not a cycle", shownCycle)
			}
		}
	})
}
