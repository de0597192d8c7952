package render

import (
	"reflect"
	"testing"
	"testing/fstest"

	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/manifests"
)

// TestMbus: the settings of an mbus block come from the link to the bus unless
// the job says them, and are part of what its processes are started with.
func TestMbus(t *testing.T) {
	const bus = `
property "port" {
  type    = number
  default = 4222
}
property "user" {
  type    = string
  default = "nats"
}
property "password" {
  type      = string
  sensitive = true
}
provides "bus" { properties = ["port", "user", "password"] }
`
	const manifest = `
deployment "cf" {}
infrastructure "local" {}
secret "nats" { type = "password" }
group "nats" {
  instances = 2
  job "nats" {
    properties { password = secret.nats.value }
  }
}
group "web" {
  instances = 2
  job "web" {}
}
`
	render := func(t *testing.T, mbus, password, agentDir string) api.Job {
		t.Helper()
		m, diags := manifests.Load(fstest.MapFS{"cluster.hcl": {Data: []byte(manifest)}}, "cluster.hcl", manifests.Options{Jobs: fstest.MapFS{
			"nats/job.hcl": {Data: []byte(bus)},
			"web/job.hcl":  {Data: []byte("consumes \"bus\" {}\nprocess \"web\" { command = [\"${path.image}/bin/web\"] }\n" + mbus)},
		}})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		facts := manifests.Facts{
			Secrets: map[string]cty.Value{"nats": cty.ObjectVal(map[string]cty.Value{"value": cty.StringVal(password)})},
			Instances: map[string][]manifests.Instance{
				"nats": {{Group: "nats", Index: 0, Address: "127.0.0.8", AgentDir: "/n0"}, {Group: "nats", Index: 1, Address: "127.0.0.9", AgentDir: "/n1"}},
				"web":  {{Group: "web", Index: 0, Address: "127.0.0.2", AgentDir: "/w0", ImageDir: "/image0"}, {Group: "web", Index: 1, Address: "127.0.0.3", AgentDir: agentDir}},
			},
		}
		in, diags := New(m, facts, []byte("key"), nil).Instance(m.Group("web"), facts.Instances["web"][1])
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		if in.Known != (agentDir != "") {
			t.Errorf("known: %v", in.Known)
		}
		return in.Spec.Jobs[0]
	}

	job := render(t, `mbus { files = ["config/*.yml"] }`, "one", "/w1")
	want := &api.Mbus{Folder: "/", Files: []string{"config/*.yml"}, Servers: []string{"127.0.0.8:4222", "127.0.0.9:4222"}, User: "nats", Password: "one", Choice: 1}
	if !reflect.DeepEqual(job.Mbus, want) {
		t.Errorf("got %+v, want %+v", job.Mbus, want)
	}
	if again := render(t, `mbus { files = ["config/*.yml"] }`, "two", "/w1"); again.Processes[0].Digest == job.Processes[0].Digest {
		t.Error("another password, the same digest of the process")
	}
	if without := render(t, "", "one", "/w1"); without.Mbus != nil || without.Processes[0].Digest == job.Processes[0].Digest {
		t.Errorf("without the block: %+v", without)
	}
	render(t, `mbus { files = ["config/*.yml"] }`, "one", "")

	job = render(t, `mbus {
  files   = ["/etc/*.yml"]
  servers = [for b in link.bus.instances : b.address]
  user    = "cf"
  scheme  = "tls"
}`, "one", "/w1")
	want = &api.Mbus{Folder: "/", Files: []string{"/etc/*.yml"}, Servers: []string{"127.0.0.8", "127.0.0.9"}, User: "cf", Scheme: "tls", Choice: 1}
	if !reflect.DeepEqual(job.Mbus, want) {
		t.Errorf("got %+v, want %+v", job.Mbus, want)
	}
}
