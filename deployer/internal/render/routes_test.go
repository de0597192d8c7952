package render

import (
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/manifests"
)

// TestRoutes: a route goes to the agent with the user that may register it, does not
// touch the process, and follows the bus's password.
func TestRoutes(t *testing.T) {
	const bus = `
group "nats" {
  job "nats" {
    properties { password = secret.nats.value }
  }
}
`
	render := func(t *testing.T, around, route, password string) (api.Process, string) {
		t.Helper()
		m, diags := manifests.Load(fstest.MapFS{"cluster.hcl": {Data: []byte(`
deployment "cf" { domain = "cf.test" }
infrastructure "local" {}
secret "nats" { type = "password" }
` + around + `
group "web" {
  instances = 2
  job "web" {}
}
`)}}, "cluster.hcl", manifests.Options{Jobs: fstest.MapFS{
			"nats/job.hcl": {Data: []byte(`
property "user" { default = "nats" }
property "password" { sensitive = true }
provides "bus" { properties = ["user", "password"] }
`)},
			"web/job.hcl": {Data: []byte("property \"url\" { default = \"\" }\nprocess \"web\" {\n  command = [\"web\"]\n" + route + "\n}\n")},
		}})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		facts := manifests.Facts{
			Secrets: map[string]cty.Value{"nats": cty.ObjectVal(map[string]cty.Value{"value": cty.StringVal(password)})},
			Instances: map[string][]manifests.Instance{
				"nats": {{Group: "nats", Address: "127.0.0.8", AgentDir: "/n0"}},
				"web":  {{Group: "web", Address: "127.0.0.2", AgentDir: "/w0"}, {Group: "web", Index: 1, Address: "127.0.0.3", AgentDir: "/w1"}},
			},
		}
		in, diags := New(m, facts, []byte("key"), nil).Instance(m.Group("web"), facts.Instances["web"][1])
		if diags.HasErrors() {
			return api.Process{}, diags.Error()
		}
		return in.Spec.Jobs[0].Processes[0], ""
	}
	const route = "route {\n host = \"Web-${instance.index}.${deployment.domain}\"\n port = 8080\n drain = \"3s\"\n}"
	p, problem := render(t, bus, route, "one")
	user := "web.1.web-ROUTES"
	want := []api.Route{{Host: "web-1.cf.test", Port: 8080, DrainMS: 3000, User: user, Password: manifests.BusPassword("one", user)}}
	if problem != "" || !reflect.DeepEqual(p.Routes, want) {
		t.Fatalf("got %+v, %s", p.Routes, problem)
	}
	if q, _ := render(t, bus, route, "two"); q.Routes[0].Password == p.Routes[0].Password || q.Digest != p.Digest {
		t.Errorf("with another password: %+v, was %+v", q, p)
	}
	if q, _ := render(t, bus, "", "one"); q.Digest != p.Digest || q.Routes != nil {
		t.Errorf("without the route: %+v", q)
	}
	for _, around := range []string{bus, ""} { // null is no route, with and without a bus
		if q, problem := render(t, around, "route {\n host = property.url == \"\" ? null : property.url\n port = 1\n}", "one"); problem != "" || q.Routes != nil {
			t.Errorf("got %+v, %s", q.Routes, problem)
		}
	}
	for name, c := range map[string]struct{ around, route, want string }{
		"no bus":     {"", "route {\n host = \"a.test\"\n port = 1\n}", "the deployment has none"},
		"a URL":      {bus, "route {\n host = \"http://a.test/\"\n port = 1\n}", "is not the name of a host"},
		"one label":  {bus, "route {\n host = \"a\"\n port = 1\n}", "is not the name of a host"},
		"wide port":  {bus, "route {\n host = \"a.test\"\n port = 70000\n}", "not within 1 and 65535"},
		"no port":    {bus, "route {\n host = \"a.test\"\n port = null\n}", "needs a port"},
		"broken one": {bus, "route {\n host = \"a.test\"\n port = 1.5\n}", "not within 1 and 65535"},
	} {
		if p, problem := render(t, c.around, c.route, "one"); !strings.Contains(problem, c.want) {
			t.Errorf("%s: got %+v, %q, want %q", name, p.Routes, problem, c.want)
		}
	}
}
