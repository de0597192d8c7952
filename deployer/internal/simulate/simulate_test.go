package simulate

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"deploy/agent/api"
	"deploy/deployer/internal/rollout"
	"deploy/manifests"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func policy(canaries, maxInFlight int, f manifests.OnFailure) rollout.Policy {
	return rollout.Policy{Canaries: canaries, MaxInFlight: maxInFlight, MinHealthy: 3 * time.Second, WatchMax: time.Minute, OnFailure: f}
}

// group has n healthy instances that need an update.
func group(name string, n int, p rollout.Policy, requires ...string) rollout.Group {
	g := rollout.Group{Name: name, Requires: requires, Policy: p}
	g.Policy.MinAvailable = max(0, n-p.MaxInFlight)
	for i := range n {
		g.Instances = append(g.Instances, rollout.Instance{
			ID: api.InstanceID(name, i), AZ: fmt.Sprint("z", i%2), Action: rollout.ActionUpdate,
			Generation: "new", Previous: "old", Healthy: true})
	}
	return g
}

// cluster has something of everything.
func cluster(f manifests.OnFailure) rollout.Plan {
	nats := group("nats", 3, policy(1, 1, f))
	router := group("router", 5, policy(1, 2, f), "nats")
	router.Instances[3].Action = rollout.ActionRecreate
	router.Instances[4].Healthy = false
	lb := group("lb", 1, policy(1, 1, f), "router")
	cc := group("cc", 3, policy(0, 2, f), "nats")
	cc.Instances[1].Action = rollout.ActionNone
	dea := group("dea", 3, policy(1, 1, f), "cc")
	dea.FirstDeploy = true
	for i := range dea.Instances {
		dea.Instances[i].Action, dea.Instances[i].Previous, dea.Instances[i].Healthy = rollout.ActionCreate, "", false
	}
	return rollout.Plan{ID: "r1", Groups: []rollout.Group{nats, lb, router, cc, dea}, Removals: []rollout.Removal{
		{Group: "db", MaxInFlight: 1, Next: "delete", Instances: []rollout.RemovedInstance{{ID: "db/0"}, {ID: "db/1"}}},
		{Group: "web", Requires: []string{"db"}, MaxInFlight: 1, Next: "delete", Instances: []rollout.RemovedInstance{{ID: "web/0"}, {ID: "web/1", NoAgent: true}}},
	}}
}

func run(t rapid.TB, p rollout.Plan, m rollout.Memory, o Options) Report {
	t.Helper()
	r, err := Run(p, m, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Broken) > 0 {
		text, _ := json.MarshalIndent(p, "", " ")
		t.Fatalf("broken promises:\n%s\nin %s", strings.Join(r.Broken, "\n"), text)
	}
	return r
}

func TestAWholeClusterIsRolled(t *testing.T) {
	r := run(t, cluster(manifests.OnFailureRollback), rollout.Memory{}, Options{Seed: 7, AgentEnds: 20})
	if r.State.Outcome != rollout.OutcomeDone {
		t.Fatalf("ended with %s: %+v", r.State.Outcome, r.State.Failures())
	}
	for _, x := range r.Instances {
		gone := strings.HasPrefix(x.ID, "db/") || strings.HasPrefix(x.ID, "web/")
		if x.Deleted != gone || !gone && (!x.Healthy || x.Generation != "new") {
			t.Errorf("ended with %+v", x)
		}
	}
	for _, g := range r.Groups {
		if g.Name == "router" && (g.MaxInFlight != 2 || g.LowestAvailable != 3 || g.Touched != 5) {
			t.Errorf("went through %+v, want 2 of 5 in flight at most", g)
		}
	}
}

// The deployer is killed at every event, at every point of it.
func TestKilledAtEveryEvent(t *testing.T) {
	for _, test := range []struct {
		name    string
		options Options
		want    rollout.Outcome
	}{
		{"well", Options{Seed: 1}, rollout.OutcomeDone},
		{"agents end too", Options{Seed: 2, AgentEnds: 20}, rollout.OutcomeDone},
		{"a canary fails", Options{Seed: 3, Faults: []Fault{{Instance: "nats/0", Command: rollout.CommandUpdate}}}, rollout.OutcomeFailed},
		{"a canary is silent", Options{Seed: 4, Faults: []Fault{{Instance: "nats/0", Command: rollout.CommandUpdate, Silent: true}}}, rollout.OutcomeFailed},
		{"a prepare fails", Options{Seed: 5, Faults: []Fault{{Instance: "cc/2", Command: rollout.CommandPrepare}}}, rollout.OutcomeFailed},
		{"a VM cannot be replaced", Options{Seed: 6, Faults: []Fault{{Instance: "router/3", Command: rollout.CommandReplaceVM}}}, rollout.OutcomeFailed},
	} {
		for _, f := range []manifests.OnFailure{manifests.OnFailureRollback, manifests.OnFailureHalt, manifests.OnFailureRollbackAll} {
			if test.want == rollout.OutcomeDone && f != manifests.OnFailureRollback {
				continue // it does not matter
			}
			t.Run(test.name+" "+string(f), func(t *testing.T) {
				p := cluster(f)
				whole := run(t, p, rollout.Memory{}, test.options)
				if whole.State.Outcome != test.want {
					t.Fatalf("ends with %q, want %q; failures %+v", whole.State.Outcome, test.want, whole.State.Failures())
				}
				for at := 1; at <= whole.Steps; at++ {
					for _, kill := range []Kill{KillBeforeSave, KillAfterSave, KillHalfSent, KillAfterSend} {
						o := test.options
						o.Kill = func(step int) Kill {
							if step == at {
								return kill
							}
							return KillNever
						}
						r := run(t, p, rollout.Memory{}, o)
						if r.State.Outcome != whole.State.Outcome {
							t.Fatalf("killed at step %d (%d): ends with %q, want %q; failures %+v", at, kill, r.State.Outcome, whole.State.Outcome, r.State.Failures())
						}
						if test.want == rollout.OutcomeDone && (r.Operations != whole.Operations || !cmp.Equal(r.Instances, whole.Instances)) {
							t.Fatalf("killed at step %d (%d): %d operations, want %d; instances (-want +got):\n%s", at, kill, r.Operations, whole.Operations, cmp.Diff(whole.Instances, r.Instances))
						}
					}
				}
			})
		}
	}
}

func TestASilentAgentDoesNotHoldTheRollout(t *testing.T) {
	for _, command := range []rollout.CommandKind{rollout.CommandPrepare, rollout.CommandUpdate, rollout.CommandStop, rollout.CommandReplaceVM} {
		r := run(t, cluster(manifests.OnFailureRollback), rollout.Memory{}, Options{Seed: 1, Faults: []Fault{{Instance: "router/3", Command: command, Silent: true}}})
		f := r.State.Failures()
		if command == rollout.CommandUpdate && r.State.Outcome != rollout.OutcomeFailed || len(f) == 0 && r.State.Outcome != rollout.OutcomeDone {
			t.Errorf("%s: ended with %s, %+v", command, r.State.Outcome, f)
		}
	}
}

// A deployer that is killed for good is followed by one that plans anew from
// what is there and what was remembered, again and again.
func TestReplanning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := plans.Draw(t, "plan")
		p.Removals = nil
		bad := rapid.Bool().Draw(t, "bad")
		o := Options{Seed: rapid.Uint64().Draw(t, "seed")}
		if bad {
			o.Bad = []string{"new"}
		}
		touched := map[string]bool{} // of groups that are no first deploys
		watch := func(r Report) {
			for g, progress := range r.State.Groups {
				for _, x := range progress.Instances {
					if x.Touched && !p.Groups[g].FirstDeploy {
						touched[x.ID] = true
					}
				}
			}
		}
		memory, current := rollout.Memory{}, p
		for round := range rapid.IntRange(0, 4).Draw(t, "rounds") {
			o.Leave = rapid.IntRange(2, 40).Draw(t, "leave")
			r := run(t, current, memory, o)
			watch(r)
			if len(r.State.Failures()) > 0 {
				clear(touched) // who applies it once more knows that it failed
			}
			memory, current = r.State.Memory(), replan(p, r, round)
		}
		o.Leave = 0
		r := run(t, current, memory, o)
		watch(r)
		if !bad {
			if !wanted(p, r) {
				for _, f := range r.State.Failures() {
					if f.Instance != "" {
						t.Fatalf("ended with %s, %+v, %+v", r.State.Outcome, f, r.Instances)
					}
				}
				if r.State.Outcome != rollout.OutcomeFailed {
					t.Fatalf("ended with %s, %+v", r.State.Outcome, r.Instances)
				}
				return // blocked by sick instances that need nothing
			}
			again := run(t, replan(p, r, 9), r.State.Memory(), Options{})
			if again.Operations != 0 {
				t.Fatalf("a second rollout did %d operations", again.Operations)
			}
			return
		}
		for _, g := range p.Groups {
			n := 0
			for _, x := range g.Instances {
				if touched[x.ID] {
					n++
				}
			}
			if limit := max(g.Policy.Canaries, 1); g.Policy.Canaries > 0 && n > limit {
				t.Fatalf("a bad digest touched %d instances of %s, which has %d canaries", n, g.Name, g.Policy.Canaries)
			}
		}
	})
}

// replan is what the planner would make of a cluster as a run left it.
func replan(p rollout.Plan, r Report, round int) rollout.Plan {
	at := 0
	next := rollout.Plan{ID: fmt.Sprint("again", round)}
	for _, g := range p.Groups {
		g.Instances = slices.Clone(g.Instances)
		known, _ := r.State.Memory().Group(g.Name)
		g.FirstDeploy = g.FirstDeploy && !known.Served
		for i := range g.Instances {
			now, x := r.Instances[at], &g.Instances[i]
			at++
			x.Healthy = now.Healthy
			switch {
			case x.Action == rollout.ActionNone:
			case now.Generation == x.Generation && now.Healthy:
				x.Action = rollout.ActionNone
			default:
				x.Action, x.Previous = rollout.ActionUpdate, now.Generation
			}
		}
		next.Groups = append(next.Groups, g)
	}
	return next
}

// wanted: every instance that needed something is as it should be.
func wanted(p rollout.Plan, r Report) bool {
	at := 0
	for _, g := range p.Groups {
		for _, x := range g.Instances {
			now := r.Instances[at]
			at++
			if x.Action != rollout.ActionNone && (now.Generation != x.Generation || !now.Healthy) {
				return false
			}
		}
	}
	return r.State.Outcome == rollout.OutcomeDone
}

// Whatever happens, every promise holds (run checks them) and the rollout ends.
func TestPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := plans.Draw(t, "plan")
		var ids []string
		for _, g := range p.Groups {
			for _, x := range g.Instances {
				ids = append(ids, x.ID)
			}
		}
		for _, r := range p.Removals {
			for _, x := range r.Instances {
				ids = append(ids, x.ID)
			}
		}
		o := Options{Seed: rapid.Uint64().Draw(t, "seed"), AgentEnds: rapid.SampledFrom([]int{0, 10, 50}).Draw(t, "agent ends")}
		for range rapid.IntRange(0, 3).Draw(t, "faults") {
			o.Faults = append(o.Faults, Fault{
				Instance: rapid.SampledFrom(ids).Draw(t, "instance"),
				Command:  rapid.SampledFrom(moments).Draw(t, "moment").command,
				Silent:   rapid.Bool().Draw(t, "silent"),
			})
		}
		if rapid.IntRange(0, 3).Draw(t, "bad") == 0 {
			o.Bad = []string{"new"}
		}
		for range rapid.IntRange(0, 5).Draw(t, "health") {
			o.Health = append(o.Health, Health{
				At:       time.Duration(rapid.IntRange(0, 300).Draw(t, "at")) * time.Second,
				Instance: rapid.SampledFrom(ids).Draw(t, "instance"),
				Healthy:  rapid.Bool().Draw(t, "healthy"),
			})
		}
		if rapid.IntRange(0, 3).Draw(t, "interrupted") == 0 {
			o.Interrupt = rapid.IntRange(1, 60).Draw(t, "interrupt")
		}
		kills := rapid.SliceOfN(rapid.IntRange(1, 120), 0, 6).Draw(t, "kills")
		points := rapid.SliceOfN(rapid.IntRange(int(KillBeforeSave), int(KillAfterSend)), 6, 6).Draw(t, "points")
		o.Kill = func(step int) Kill {
			if i := slices.Index(kills, step); i >= 0 {
				return Kill(points[i])
			}
			return KillNever
		}
		r := run(t, p, rollout.Memory{}, o)
		if r.State.Outcome == "" {
			t.Fatal("has not ended")
		}
		for g, report := range r.Groups {
			spec := p.Groups[g]
			if !spec.FirstDeploy && report.MaxInFlight > spec.Policy.MaxInFlight {
				t.Fatalf("%+v, but max_in_flight is %d", report, spec.Policy.MaxInFlight)
			}
			if len(o.Bad) > 0 && !spec.FirstDeploy && spec.Policy.Canaries > 0 && report.Touched > spec.Policy.Canaries {
				t.Fatalf("a bad digest touched %+v, but there are %d canaries", report, spec.Policy.Canaries)
			}
		}
		if again := run(t, p, rollout.Memory{}, o); !cmp.Equal(again, r) {
			t.Fatalf("the same seed gave another run:\n%s", cmp.Diff(r, again))
		}
	})
}

// plans are random, of every kind that rollout.New accepts.
var plans = rapid.Custom(func(t *rapid.T) rollout.Plan {
	p := rollout.Plan{ID: "r1", Parallel: rapid.IntRange(1, 8).Draw(t, "parallel")}
	actions := []rollout.Action{rollout.ActionUpdate, rollout.ActionUpdate, rollout.ActionUpdate, rollout.ActionRecreate, rollout.ActionNone}
	failures := []manifests.OnFailure{manifests.OnFailureRollback, manifests.OnFailureHalt, manifests.OnFailureRollbackAll}
	for gi := range rapid.IntRange(1, 4).Draw(t, "groups") {
		n := rapid.IntRange(1, 7).Draw(t, "instances")
		g := group(fmt.Sprint("g", gi), n, policy(rapid.IntRange(0, 3).Draw(t, "canaries"), rapid.IntRange(1, 4).Draw(t, "max in flight"), rapid.SampledFrom(failures).Draw(t, "on failure")))
		g.FirstDeploy = rapid.IntRange(0, 3).Draw(t, "first") == 0
		for other := range gi {
			if rapid.Bool().Draw(t, "requires") {
				g.Requires = append(g.Requires, fmt.Sprint("g", other))
			}
		}
		for i := range g.Instances {
			x := &g.Instances[i]
			x.AZ = fmt.Sprint("z", rapid.IntRange(0, 2).Draw(t, "az"))
			if g.FirstDeploy {
				x.Action, x.Previous, x.Healthy = rollout.ActionCreate, "", false
				continue
			}
			x.Action = rapid.SampledFrom(actions).Draw(t, "action")
			x.Healthy = rapid.IntRange(0, 5).Draw(t, "sick") > 0
		}
		p.Groups = append(p.Groups, g)
	}
	slices.Reverse(p.Groups) // the order of declaration is not that of the start
	for ri := range rapid.IntRange(0, 2).Draw(t, "removals") {
		r := rollout.Removal{Group: fmt.Sprint("old", ri), MaxInFlight: rapid.IntRange(1, 3).Draw(t, "max in flight"), Next: "delete"}
		for other := range ri {
			r.Requires = append(r.Requires, fmt.Sprint("old", other))
		}
		for i := range rapid.IntRange(1, 4).Draw(t, "instances") {
			r.Instances = append(r.Instances, rollout.RemovedInstance{ID: api.InstanceID(r.Group, i), NoAgent: rapid.IntRange(0, 3).Draw(t, "agent") == 0})
		}
		p.Removals = append(p.Removals, r)
	}
	return p
})

func TestParseFault(t *testing.T) {
	for text, want := range map[string]Fault{
		"router/3@start":      {Instance: "router/3", Command: rollout.CommandUpdate},
		"db/0@stop:silent":    {Instance: "db/0", Command: rollout.CommandStop, Silent: true},
		"hello/12@rollback":   {Instance: "hello/12", Command: rollout.CommandRollback},
		"nats/0@watch:silent": {Instance: "nats/0", Command: rollout.CommandWatch, Silent: true},
	} {
		if got, err := ParseFault(text); err != nil || got != want {
			t.Errorf("%q is read as %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "router", "router/3", "router/3@lunch", "router@start", "router/3@start:loud"} {
		if got, err := ParseFault(text); err == nil {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}

// Figures for 2,000 instances: what the machine itself takes.
func BenchmarkRollout2000(b *testing.B) {
	p := rollout.Plan{ID: "r1"}
	for g := range 4 {
		p.Groups = append(p.Groups, group(fmt.Sprint("g", g), 500, policy(1, 25, manifests.OnFailureRollback)))
	}
	for b.Loop() {
		if r := run(b, p, rollout.Memory{}, Options{}); r.State.Outcome != rollout.OutcomeDone {
			b.Fatal(r.State.Outcome)
		}
	}
}
