package rollout

import (
	"slices"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/manifests"

	"github.com/google/go-cmp/cmp"
)

// What operators wish: instances held, ignored or left out, pauses, restarts,
// and hooks once all is done.

func minAvailable(n int) func(*Group) { return func(g *Group) { g.Policy.MinAvailable = n } }
func held(indexes ...int) func(*Group) {
	return func(g *Group) {
		for _, i := range indexes {
			g.Instances[i].Held, g.Instances[i].Healthy = true, false
		}
	}
}
func exempt(indexes ...int) func(*Group) {
	return func(g *Group) {
		for _, i := range indexes {
			g.Instances[i].Exempt, g.Instances[i].Action = true, ActionNone
		}
	}
}
func postDeploy(g *Group) {
	for i := range g.Instances {
		g.Instances[i].PostDeploy = true
	}
}

func TestMinAvailable(t *testing.T) {
	for name, tc := range map[string]struct {
		group Group
		want  []string // in progress once all is prepared
	}{
		"holds max_in_flight down":           {running("r", 5, canaries(0), maxInFlight(3), minAvailable(4)), []string{"update r/0"}},
		"max_in_flight holds":                {running("r", 5, canaries(0), maxInFlight(2), minAvailable(1)), []string{"update r/0", "update r/1"}},
		"sick ones count as away":            {running("r", 5, canaries(0), maxInFlight(2), minAvailable(3), sick(4), action(ActionNone, 4)), []string{"update r/0"}},
		"sick ones cost nothing":             {running("r", 5, canaries(0), maxInFlight(2), minAvailable(3), sick(3, 4)), []string{"update r/3", "update r/4"}},
		"held ones count as away":            {running("r", 3, canaries(0), minAvailable(2), held(2), action(ActionNone, 2)), nil},
		"ignored ones count as they are":     {running("r", 3, canaries(0), maxInFlight(2), minAvailable(1), exempt(1)), []string{"update r/0", "update r/2"}},
		"sick and ignored ones are away too": {running("r", 3, canaries(0), minAvailable(2), exempt(1), sick(1)), nil},
		"fewer are wanted than are there":    {running("r", 5, canaries(0), minAvailable(2), sick(3, 4), action(ActionNone, 3, 4)), []string{"update r/0"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := begin(t, plan(tc.group), Memory{}).prepared()
			p.want(tc.want...)
		})
	}
}

func TestBlockedNamesWhoIsAwayAndWhy(t *testing.T) {
	p := begin(t, plan(running("r", 4, minAvailable(3), held(3), action(ActionNone, 3), exempt(2), sick(1, 2), action(ActionNone, 1))), Memory{}).prepared()
	p.now = p.deadline()
	p.event(Event{Kind: EventTick})
	p.ended(OutcomeFailed)
	const want = "at least 3 of its 4 instances must stay healthy, and 1 are (not: r/1, r/2 (not touched by this run), r/3 (stopped by an operator))"
	if f := p.state.Failures(); len(f) != 1 || !strings.Contains(f[0].Error.Message, want) {
		t.Errorf("failures are %+v", f)
	}
}

func TestHeldInstancesAreNoCanaries(t *testing.T) {
	p := begin(t, plan(running("r", 4, held(0, 2), minAvailable(1))), Memory{}).prepared()
	p.want("update r/1")
	p.done("update r/1")
	p.want("update r/0")
	if !p.issued[0].Hold {
		t.Error("a held instance is started")
	}
	p.done("update r/0")
	p.want("update r/2")
	p.done("update r/2")
	p.want("update r/3") // r/0 and r/2 serve no more than before
	p.done("update r/3")
	p.ended(OutcomeDone)
	if h := p.state.Groups[0].Instances; h[0].Healthy || !h[1].Healthy {
		t.Errorf("healthy are %+v", h)
	}

	// Nothing is left to show anything: held ones are changed all the same.
	p = begin(t, plan(running("r", 2, held(0, 1))), Memory{}).prepared()
	p.done("update r/0", "update r/1")
	p.ended(OutcomeDone)

	// Not before the canary has passed.
	p = begin(t, plan(running("r", 2, held(1), maxInFlight(2))), Memory{}).prepared()
	p.want("update r/0")
	p.answer("update r/0", broken)
	p.done("rollback r/0")
	p.ended(OutcomeFailed)
	p.status(StatusRolledBack, StatusPrepared)
}

func TestExemptInstancesAreNotTouched(t *testing.T) {
	first := running("r", 3, exempt(1, 2), maxInFlight(2))
	p := begin(t, plan(first), Memory{}).prepared()
	p.want("update r/0")
	p.done("update r/0")
	p.ended(OutcomeDone)
	p.status(StatusUpdated, StatusUnchanged, StatusUnchanged)

	// The rest follows later: what r/0 showed need not be shown again.
	rest := running("r", 3, maxInFlight(2), action(ActionNone, 0))
	rest.Instances[0].Previous = rest.Instances[0].Generation
	p = begin(t, Plan{ID: "r2", Groups: []Group{rest}}, p.state.Memory()).prepared()
	p.want("update r/1", "update r/2")
	p.done("update r/1", "update r/2")
	p.ended(OutcomeDone)
	if g, _ := p.state.Memory().Group("r"); g.Digest != "" || len(g.Canaries) > 0 {
		t.Errorf("remembered %+v", g)
	}

	// Of an ignored one nothing is taken back either.
	all := running("r", 2, onFailure(manifests.OnFailureRollbackAll))
	p = begin(t, plan(all), Memory{}).prepared()
	p.done("update r/0")
	p.event(Event{Kind: EventInterrupt})
	p.done(p.pending()...)
	rest = running("r", 2, onFailure(manifests.OnFailureRollbackAll), exempt(0))
	p = begin(t, Plan{ID: "r2", Groups: []Group{rest}}, p.state.Memory()).prepared()
	for _, c := range p.pending() {
		if strings.HasSuffix(c, "r/0") {
			t.Errorf("in progress: %q", c)
		}
	}
}

func TestFirstDeployWithExemptInstancesServes(t *testing.T) {
	p := begin(t, plan(fresh("r", 3, exempt(2))), Memory{}).prepared()
	p.done("update r/0", "update r/1")
	p.want("watch r/0", "watch r/1")
	p.done("watch r/0", "watch r/1")
	p.ended(OutcomeDone)
	if g, _ := p.state.Memory().Group("r"); !g.Served {
		t.Error("the next update of what serves would take it all at once")
	}
	p = begin(t, plan(fresh("r", 1, exempt(0))), Memory{})
	p.ended(OutcomeDone)
	if g, _ := p.state.Memory().Group("r"); g.Served {
		t.Error("nothing of it has served")
	}
	p = begin(t, plan(fresh("r", 2, held(0))), Memory{}).prepared()
	p.done("update r/0", "update r/1")
	p.want("watch r/1")
}

func TestPause(t *testing.T) {
	pause, resume := Event{Kind: EventPause}, Event{Kind: EventResume}
	t.Run("prepare", func(t *testing.T) {
		pl := plan(running("r", 3))
		pl.Parallel = 1
		p := begin(t, pl, Memory{})
		p.event(pause)
		p.done("prepare r/0")
		p.want()
		p.event(resume)
		p.want("prepare r/1")
	})
	t.Run("update", func(t *testing.T) {
		p := begin(t, plan(running("r", 4, maxInFlight(2)), running("s", 1, requires("r"))), Memory{}).prepared()
		p.event(pause)
		p.done("update r/0")
		p.want()
		if !p.deadline().IsZero() {
			t.Errorf("a paused rollout ends by itself at %s", p.deadline())
		}
		p.event(Event{Kind: EventStart}) // another deployer goes on with it
		p.want()
		p.event(resume)
		p.want("update r/1", "update r/2")
		p.event(pause)
		p.answer("update r/1", broken)
		p.want("update r/2", "rollback r/1") // what is begun is brought to its end
		p.done("update r/2", "rollback r/1")
		p.ended(OutcomeFailed)
	})
	t.Run("a recreate goes on", func(t *testing.T) {
		p := begin(t, plan(running("r", 2, canaries(0), action(ActionRecreate, 0, 1))), Memory{})
		p.event(pause)
		p.done("stop r/0", "replace_vm r/0", "prepare r/0", "update r/0")
		p.want()
		p.event(resume)
		p.want("stop r/1")
	})
	t.Run("blocked", func(t *testing.T) {
		p := begin(t, plan(running("r", 3, sick(1), action(ActionNone, 1))), Memory{}).prepared()
		p.event(pause)
		if !p.deadline().IsZero() {
			t.Error("a paused rollout waits for health")
		}
		p.event(resume)
		if p.deadline().IsZero() {
			t.Error("a resumed rollout does not wait for health")
		}
	})
	t.Run("watch", func(t *testing.T) {
		p := begin(t, plan(fresh("r", 1)), Memory{}).prepared()
		p.event(pause)
		p.done("update r/0")
		p.want()
		p.event(resume)
		p.done("watch r/0")
		p.ended(OutcomeDone)
	})
	t.Run("remove", func(t *testing.T) {
		p := begin(t, Plan{ID: "r1", Groups: []Group{running("r", 1)}, Removals: []Removal{
			{Group: "db", MaxInFlight: 2, Next: "delete", Instances: []RemovedInstance{{ID: "db/0"}, {ID: "db/1"}}}}}, Memory{}).prepared()
		p.done("update r/0")
		p.event(pause)
		p.done("stop db/0", "stop db/1")
		p.want()
		p.event(resume)
		p.done("delete_vm db/0,db/1")
		p.ended(OutcomeDone)
	})
	t.Run("revert", func(t *testing.T) {
		p := begin(t, plan(running("r", 3, onFailure(manifests.OnFailureRollbackAll))), Memory{}).prepared()
		p.done("update r/0")
		p.answer("update r/1", broken)
		p.event(pause)
		p.done("rollback r/1")
		p.want()
		p.event(resume)
		p.done("rollback r/0")
		p.ended(OutcomeFailed)
	})
	t.Run("post_deploy", func(t *testing.T) {
		p := begin(t, Plan{ID: "r1", Parallel: 1, Groups: []Group{running("r", 1, postDeploy), running("s", 1, postDeploy)}}, Memory{})
		p.done("prepare r/0", "prepare s/0", "update r/0", "update s/0")
		p.event(pause)
		p.done("post_deploy r/0")
		p.want()
		p.event(resume)
		p.done("post_deploy s/0")
		p.ended(OutcomeDone)
	})
	t.Run("interrupted", func(t *testing.T) {
		p := begin(t, plan(running("r", 2)), Memory{}).prepared()
		p.event(pause)
		p.done("update r/0")
		p.event(Event{Kind: EventInterrupt})
		p.ended(OutcomeInterrupted)
	})
}

func TestPostDeployComesLast(t *testing.T) {
	pl := Plan{ID: "r1", Groups: []Group{running("r", 2, postDeploy), running("same", 1, postDeploy, action(ActionNone, 0)), running("none", 1)},
		Removals: []Removal{{Group: "db", MaxInFlight: 1, Next: "delete", Instances: []RemovedInstance{{ID: "db/0"}}}}}
	pl.Groups[0].Instances = append(pl.Groups[0].Instances,
		Instance{ID: "r/2", Action: ActionNone, PostDeploy: true, Exempt: true, Healthy: true},
		Instance{ID: "r/3", Action: ActionNone, PostDeploy: true, Held: true},
		Instance{ID: "r/4", Action: ActionNone, PostDeploy: true, Healthy: true})
	pl.Groups[0].Policy.MinAvailable = 1
	p := begin(t, pl, Memory{}).prepared()
	p.done("update r/0", "update none/0", "update r/1", "stop db/0", "delete_vm db/0")
	// All instances of the group that changed and run, no others.
	p.want("post_deploy r/0", "post_deploy r/1", "post_deploy r/4")
	if g, _ := p.state.Memory().Group("r"); !g.PostDeploy {
		t.Error("a deployer that ends now forgets post_deploy")
	}
	p.answer("post_deploy r/0", broken)
	p.done("post_deploy r/1", "post_deploy r/4")
	p.ended(OutcomeFailed)
	if f := p.state.Failures(); len(f) != 1 || f[0].Command != CommandPostDeploy || f[0].Instance != "r/0" {
		t.Errorf("failures are %+v", f)
	}
	m := p.state.Memory()
	g, _ := m.Group("r")
	if want := (GroupMemory{Name: "r", Served: true, PostDeploy: true}); !cmp.Equal(g, want) {
		t.Errorf("remembered %+v, want %+v", g, want)
	}

	// It is owed until it has passed.
	action(ActionNone, 0, 1)(&pl.Groups[0])
	action(ActionNone, 0)(&pl.Groups[2])
	p = begin(t, Plan{ID: "r2", Groups: pl.Groups}, m)
	p.want("post_deploy r/0", "post_deploy r/1", "post_deploy r/4")
	p.done(p.pending()...)
	p.ended(OutcomeDone)
	if g, _ := p.state.Memory().Group("r"); g.PostDeploy {
		t.Error("post_deploy is owed for ever")
	}
	p = begin(t, Plan{ID: "r3", Groups: pl.Groups}, p.state.Memory())
	p.ended(OutcomeDone)
	p.want()
}

func TestPostDeployIsOwedByWhatWasUpdatedOnly(t *testing.T) {
	p := begin(t, plan(running("a", 1, postDeploy), running("b", 1, requires("a")), running("c", 1, postDeploy, requires("a"))), Memory{}).prepared()
	p.done("update a/0")
	p.answer("update b/0", broken)
	p.answer("update c/0", broken)
	p.done("rollback b/0", "rollback c/0")
	p.ended(OutcomeFailed)
	owed := []string{}
	for _, g := range p.state.Memory().Groups {
		if g.PostDeploy {
			owed = append(owed, g.Name)
		}
	}
	if !slices.Equal(owed, []string{"a"}) {
		t.Errorf("post_deploy is owed by %q, want a alone", owed)
	}
}

func TestRestart(t *testing.T) {
	group := running("r", 3, canaries(0), maxInFlight(1), action(ActionRestart, 0, 1, 2), postDeploy)
	p := begin(t, plan(group), Memory{})
	p.want("restart r/0")
	p.done("restart r/0")
	p.want("restart r/1")
	p.answer("restart r/1", broken)
	p.want() // there is nothing to go back to
	p.ended(OutcomeFailed)
	if g, _ := p.state.Memory().Group("r"); len(g.Bad) > 0 || g.PostDeploy {
		t.Errorf("remembered %+v", g)
	}
	p = begin(t, plan(running("r", 1, canaries(0), action(ActionRestart, 0))), Memory{})
	p.done("restart r/0")
	p.ended(OutcomeDone)
}
