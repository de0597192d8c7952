package plan

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/agent/api"
)

// spec is a router with one restart-class and one reload-class file.
func spec(generation string, change func(*api.Spec)) api.Spec {
	s := api.Spec{
		Generation: generation, Instance: "router/0", Group: "router", Address: "127.0.0.2",
		Packages: []api.Package{{Name: "router", Digest: "p1"}},
		Jobs: []api.Job{{
			Name: "router",
			Files: []api.File{
				{Path: "router.yml", Mode: 0o640, Digest: "f1", OnChange: api.OnChangeRestart},
				{Path: "routes.yml", Mode: 0o640, Digest: "g1", OnChange: api.OnChangeReload},
			},
			Processes: []api.Process{{
				Name: "router", Command: []string{"store/p1/router"}, Digest: "d1", ReloadDigest: "r1",
				Reload: &api.Reload{Signal: "HUP"},
			}},
		}},
	}
	if change != nil {
		change(&s)
	}
	return s
}

func running(s api.Spec) *api.Inventory {
	inv := &api.Inventory{Installed: api.Installed{Active: s.Generation}, State: api.InstanceRunning}
	for _, j := range s.Jobs {
		for _, p := range j.Processes {
			inv.Processes = append(inv.Processes, api.ProcessStatus{
				Job: j.Name, Name: p.Name, State: api.ProcessRunning, PID: 1, Digest: p.Digest, ReloadDigest: p.ReloadDigest,
			})
		}
	}
	return inv
}

func drifted(s api.Spec, drift ...api.Drift) *api.Inventory {
	inv := running(s)
	inv.Drift = drift
	return inv
}

func shown(a, b string) map[string]string {
	return map[string]string{"router/router.yml": a, "router/routes.yml": b}
}

func TestInstance(t *testing.T) {
	old := spec("g-old", nil)
	tests := []struct {
		name      string
		wanted    Wanted
		existing  Existing
		action    Action
		cause     string // part of the causes
		processes []string
		diff      string // part of the diffs
	}{
		{
			name:      "no VM",
			wanted:    Wanted{Spec: spec("", nil), Shown: shown("a\n", "b\n")},
			action:    Create,
			cause:     "no VM yet",
			processes: []string{"start router/router: first start"},
			diff:      "+a",
		},
		{
			name:     "as wanted",
			wanted:   Wanted{Spec: old, Known: true, Shown: shown("a\n", "b\n")},
			existing: Existing{VM: true, Inventory: running(old), Active: &old, Shown: shown("a\n", "b\n")},
			action:   None,
		},
		{
			name: "URIs of the image changed by the manifest",
			wanted: Wanted{Known: true, Shown: shown("a\n", "b\n"), Spec: spec("g-new", func(s *api.Spec) {
				s.Jobs[0].Mbus, s.Jobs[0].Processes[0].Digest = &api.Mbus{Password: "new"}, "d2"
			})},
			existing:  Existing{VM: true, Inventory: running(old), Active: &old, Shown: shown("a\n", "b\n")},
			action:    Update,
			cause:     "process router/router",
			processes: []string{"restart router/router: message-bus URIs changed"},
		},
		{
			name:   "another VM, and the same for it",
			wanted: Wanted{Spec: old, Known: true, Shown: shown("a\n", "b\n")},
			existing: Existing{
				VM: true, Inventory: running(old), Active: &old, Shown: shown("a\n", "b\n"), Replace: []string{"VM: memory_mb 512 -> 1024"},
			},
			action:    Recreate,
			cause:     "VM: memory_mb 512 -> 1024",
			processes: []string{"start router/router: first start on its new VM"},
		},
		{
			name:     "another VM, and its agent is silent",
			wanted:   Wanted{Spec: old, Known: true},
			existing: Existing{VM: true, Replace: []string{"VM: memory_mb 512 -> 1024"}},
			action:   Blocked,
			cause:    "the agent does not answer",
		},
		{
			name: "a restart-class file",
			wanted: Wanted{Known: true, Shown: shown("a2\n", "b\n"), Spec: spec("g-new", func(s *api.Spec) {
				s.Jobs[0].Files[0].Digest, s.Jobs[0].Processes[0].Digest = "f2", "d2"
			})},
			existing:  Existing{VM: true, Inventory: running(old), Active: &old, Shown: shown("a\n", "b\n")},
			action:    Update,
			cause:     "file router/router.yml",
			processes: []string{"restart router/router: router.yml changed"},
			diff:      "-a\n+a2",
		},
		{
			name: "a reload-class file",
			wanted: Wanted{Known: true, Shown: shown("a\n", "b2\n"), Spec: spec("g-new", func(s *api.Spec) {
				s.Jobs[0].Files[1].Digest, s.Jobs[0].Processes[0].ReloadDigest = "g2", "r2"
			})},
			existing:  Existing{VM: true, Inventory: running(old), Active: &old, Shown: shown("a\n", "b\n")},
			action:    Reload,
			processes: []string{"reload router/router: routes.yml"},
			diff:      "-b\n+b2",
		},
		{
			name:   "a file was changed by hand",
			wanted: Wanted{Spec: old, Known: true, Shown: shown("a\n", "b\n")},
			existing: Existing{VM: true, Active: &old, Shown: shown("a\n", "b\n"), Inventory: drifted(old,
				api.Drift{Path: "jobs/router/router.yml", Kind: api.DriftChanged, Job: "router", Restart: []string{"router/router"}})},
			action:    Restart,
			cause:     "drift: jobs/router/router.yml changed by hand",
			processes: []string{"restart router/router: drift: jobs/router/router.yml changed by hand"},
		},
		{
			name:   "a reload-class file was removed by hand",
			wanted: Wanted{Spec: old, Known: true, Shown: shown("a\n", "b\n")},
			existing: Existing{VM: true, Active: &old, Shown: shown("a\n", "b\n"), Inventory: drifted(old,
				api.Drift{Path: "jobs/router/routes.yml", Kind: api.DriftMissing, Job: "router", Reload: []string{"router/router"}})},
			action:    Reload,
			cause:     "drift: jobs/router/routes.yml removed by hand",
			processes: []string{"reload router/router: drift: jobs/router/routes.yml removed by hand"},
		},
		{
			name:   "a mode was changed by hand",
			wanted: Wanted{Spec: old, Known: true, Shown: shown("a\n", "b\n")},
			existing: Existing{VM: true, Active: &old, Shown: shown("a\n", "b\n"), Inventory: drifted(old,
				api.Drift{Path: "jobs/router/router.yml", Kind: api.DriftMode, Job: "router"})},
			action: Update,
			cause:  "drift: jobs/router/router.yml has another mode or owner",
		},
		{
			name:   "a program has added a file to its package",
			wanted: Wanted{Spec: old, Known: true, Shown: shown("a\n", "b\n")},
			existing: Existing{VM: true, Active: &old, Shown: shown("a\n", "b\n"), Inventory: drifted(old,
				api.Drift{Path: "store/p1/cache", Kind: api.DriftExtra, Package: "router", Left: true})},
			action: None,
		},
		{
			name: "a file was changed by hand where another reloads",
			wanted: Wanted{Known: true, Shown: shown("a\n", "b2\n"), Spec: spec("g-new", func(s *api.Spec) {
				s.Jobs[0].Files[1].Digest, s.Jobs[0].Processes[0].ReloadDigest = "g2", "r2"
			})},
			existing: Existing{VM: true, Active: &old, Shown: shown("a\n", "b\n"), Inventory: drifted(old,
				api.Drift{Path: "store/p1/router", Kind: api.DriftChanged, Package: "router", Restart: []string{"router/router"}})},
			action:    Update,
			cause:     "drift: store/p1/router changed by hand",
			processes: []string{"restart router/router: drift: store/p1/router changed by hand"},
			diff:      "-b\n+b2",
		},
		{
			name: "a secret only",
			wanted: Wanted{Known: true, Shown: shown("a\n", "b\n"), Spec: spec("g-new", func(s *api.Spec) {
				s.Jobs[0].Files[0].Digest, s.Jobs[0].Processes[0].Digest = "f2", "d2"
			})},
			existing:  Existing{VM: true, Inventory: running(old), Active: &old, Shown: shown("a\n", "b\n")},
			action:    Update,
			processes: []string{"restart router/router: router.yml changed"},
			diff:      "a sensitive value changed",
		},
		{
			name: "a package",
			wanted: Wanted{Known: true, Shown: shown("a\n", "b\n"), Spec: spec("g-new", func(s *api.Spec) {
				s.Packages[0].Digest = "p2"
				s.Jobs[0].Processes[0].Command, s.Jobs[0].Processes[0].Digest = []string{"store/p2/router"}, "d2"
			})},
			existing:  Existing{VM: true, Inventory: running(old), Active: &old, Shown: shown("a\n", "b\n")},
			action:    Update,
			cause:     "package router",
			processes: []string{"restart router/router: package router changed"},
		},
		{
			name:   "a process still runs the generation before",
			wanted: Wanted{Spec: old, Known: true, Shown: shown("a\n", "b\n")},
			existing: Existing{VM: true, Active: &old, Shown: shown("a\n", "b\n"), Inventory: func() *api.Inventory {
				inv := running(old)
				inv.Processes[0].Digest = "d0"
				return inv
			}()},
			action:    Restart,
			processes: []string{"restart router/router: it runs an earlier specification"},
		},
		{
			name:   "a stopped process and one too many",
			wanted: Wanted{Spec: old, Known: true, Shown: shown("a\n", "b\n")},
			existing: Existing{VM: true, Active: &old, Shown: shown("a\n", "b\n"), Inventory: func() *api.Inventory {
				inv := running(old)
				inv.Processes[0].State = api.ProcessStopped
				inv.Processes = append(inv.Processes, api.ProcessStatus{Job: "x", Name: "y", State: api.ProcessRunning})
				return inv
			}()},
			action:    Restart,
			processes: []string{"start router/router: it is stopped", "stop x/y: not in the manifest"},
		},
		{
			name:   "an interrupted update",
			wanted: Wanted{Spec: old, Known: true, Shown: shown("a\n", "b\n")},
			existing: Existing{VM: true, Active: &old, Shown: shown("a\n", "b\n"), Inventory: func() *api.Inventory {
				inv := running(old)
				inv.Interrupted = true
				return inv
			}()},
			action: Restart,
			cause:  "interrupted",
		},
		{
			name:     "a silent agent",
			wanted:   Wanted{Spec: old, Known: true},
			existing: Existing{VM: true},
			action:   Blocked,
			cause:    "does not answer",
		},
		{
			name:      "a VM that was made anew by hand",
			wanted:    Wanted{Spec: old, Known: true, Shown: shown("a\n", "b\n")},
			existing:  Existing{VM: true, Remade: true, Silent: "its host key is another", Shown: shown("a\n", "b\n")},
			action:    Create,
			cause:     "another VM has been made in place of the one that was there",
			processes: []string{"start router/router: first start on its new VM"},
		},
		{
			name:      "a VM that is gone",
			wanted:    Wanted{Spec: old, Known: true, Shown: shown("a\n", "b\n")},
			existing:  Existing{Known: true},
			action:    Create,
			cause:     "its VM is gone",
			processes: []string{"start router/router: first start"},
			diff:      "+a",
		},
		{
			name:     "a VM that is not running",
			wanted:   Wanted{Spec: old, Known: true},
			existing: Existing{VM: true, Stopped: true},
			action:   Start,
		},
		{
			name:   "failed last time",
			wanted: Wanted{Known: true, Shown: shown("a\n", "b\n"), Spec: spec("g-bad", func(s *api.Spec) { s.Jobs[0].Processes[0].Digest = "d2" })},
			existing: Existing{VM: true, Inventory: running(old), Active: &old, Shown: shown("a\n", "b\n"),
				FailedGeneration: "g-bad", FailedReason: "router exited with status 3"},
			action:    Update,
			cause:     "failed last time: router exited with status 3",
			processes: []string{"restart router/router: it runs an earlier specification"},
		},
		{
			name:     "the agent itself",
			wanted:   Wanted{Spec: old, Known: true, Shown: shown("a\n", "b\n")},
			existing: Existing{VM: true, Inventory: running(old), Active: &old, Shown: shown("a\n", "b\n"), Agent: []string{"agent program"}},
			action:   Update,
			cause:    "agent program",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.wanted.Group = "router"
			p := Make("cf", []Wanted{tt.wanted}, map[string]Existing{"router/0": tt.existing}, nil)
			got := p.Instances[0]
			if got.Action != tt.action {
				t.Errorf("action %q, want %q (causes %v)", got.Action, tt.action, got.Causes)
			}
			if causes := strings.Join(got.Causes, "; "); !strings.Contains(causes, tt.cause) {
				t.Errorf("causes %q do not tell %q", causes, tt.cause)
			}
			var processes []string
			for _, c := range got.Processes {
				processes = append(processes, string(c.Action)+" "+c.Job+"/"+c.Name+": "+c.Cause)
			}
			if !slices.Equal(processes, tt.processes) {
				t.Errorf("processes %q, want %q", processes, tt.processes)
			}
			var diffs string
			for _, f := range got.Files {
				diffs += f.Diff
			}
			if !strings.Contains(diffs, tt.diff) || tt.diff == "" && diffs != "" {
				t.Errorf("diffs\n%s\ndo not hold %q", diffs, tt.diff)
			}
			if p.Empty() != (tt.action == None) {
				t.Errorf("Empty is %v for action %s", p.Empty(), tt.action)
			}
		})
	}
}

func TestRemovedInstancesAreDeleted(t *testing.T) {
	old := spec("g", nil)
	p := Make("cf", nil, map[string]Existing{"router/0": {VM: true, Inventory: running(old)}, "gone/1": {}}, nil)
	if len(p.Instances) != 1 || p.Instances[0].Action != Delete || p.Instances[0].Processes[0].Action != ProcessStop {
		t.Errorf("got %+v", p.Instances)
	}
}

// An applied plan, planned again, is empty: whatever runs and whatever is wanted.
func TestAppliedPlanIsEmpty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wanted := randomSpec(t, "wanted")
		before := randomSpec(t, "before")
		w := Wanted{Group: "router", Spec: wanted, Known: true}
		first := Make("cf", []Wanted{w}, map[string]Existing{"router/0": {VM: true, Inventory: running(before), Active: &before}}, nil)
		if before.Generation != wanted.Generation && first.Empty() {
			t.Fatal("a different generation gives an empty plan")
		}
		after := running(before)
		for _, c := range first.Instances[0].Processes {
			apply(after, c, wanted)
		}
		after.Active = wanted.Generation
		second := Make("cf", []Wanted{w}, map[string]Existing{"router/0": {VM: true, Inventory: after, Active: &wanted}}, nil)
		if !second.Empty() {
			t.Fatalf("not empty after it was applied: %+v", second.Instances[0])
		}
		if !second.Refines(first) || !first.Refines(first) {
			t.Fatal("a plan does not refine itself")
		}
	})
}

func randomSpec(t *rapid.T, label string) api.Spec {
	s := api.Spec{Instance: "router/0", Generation: rapid.SampledFrom([]string{"g1", "g2"}).Draw(t, label+" generation")}
	if s.Generation == "g1" { // one generation, one content
		s.Jobs = []api.Job{{Name: "j", Processes: []api.Process{{Name: "p0", Digest: "d", ReloadDigest: "r"}}}}
		return s
	}
	job := api.Job{Name: "j"}
	for i := range rapid.IntRange(0, 3).Draw(t, label+" processes") {
		job.Processes = append(job.Processes, api.Process{
			Name: "p" + string(rune('0'+i)), Digest: rapid.SampledFrom([]string{"d", "e"}).Draw(t, "digest"), ReloadDigest: rapid.SampledFrom([]string{"r", "s"}).Draw(t, "reload"),
		})
	}
	s.Jobs = []api.Job{job}
	s.Generation += label
	return s
}

func apply(inv *api.Inventory, c ProcessChange, wanted api.Spec) {
	inv.Processes = slices.DeleteFunc(inv.Processes, func(s api.ProcessStatus) bool { return s.Job == c.Job && s.Name == c.Name })
	if c.Action == ProcessStop {
		return
	}
	p := findProcess(&wanted, c.Job, c.Name)
	inv.Processes = append(inv.Processes, api.ProcessStatus{Job: c.Job, Name: c.Name, State: api.ProcessRunning, Digest: p.Digest, ReloadDigest: p.ReloadDigest})
}
