package render

import (
	"slices"
	"testing"
	"testing/fstest"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/manifests"
)

// A property with on_change, and a value of restart_on, restart the process
// although only a file changes that it would reload.
func TestOnChangeRestarts(t *testing.T) {
	const job = `
property "port" {
  type      = number
  default   = 1
  on_change = "restart"
}
property "level" { default = "info" }
property "settings" {
  type    = map(string)
  default = {}
}
template "web.yml" { on_change = "reload" }
process "web" {
  command    = ["/bin/web"]
  restart_on = lookup(property.settings, "late", "")
  reload { signal = "HUP" }
}
process "other" {
  command = ["/bin/other"]
  reload { signal = "HUP" }
}
`
	render := func(properties string) (*Instance, api.Job) {
		t.Helper()
		m, diags := manifests.Load(fstest.MapFS{"m.hcl": {Data: []byte(`deployment "d" {}
infrastructure "local" {}
group "g" {
  job "web" {
    properties {
      ` + properties + `
    }
  }
}
`)}}, "m.hcl", manifests.Options{Jobs: fstest.MapFS{
			"web/job.hcl":           {Data: []byte(job)},
			"web/templates/web.yml": {Data: []byte("${property.port} ${property.level} ${jsonencode(property.settings)}")},
		}})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		facts := manifests.Facts{Instances: map[string][]manifests.Instance{"g": {{Group: "g", Address: "127.0.0.2", AgentDir: "/vm"}}}}
		in, diags := New(m, facts, []byte("key"), nil).Instance(m.Group("g"), facts.Instances["g"][0])
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		return in, in.Spec.Jobs[0]
	}
	in, before := render("")
	for properties, want := range map[string][2]bool{ // the processes web and other restart
		`port = 1`:                              {false, false},
		`port = 2`:                              {true, true},
		`level = "debug"`:                       {false, false},
		`settings = { early = "x" }`:            {false, false},
		`settings = { late = "x" }`:             {true, false},
		`settings = { late = "" }`:              {false, false},
		`port = null`:                           {false, false},
		`port = group.g.instances[0].index + 2`: {true, true},
	} {
		_, after := render(properties)
		for i, p := range after.Processes {
			if restarts := p.Digest != before.Processes[i].Digest; restarts != want[i] {
				t.Errorf("%s: process %s restarts: %v, want %v", properties, p.Name, restarts, want[i])
			}
		}
	}
	if got := in.Sources[Part{"web", PartProcess, "web"}]; !slices.Equal(got, []string{"property.port", "property.settings"}) {
		t.Errorf("the process is made of %v", got)
	}
	// As long as the value is not known, neither is whether it restarts.
	in, after := render("port = length(group.g.instances[0].address)")
	if !in.Known || after.Processes[0].Digest == before.Processes[0].Digest {
		t.Errorf("a known port gives %+v", after.Processes)
	}
}
