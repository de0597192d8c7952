package manifests

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// busJobs are jobs around a bus; what is in subjects is the bus block of "talker".
func busJobs(t *testing.T, manifest, bus string) (*Manifest, error) {
	t.Helper()
	m, diags := Load(fstest.MapFS{"cluster.hcl": {Data: []byte(`
deployment "cf" { domain = "cf.localhost" }
infrastructure "local" {}
group "nats" {
  job "nats" {
    properties { password = "shared" }
  }
}
group "old" {
  job "old" {}
}
` + manifest)}}, "cluster.hcl", Options{Jobs: fstest.MapFS{
		"nats/job.hcl": {Data: []byte(`
property "user" { default = "nats" }
property "password" {
  required  = true
  sensitive = true
}
provides "bus" { properties = ["user", "password"] }
process "nats" { command = ["nats", jsonencode(bus.users)] }
`)},
		"old/job.hcl": {Data: []byte(`
consumes "bus" {}
process "old" { command = [link.bus.property.user, link.bus.property.password] }
`)},
		"talker/job.hcl": {Data: []byte(`
property "queues" {
  type    = list(string)
  default = ["staging"]
}
consumes "bus" {}
` + bus + `
process "talker" { command = [link.bus.property.user, link.bus.property.password] }
`)},
	}})
	if diags.HasErrors() {
		return nil, diags
	}
	return m, nil
}

// Each instance of a job with a bus block has a user of its own, which the job that
// provides the bus knows; other jobs have the shared one.
func TestBusUsers(t *testing.T) {
	m, err := busJobs(t, `
group "talker" {
  instances = 2
  job "talker" {
    properties { queues = ["staging", "large"] }
  }
}
`, `
bus {
  publish        = ["talk.*.to.>", "dea.{uuid}.start"]
  subscribe      = property.queues
  answer_seconds = 7
}
`)
	if err != nil {
		t.Fatal(err)
	}
	facts := Facts{Instances: map[string][]Instance{}}
	for _, g := range m.Groups {
		for i := range g.Instances {
			facts.Instances[g.Name] = append(facts.Instances[g.Name], Instance{Group: g.Name, Index: i, Address: "127.0.0.1"})
		}
	}
	command := func(group string, index int) []cty.Value {
		t.Helper()
		job := m.Group(group).Jobs[0]
		ctx, diags := m.JobContext(facts, group, index, job)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		v, diags := Value(job.Spec.Processes[0].Command, ctx)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		return v.AsValueSlice()
	}
	seen := map[string]bool{"shared": true}
	for index, user := range []string{"talker.0.talker", "talker.1.talker"} {
		got := command("talker", index)
		password, marks := got[1].Unmark()
		if got[0].AsString() != user || password.AsString() != BusPassword("shared", user) {
			t.Errorf("instance %d has user %s, password %s", index, got[0].AsString(), password.AsString())
		}
		if _, sensitive := marks[Sensitive]; !sensitive {
			t.Errorf("the password of instance %d is shown", index)
		}
		if seen[password.AsString()] {
			t.Errorf("instance %d has another's password", index)
		}
		seen[password.AsString()] = true
	}
	if got := command("old", 0); got[0].AsString() != "nats" {
		t.Errorf("a job without a bus block has the user %s", got[0].AsString())
	}
	want := `[{"answer_seconds":7,"exact":false,"group":"talker","job":"talker","publish":["talk.*.to.\u003e","dea.{uuid}.start"],"subscribe":["staging","large"]}]`
	if got := command("nats", 0)[1].AsString(); got != want {
		t.Errorf("the bus knows the users\n%s, want\n%s", got, want)
	}
}

// A job with a route block has a second user for its agent, which may register routes
// and nothing else; it need not consume the bus, and keeps the shared user if it does.
func TestRouteUsers(t *testing.T) {
	m, err := busJobs(t, `
group "guest" {
  job "talker" {}
}
`, `
process "guest" {
  command = ["x"]
  route {
    host = "guest.${deployment.domain}"
    port = 8080
  }
}
`)
	if err != nil {
		t.Fatal(err)
	}
	ctx, diags := m.JobContext(Facts{}, "guest", 0, m.Group("guest").Jobs[0])
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	route := m.Group("guest").Jobs[0].Spec.Processes[0].Routes[0]
	for _, c := range []struct {
		expr hcl.Expression
		want string
	}{
		{route.Host, "guest.cf.localhost"},
		{route.User, "guest.0.talker-ROUTES"},
		{route.Password, BusPassword("shared", "guest.0.talker-ROUTES")},
	} {
		v, diags := Value(c.expr, ctx)
		if v, _ = v.Unmark(); diags.HasErrors() || v.AsString() != c.want {
			t.Errorf("got %#v, want %s: %v", v, c.want, diags)
		}
	}
	properties := ctx.Variables["link"].GetAttr("bus").GetAttr("property")
	if user := properties.GetAttr("user").AsString(); user != "nats" {
		t.Errorf("the job's own user is %s", user)
	}
	bus, diags := m.JobContext(Facts{}, "nats", 0, m.Group("nats").Jobs[0])
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	v, diags := Value(m.Group("nats").Jobs[0].Spec.Processes[0].Command, bus)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	want := `[{"answer_seconds":120,"exact":true,"group":"guest","job":"talker-ROUTES","publish":["router.register","router.unregister"],"subscribe":["router.start"]}]`
	if got := v.AsValueSlice()[1].AsString(); got != want {
		t.Errorf("the bus knows the users\n%s, want\n%s", got, want)
	}
	job, diags := LoadJob(fstest.MapFS{"page/job.hcl": {Data: []byte("process \"x\" {\n  command = [\"x\"]\n  route {\n    host = \"x.test\"\n    port = 1\n  }\n}\n")}}, "page")
	if diags.HasErrors() || job.BusConsume() == nil || !job.BusConsume().Optional {
		t.Errorf("a job with a route consumes %+v, %v", job.Consumes, diags)
	}
}

func TestBusBlockIsRefused(t *testing.T) {
	const group = "group \"talker\" {\n  job \"talker\" {}\n}\n"
	for _, c := range []struct{ name, manifest, bus, want string }{
		{"not a subject", group, `bus { publish = ["a b"] }`, "Invalid subject"},
		{"all subjects", group, `bus { publish = [">"] }`, "Invalid subject"},
		{"the server's own", group, `bus { subscribe = ["$SYS.>"] }`, "Invalid subject"},
		{"others' answers", group, `bus { subscribe = ["_INBOX_component.>"] }`, "Invalid subject"},
		{"no list", group, `bus { subscribe = "staging" }`, "Wrong type"},
		{"by instance", group, `bus { subscribe = [instance.id] }`, "properties only"},
		{"by instance, by way of a property", `
group "talker" {
  job "talker" {
    properties { queues = [instance.id] }
  }
}
`, `bus { subscribe = property.queues }`, "same for all instances"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := busJobs(t, c.manifest, c.bus)
			if err == nil {
				_, diags := m.JobContext(Facts{}, "nats", 0, m.Group("nats").Jobs[0])
				if diags.HasErrors() {
					err = diags
				}
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	m := fstest.MapFS{"mute/job.hcl": {Data: []byte("bus {}\nprocess \"x\" { command = [\"x\"] }\n")}}
	if _, diags := LoadJob(m, "mute"); !strings.Contains(diags.Error(), "does not consume it") {
		t.Errorf("a bus block without a bus: %v", diags)
	}
	// Every job of this project that uses the bus says what for.
	for _, name := range []string{"router", "dea", "stager", "health_manager", "cloud_controller"} {
		if job, diags := LoadJob(os.DirFS("../jobs"), name); diags.HasErrors() || job.Bus == nil {
			t.Errorf("job %s has no bus block: %v", name, diags)
		}
	}
}
