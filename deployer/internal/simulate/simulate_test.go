package simulate

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
	"github.com/clusterworks/deploy/manifests"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestMain gives rapid the same seeds each time: what CI tests must not depend
// on chance. Other ones are tried with -rapid.seed and -rapid.checks.
func TestMain(m *testing.M) {
	flag.Parse()
	given := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for name, value := range map[string]string{"rapid.checks": strconv.Itoa(checks), "rapid.seed": "1"} {
		if !given[name] {
			_ = flag.Set(name, value) // rapid's own flags
		}
	}
	os.Exit(m.Run())
}

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
	cc.Instances[0].PostDeploy, cc.Instances[1].PostDeploy, cc.Instances[2].PostDeploy = true, true, true
	app := group("app", 5, policy(1, 2, f), "dea")
	app.Policy.MinAvailable = 2
	app.Instances[1].Held, app.Instances[1].Healthy = true, false
	app.Instances[2].Exempt, app.Instances[2].Action = true, rollout.ActionNone
	app.Instances[4].PostDeploy = true
	return rollout.Plan{ID: "r1", Groups: []rollout.Group{nats, lb, router, cc, dea, app}, Removals: []rollout.Removal{
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
		held, exempt := x.ID == "app/1", x.ID == "app/2"
		if x.Deleted != gone || !gone && (x.Healthy == held || (x.Generation == "new") == exempt || x.Unfinished) {
			t.Errorf("ended with %+v", x)
		}
		if want := map[string]int{"cc/0": 1, "cc/1": 1, "cc/2": 1, "app/4": 1}[x.ID]; x.PostDeploys != want {
			t.Errorf("post_deploy of %s ran %d times, want %d", x.ID, x.PostDeploys, want)
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
		{"with pauses", Options{Seed: 8, Pauses: []Pause{{2 * time.Second, time.Minute}, {3 * time.Minute, 5 * time.Minute}, {4 * time.Minute, time.Minute}}}, rollout.OutcomeDone},
		{"some fall sick", Options{Seed: 9, Health: []Health{{50 * time.Second, "app/3", false}, {300 * time.Second, "app/3", true}, {60 * time.Second, "nats/2", false}, {100 * time.Second, "nats/2", true}}}, rollout.OutcomeDone},
		{"there is no way back", Options{Seed: 10, Irreversible: []string{"router"}, Faults: []Fault{{Instance: "router/1", Command: rollout.CommandUpdate, Stage: StagePreStart}}}, rollout.OutcomeFailed},
		{"it does not drain", Options{Seed: 11, Irreversible: []string{"router"}, Faults: []Fault{{Instance: "router/1", Command: rollout.CommandUpdate, Stage: StageDrain}}}, rollout.OutcomeFailed},
		{"post_deploy fails", Options{Seed: 12, Faults: []Fault{{Instance: "cc/1", Command: rollout.CommandPostDeploy}}}, rollout.OutcomeFailed},
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
				for at := 1; at <= whole.Steps; at += everyStep {
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

						// The next apply, which knows of this one what it remembers and finds.
						o.Replan = true
						r = run(t, p, rollout.Memory{}, o)
						if r.State.Outcome != whole.State.Outcome {
							t.Fatalf("killed at step %d (%d): the next apply ends with %q, want %q; failures %+v", at, kill, r.State.Outcome, whole.State.Outcome, r.State.Failures())
						}
						if test.want == rollout.OutcomeDone {
							for i, x := range r.Instances {
								want := whole.Instances[i]
								if x.Generation != want.Generation || test.options.AgentEnds == 0 && x.Changes != want.Changes || x.Healthy != want.Healthy || x.Deleted != want.Deleted || x.Unfinished && !x.Deleted || (x.PostDeploys > 0) != (want.PostDeploys > 0) {
									t.Fatalf("killed at step %d (%d): the next apply leaves %+v, want %+v", at, kill, x, want)
								}
							}
						}
						// Without its memory too: canaries again, and nothing else.
						if o.Forget = test.name != "post_deploy fails"; !o.Forget {
							continue // that it is owed is forgotten
						}
						if r = run(t, p, rollout.Memory{}, o); r.State.Outcome != whole.State.Outcome {
							t.Fatalf("killed at step %d (%d): without memory the next apply ends with %q, want %q; failures %+v", at, kill, r.State.Outcome, whole.State.Outcome, r.State.Failures())
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

// A deployer that is killed is followed by one that plans anew from what is
// there and what was remembered, again and again. In the end all is as wanted,
// and one more apply finds nothing to do.
func TestReplanning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := plans.Draw(t, "plan")
		o := Options{Seed: rapid.Uint64().Draw(t, "seed"), Replan: true}
		if rapid.IntRange(0, 2).Draw(t, "bad") == 0 {
			o.Bad = []string{"new"}
		}
		kills := rapid.SliceOfN(rapid.IntRange(1, 80), 0, 5).Draw(t, "kills")
		kind := rapid.SampledFrom([]Kill{KillBeforeSave, KillAfterSave, KillHalfSent, KillAfterSend}).Draw(t, "kind")
		o.Kill = func(step int) Kill {
			if slices.Contains(kills, step) {
				return kind
			}
			return KillNever
		}
		r := run(t, p, rollout.Memory{}, o)
		if len(o.Bad) > 0 {
			for g, report := range r.Groups {
				// Who applies it once more has been told that it failed.
				policy, at := p.Groups[g].Policy, len(kills)+1
				if updates(p.Groups[g]) && policy.Canaries > 0 && report.Touched > at*policy.Canaries {
					t.Fatalf("a bad digest touched %d instances of %s in %d applies, which has %d canaries", report.Touched, report.Name, at, policy.Canaries)
				}
			}
			return
		}
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
		if again := run(t, replan(p, r), r.State.Memory(), Options{}); again.Operations != 0 {
			t.Fatalf("a second rollout did %d operations", again.Operations)
		}
	})
}

// updates tells whether all that a group owes is an update of what runs.
func updates(g rollout.Group) bool {
	return !g.FirstDeploy && !slices.ContainsFunc(g.Instances, func(x rollout.Instance) bool { return x.Held || x.Action == rollout.ActionRestart })
}

// replan returns what the planner would make of a cluster that is as wanted.
func replan(p rollout.Plan, r Report) rollout.Plan {
	at := 0
	next := rollout.Plan{ID: "again"}
	for _, g := range p.Groups {
		g.Instances = slices.Clone(g.Instances)
		known, _ := r.State.Memory().Group(g.Name)
		g.FirstDeploy = g.FirstDeploy && !known.Served
		for i := range g.Instances {
			g.Instances[i].Action, g.Instances[i].Healthy = rollout.ActionNone, r.Instances[at].Healthy
			at++
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
			if x.Action != rollout.ActionNone && (now.Generation != x.Generation || now.Healthy == x.Held) {
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
			moment := rapid.SampledFrom(moments).Draw(t, "moment")
			o.Faults = append(o.Faults, Fault{
				Instance: rapid.SampledFrom(ids).Draw(t, "instance"),
				Command:  moment.command,
				Stage:    moment.stage,
				Silent:   rapid.Bool().Draw(t, "silent"),
			})
		}
		if rapid.Bool().Draw(t, "no way back") {
			o.Irreversible = []string{"g0", "g2"}
		}
		for range rapid.IntRange(0, 2).Draw(t, "pauses") {
			o.Pauses = append(o.Pauses, Pause{
				At:  time.Duration(rapid.IntRange(0, 200).Draw(t, "at")) * time.Second,
				For: time.Duration(rapid.IntRange(1, 300).Draw(t, "for")) * time.Second,
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
		o.Replan = rapid.Bool().Draw(t, "replan")
		o.Forget = o.Replan && rapid.IntRange(0, 3).Draw(t, "forget") == 0
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
			if o.Replan {
				break // each deployer keeps them for itself, as Run checks
			}
			if !spec.FirstDeploy && report.MaxInFlight > spec.Policy.MaxInFlight {
				t.Fatalf("%+v, but max_in_flight is %d", report, spec.Policy.MaxInFlight)
			}
			if len(o.Bad) > 0 && updates(spec) && spec.Policy.Canaries > 0 && report.Touched > spec.Policy.Canaries {
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
	restart := rapid.IntRange(0, 5).Draw(t, "restart") == 0 // instead of an update
	if restart {
		actions = []rollout.Action{rollout.ActionRestart, rollout.ActionNone}
	}
	for gi := range rapid.IntRange(1, 4).Draw(t, "groups") {
		n := rapid.IntRange(1, 7).Draw(t, "instances")
		g := group(fmt.Sprint("g", gi), n, policy(rapid.IntRange(0, 3).Draw(t, "canaries"), rapid.IntRange(1, 4).Draw(t, "max in flight"), rapid.SampledFrom(failures).Draw(t, "on failure")))
		g.FirstDeploy = !restart && rapid.IntRange(0, 3).Draw(t, "first") == 0
		if rapid.Bool().Draw(t, "min available") {
			g.Policy.MinAvailable = rapid.IntRange(0, n-1).Draw(t, "at least")
		}
		for other := range gi {
			if rapid.Bool().Draw(t, "requires") {
				g.Requires = append(g.Requires, fmt.Sprint("g", other))
			}
		}
		for i := range g.Instances {
			x := &g.Instances[i]
			x.AZ = fmt.Sprint("z", rapid.IntRange(0, 2).Draw(t, "az"))
			x.PostDeploy = rapid.IntRange(0, 3).Draw(t, "post_deploy") == 0
			if g.FirstDeploy {
				x.Action, x.Previous, x.Healthy = rollout.ActionCreate, "", false
				continue
			}
			x.Action = rapid.SampledFrom(actions).Draw(t, "action")
			x.Healthy = rapid.IntRange(0, 5).Draw(t, "sick") > 0
			switch rapid.IntRange(0, 7).Draw(t, "wish") {
			case 0:
				x.Exempt, x.Action = true, rollout.ActionNone
			case 1:
				if x.Action != rollout.ActionRestart {
					x.Held, x.Healthy = true, false
				}
			}
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
