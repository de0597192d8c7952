package plan

import (
	"slices"
	"testing"

	"github.com/clusterworks/deploy/agent/api"
)

// withInputs is spec, made of these inputs.
func withInputs(generation string, inputs map[string]string, change func(*api.Spec)) api.Spec {
	return spec(generation, func(s *api.Spec) {
		s.Jobs[0].Inputs = inputs
		if change != nil {
			change(s)
		}
	})
}

func TestCausesNameWhatChanged(t *testing.T) {
	sources := map[Part][]string{
		{"router", PartFile, "router.yml"}: {"link.bus.instances", "property.port", "template.router.yml"},
		{"router", PartFile, "routes.yml"}: {"property.routes"},
		{"router", PartProcess, "router"}:  {"package.router", "property.level"},
	}
	was := map[string]string{"link.bus.instances": "l1", "property.port": "1", "template.router.yml": "t1", "property.routes": "r1", "package.router": "p1", "property.level": "v1"}
	now := func(name, digest string) map[string]string {
		out := map[string]string{}
		for k, v := range was {
			out[k] = v
		}
		if name != "" {
			out[name] = digest
		}
		return out
	}
	restartFile := func(s *api.Spec) { s.Jobs[0].Files[0].Digest, s.Jobs[0].Processes[0].Digest = "f2", "d2" }
	old := withInputs("g-old", was, nil)
	tests := []struct {
		name      string
		inputs    map[string]string
		change    func(*api.Spec)
		old       *api.Spec
		unknown   bool
		action    Action
		causes    []string
		processes []string
	}{
		{
			name: "a property", inputs: now("property.port", "2"), change: restartFile, action: Update,
			causes: []string{"property port"}, processes: []string{"restart: router.yml (property port) changed"},
		},
		{
			name: "a template", inputs: now("template.router.yml", "t2"), change: restartFile, action: Update,
			causes: []string{"template router.yml"}, processes: []string{"restart: router.yml (template router.yml) changed"},
		},
		{
			name: "a link", inputs: now("link.bus.instances", "l2"), change: restartFile, action: Update,
			causes: []string{"link bus (instances)"}, processes: []string{"restart: router.yml (link bus (instances)) changed"},
		},
		{
			name: "a reload", inputs: now("property.routes", "r2"), action: Reload,
			change: func(s *api.Spec) { s.Jobs[0].Files[1].Digest, s.Jobs[0].Processes[0].ReloadDigest = "g2", "r2" },
			causes: []string{"property routes"}, processes: []string{"reload: routes.yml (property routes)"},
		},
		{
			name: "the environment", inputs: now("property.level", "v2"), action: Update,
			change: func(s *api.Spec) {
				s.Jobs[0].Processes[0].Env, s.Jobs[0].Processes[0].Digest = map[string]string{"LEVEL": "2"}, "d2"
			},
			causes: []string{"property level"}, processes: []string{"restart: environment LEVEL (property level) changed"},
		},
		{
			name: "a property with on_change", inputs: now("property.level", "v2"), action: Update,
			change: func(s *api.Spec) { s.Jobs[0].Processes[0].Digest = "d2" },
			causes: []string{"property level"}, processes: []string{"restart: property level changed"},
		},
		{
			name: "a package", inputs: now("package.router", "p2"), action: Update,
			change: func(s *api.Spec) {
				s.Packages[0].Digest, s.Jobs[0].Processes[0].Command, s.Jobs[0].Processes[0].Digest = "p2", []string{"store/p2/router"}, "d2"
			},
			causes: []string{"package router"}, processes: []string{"restart: package router changed"},
		},
		{
			name: "a check", inputs: now("", ""), action: Update,
			change: func(s *api.Spec) { s.Jobs[0].Processes[0].Checks = []api.Check{{Kind: api.CheckTCP}} },
			causes: []string{"health checks of router/router"},
		},
		{
			name: "a hook", inputs: now("", ""), action: Update,
			change: func(s *api.Spec) { s.Jobs[0].Hooks = []api.Hook{{Kind: api.HookErrand, Name: "backup"}} },
			causes: []string{"hook errand router/backup"},
		},
		{
			name: "a value known later, in a file that is only reloaded", inputs: now("property.routes", ""), unknown: true, action: Reload,
			change: func(s *api.Spec) { s.Jobs[0].Files[1].Digest, s.Jobs[0].Processes[0].ReloadDigest = "", "" },
			causes: []string{"property routes"}, processes: []string{"reload: depends on values known after apply: property routes"},
		},
		{
			name: "a value known later, in a file that asks for a restart", inputs: now("link.bus.instances", ""), unknown: true, action: Update,
			change: func(s *api.Spec) { s.Jobs[0].Files[0].Digest, s.Jobs[0].Processes[0].Digest = "", "" },
			causes: []string{"link bus (instances)"}, processes: []string{"restart: depends on values known after apply: link bus (instances)"},
		},
		{
			name: "installed by a deploy that told no inputs", inputs: now("property.port", "2"), change: restartFile, action: Update,
			old:    func() *api.Spec { s := spec("g-old", nil); return &s }(),
			causes: []string{"file router/router.yml"}, processes: []string{"restart: router.yml changed"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			active := &old
			if test.old != nil {
				active = test.old
			}
			w := Wanted{Spec: withInputs("g-new", test.inputs, test.change), Known: !test.unknown, Sources: sources, Shown: shown("a\n", "b\n")}
			if test.unknown {
				w.Spec.Generation = ""
				w.Shown = shown("a (known after apply)\n", "b (known after apply)\n")
				for i := range w.Spec.Jobs[0].Files { // only the one that is unknown differs
					if w.Spec.Jobs[0].Files[i].Digest != "" {
						w.Shown["router/"+w.Spec.Jobs[0].Files[i].Path] = []string{"a\n", "b\n"}[i]
					}
				}
			}
			got := instance(w, Existing{VM: true, Inventory: running(*active), Active: active, Shown: shown("a\n", "b\n")})
			if got.Action != test.action || !slices.Equal(got.Causes, test.causes) {
				t.Errorf("got %s because of %q, want %s because of %q", got.Action, got.Causes, test.action, test.causes)
			}
			var processes []string
			for _, p := range got.Processes {
				processes = append(processes, string(p.Action)+": "+p.Cause)
			}
			if !slices.Equal(processes, test.processes) {
				t.Errorf("processes %q, want %q", processes, test.processes)
			}
		})
	}
}
