package rollout

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/manifests"

	"github.com/google/go-cmp/cmp"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// play drives the machine by hand, one command answered at a time.
type play struct {
	t      *testing.T
	state  State
	now    time.Time
	issued []Command // not answered
	log    []string  // "update router/0", in the order of issue
}

func begin(t *testing.T, p Plan, m Memory) *play {
	t.Helper()
	s, err := New(p, m)
	if err != nil {
		t.Fatal(err)
	}
	pl := &play{t: t, state: s, now: t0}
	pl.event(Event{Kind: EventStart})
	return pl
}

// event also sends the state through JSON, as saving does.
func (p *play) event(e Event) {
	p.t.Helper()
	next, commands := Step(p.state, e, p.now)
	text, err := json.Marshal(next)
	if err != nil {
		p.t.Fatal(err)
	}
	p.state = State{}
	if err := json.Unmarshal(text, &p.state); err != nil {
		p.t.Fatal(err)
	}
	if diff := cmp.Diff(next, p.state); diff != "" {
		p.t.Fatalf("state changed in JSON:\n%s", diff)
	}
	for _, c := range commands {
		p.log = append(p.log, name(c))
	}
	p.issued = append(p.issued, commands...)
}

// deadline returns when EventTick is owed, zero if never.
func (p *play) deadline() time.Time { return NewMachine(p.state).NextDeadline() }

func name(c Command) string { return string(c.Kind) + " " + strings.Join(c.Instances, ",") }

// pending are the commands not answered.
func (p *play) pending() []string {
	names := []string{}
	for _, c := range p.issued {
		names = append(names, name(c))
	}
	return names
}

func (p *play) want(names ...string) {
	p.t.Helper()
	if diff := cmp.Diff(append([]string{}, names...), p.pending()); diff != "" {
		p.t.Fatalf("commands in progress (-want +got):\n%s", diff)
	}
}

func (p *play) answer(command string, err *api.Error) {
	p.t.Helper()
	i := slices.IndexFunc(p.issued, func(c Command) bool { return name(c) == command })
	if i < 0 {
		p.t.Fatalf("%q is not in progress; these are: %q", command, p.pending())
	}
	c := p.issued[i]
	p.issued = slices.Delete(p.issued, i, i+1)
	kind := EventDone
	if err != nil {
		kind = EventFailed
	}
	p.event(Event{Kind: kind, OpID: c.OpID, Error: err})
}

func (p *play) done(commands ...string) {
	p.t.Helper()
	for _, c := range commands {
		p.answer(c, nil)
	}
}

// prepared answers all prepares.
func (p *play) prepared() *play {
	p.t.Helper()
	for _, c := range p.pending() {
		if strings.HasPrefix(c, "prepare ") {
			p.done(c)
		}
	}
	return p
}

func (p *play) ended(o Outcome) {
	p.t.Helper()
	if p.state.Outcome != o {
		p.t.Fatalf("outcome is %q, want %q; in progress: %q", p.state.Outcome, o, p.pending())
	}
}

func (p *play) status(want ...Status) {
	p.t.Helper()
	var got []Status
	for _, x := range p.state.instances() {
		got = append(got, x.Status)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		p.t.Fatalf("statuses (-want +got):\n%s", diff)
	}
}

var broken = &api.Error{Code: api.CodeFailed, Message: "process main exited with status 7"}

// running is a group of n healthy instances that all need an update.
func running(name string, n int, change ...func(*Group)) Group {
	g := Group{Name: name, Policy: Policy{Canaries: 1, MaxInFlight: 1, MinHealthy: 3 * time.Second, WatchMax: time.Minute, OnFailure: manifests.OnFailureRollback}}
	for i := range n {
		g.Instances = append(g.Instances, Instance{
			ID: api.InstanceID(name, i), Action: ActionUpdate, Generation: fmt.Sprint("new", i), Previous: fmt.Sprint("old", i), Healthy: true})
	}
	for _, c := range change {
		c(&g)
	}
	if g.Policy.MinAvailable == 0 {
		g.Policy.MinAvailable = max(0, n-g.Policy.MaxInFlight)
	}
	return g
}

// fresh is a group that has never served.
func fresh(name string, n int, change ...func(*Group)) Group {
	return running(name, n, append([]func(*Group){func(g *Group) {
		g.FirstDeploy = true
		for i := range g.Instances {
			g.Instances[i].Action, g.Instances[i].Previous, g.Instances[i].Healthy = ActionCreate, "", false
		}
	}}, change...)...)
}

func maxInFlight(n int) func(*Group)        { return func(g *Group) { g.Policy.MaxInFlight = n } }
func canaries(n int) func(*Group)           { return func(g *Group) { g.Policy.Canaries = n } }
func requires(names ...string) func(*Group) { return func(g *Group) { g.Requires = names } }
func onFailure(f manifests.OnFailure) func(*Group) {
	return func(g *Group) { g.Policy.OnFailure = f }
}
func sick(indexes ...int) func(*Group) {
	return func(g *Group) {
		for _, i := range indexes {
			g.Instances[i].Healthy = false
		}
	}
}
func zones(names ...string) func(*Group) {
	return func(g *Group) {
		for i := range g.Instances {
			g.Instances[i].AZ = names[i%len(names)]
		}
	}
}
func beside(indexes ...int) func(*Group) {
	return func(g *Group) {
		for _, i := range indexes {
			g.Instances[i].Action, g.Instances[i].Beside = ActionRecreate, true
		}
	}
}

func action(a Action, indexes ...int) func(*Group) {
	return func(g *Group) {
		for _, i := range indexes {
			g.Instances[i].Action = a
		}
	}
}

func plan(groups ...Group) Plan { return Plan{ID: "r1", Groups: groups} }

func TestFirstDeployGoesInParallelAndIsWatchedOnce(t *testing.T) {
	p := begin(t, plan(fresh("nats", 1), fresh("lb", 1, requires("router")), fresh("router", 3, requires("nats"))), Memory{})
	p.want("prepare nats/0", "prepare lb/0", "prepare router/0", "prepare router/1", "prepare router/2")
	p.prepared()
	p.want("update nats/0")
	if got := p.issued[0].MinHealthy; got != 0 {
		t.Errorf("first deploys are watched at the end, but the update waits for %s of health", got)
	}
	p.done("update nats/0")
	p.want("update router/0", "update router/1", "update router/2")
	p.done("update router/2", "update router/0", "update router/1")
	p.done("update lb/0")
	p.want("watch nats/0", "watch lb/0", "watch router/0", "watch router/1", "watch router/2")
	if got := p.issued[0].MinHealthy; got != 3*time.Second {
		t.Errorf("watch waits for %s of health, want 3s", got)
	}
	if g, _ := p.state.Memory().Group("nats"); g.Served {
		t.Error("a group has served only once its watch has passed")
	}
	p.done(p.pending()...)
	p.ended(OutcomeDone)
	for _, g := range p.state.Memory().Groups {
		if !g.Served || g.Digest != "" {
			t.Errorf("after success %+v is remembered, want just that it served", g)
		}
	}
}

func TestNothingIsTouchedWhenAPrepareFails(t *testing.T) {
	p := begin(t, plan(running("a", 2), running("b", 1)), Memory{})
	p.answer("prepare a/1", broken)
	p.answer("prepare b/0", broken)
	p.done("prepare a/0")
	p.ended(OutcomeFailed)
	p.want()
	p.status(StatusPrepared, StatusFailed, StatusFailed)
	if got := p.state.Failures(); len(got) != 2 || got[1].Instance != "b/0" || got[1].Command != CommandPrepare {
		t.Errorf("failures are %+v, want both prepares", got)
	}
	if bad := p.state.Memory().Failed("a", p.state.Plan.Groups[0].Digest); bad != nil {
		t.Errorf("a digest that was never tried is remembered as bad: %+v", bad)
	}
}

func TestPrepareIsBounded(t *testing.T) {
	pl := plan(running("a", 5))
	pl.Parallel = 2
	p := begin(t, pl, Memory{})
	p.want("prepare a/0", "prepare a/1")
	p.done("prepare a/1")
	p.want("prepare a/0", "prepare a/2")
}

func TestCanariesThenBatchesZoneByZone(t *testing.T) {
	p := begin(t, plan(running("r", 6, zones("z1", "z2"), maxInFlight(2))), Memory{}).prepared()
	p.want("update r/0") // the canary alone
	p.done("update r/0")
	p.want("update r/2", "update r/4") // the rest of z1
	p.done("update r/2")
	p.want("update r/4") // z1 is not done
	p.done("update r/4")
	p.want("update r/1", "update r/3")
	p.done("update r/3")
	p.want("update r/1", "update r/5")
	p.done("update r/1", "update r/5")
	p.ended(OutcomeDone)
}

func TestSickInstancesGoFirstAndCountAsAway(t *testing.T) {
	p := begin(t, plan(running("r", 4, sick(3), maxInFlight(1))), Memory{}).prepared()
	p.want("update r/3")
	p.done("update r/3")
	p.want("update r/0")
	p.event(Event{Kind: EventSick, Instance: "r/2"}) // falls sick while r/0 is away
	p.done("update r/0")
	p.want("update r/2") // r/1 may not go as long as r/2 is sick
	p.done("update r/2", "update r/1")
	p.ended(OutcomeDone)
}

func TestAGroupWithoutAvailabilityToSpareWaitsThenFails(t *testing.T) {
	blocked := func(t *testing.T) *play {
		p := begin(t, plan(running("r", 3, sick(1), action(ActionNone, 1))), Memory{}).prepared()
		p.want()
		if p.state.Outcome != "" || p.deadline().IsZero() {
			t.Fatal("a blocked group should wait for health, up to a deadline")
		}
		return p
	}
	t.Run("health returns", func(t *testing.T) {
		p := blocked(t)
		p.event(Event{Kind: EventHealthy, Instance: "r/1"})
		p.want("update r/0")
	})
	t.Run("health does not return", func(t *testing.T) {
		p := blocked(t)
		p.now = p.deadline()
		p.event(Event{Kind: EventTick})
		p.ended(OutcomeFailed)
		f := p.state.Failures()
		if len(f) != 1 || !strings.Contains(f[0].Error.Message, "at least 2 of its 3 instances must stay healthy, and 2 are (not: r/1)") {
			t.Errorf("failures are %+v", f)
		}
		if p.state.Memory().Failed("r", p.state.Plan.Groups[0].Digest) != nil {
			t.Error("the digest is not to blame")
		}
	})
}

func TestACanaryThatFallsSickHoldsTheRest(t *testing.T) {
	fellSick := func(t *testing.T) *play {
		p := begin(t, plan(running("r", 4, maxInFlight(2))), Memory{}).prepared()
		p.done("update r/0")
		p.event(Event{Kind: EventSick, Instance: "r/0"})
		p.done("update r/1", "update r/2")
		p.want() // not r/3, nor another canary
		return p
	}
	t.Run("recovers", func(t *testing.T) {
		p := fellSick(t)
		p.event(Event{Kind: EventHealthy, Instance: "r/0"})
		p.done("update r/3")
		p.ended(OutcomeDone)
	})
	t.Run("does not recover", func(t *testing.T) {
		p := fellSick(t)
		p.now = p.deadline()
		p.event(Event{Kind: EventTick})
		p.done("rollback r/0")
		p.ended(OutcomeFailed)
		if bad := p.state.Memory().Failed("r", p.state.Plan.Groups[0].Digest); bad == nil || bad.Instance != "r/0" {
			t.Errorf("remembered failure is %+v", bad)
		}
	})
}

func TestSickCanariesGoBackWithinMaxInFlight(t *testing.T) {
	p := begin(t, plan(running("r", 4, canaries(2))), Memory{}).prepared()
	p.done("update r/0", "update r/1")
	p.event(Event{Kind: EventSick, Instance: "r/0"})
	p.event(Event{Kind: EventSick, Instance: "r/1"})
	p.done("update r/2")
	p.want()
	p.now = p.deadline()
	p.event(Event{Kind: EventTick})
	p.want("rollback r/0")
	p.done("rollback r/0", "rollback r/1")
	p.ended(OutcomeFailed)
	p.status(StatusRolledBack, StatusRolledBack, StatusUpdated, StatusPrepared)
}

func TestOnFailure(t *testing.T) {
	type step struct {
		command string
		err     *api.Error
	}
	ok := func(c string) step { return step{c, nil} }
	fails := func(c string) step { return step{c, broken} }
	for _, test := range []struct {
		name   string
		groups []Group
		steps  []step
		want   []Status
	}{
		{"canary goes back, nothing else is touched", []Group{running("r", 3)},
			[]step{fails("update r/0"), ok("rollback r/0")},
			[]Status{StatusRolledBack, StatusPrepared, StatusPrepared}},
		{"halt leaves it", []Group{running("r", 3, onFailure(manifests.OnFailureHalt))},
			[]step{fails("update r/0")},
			[]Status{StatusFailed, StatusPrepared, StatusPrepared}},
		{"what is in flight finishes, also elsewhere", []Group{running("r", 4, canaries(0), maxInFlight(2)), running("s", 2)},
			[]step{fails("update r/1"), ok("rollback r/1"), ok("update s/0"), ok("update r/0")},
			[]Status{StatusUpdated, StatusRolledBack, StatusPrepared, StatusPrepared, StatusUpdated, StatusPrepared}},
		{"rollback_all takes everything back, dependents first", []Group{running("a", 1), running("b", 3, requires("a"), onFailure(manifests.OnFailureRollbackAll))},
			[]step{ok("update a/0"), ok("update b/0"), fails("update b/1"), ok("rollback b/1"), ok("rollback b/0"), ok("rollback a/0")},
			[]Status{StatusRolledBack, StatusRolledBack, StatusRolledBack, StatusPrepared}},
		{"rollback_all takes nothing more away when a rollback fails", []Group{running("b", 3, onFailure(manifests.OnFailureRollbackAll))},
			[]step{ok("update b/0"), fails("update b/1"), fails("rollback b/1")},
			[]Status{StatusUpdated, StatusFailed, StatusPrepared}},
		{"first deploy is stopped", []Group{fresh("r", 2)},
			[]step{ok("update r/0"), fails("update r/1"), ok("rollback r/1")},
			[]Status{StatusUpdated, StatusRolledBack}},
		{"the watch of a first deploy", []Group{fresh("r", 2)},
			[]step{ok("update r/0"), ok("update r/1"), fails("watch r/0"), ok("watch r/1"), ok("rollback r/0")},
			[]Status{StatusRolledBack, StatusUpdated}},
		{"a recreate that cannot stop starts again", []Group{running("r", 1, action(ActionRecreate, 0))},
			[]step{fails("stop r/0"), ok("rollback r/0")},
			[]Status{StatusRolledBack}},
		{"a VM that cannot be replaced stays", []Group{running("r", 1, action(ActionRecreate, 0))},
			[]step{ok("stop r/0"), fails("replace_vm r/0")},
			[]Status{StatusFailed}},
		{"a VM that cannot be made beside another", []Group{running("r", 1, beside(0))},
			[]step{fails("replace_vm r/0"), ok("rollback r/0")},
			[]Status{StatusRolledBack}},
		{"a VM made beside another that cannot be prepared", []Group{running("r", 1, beside(0))},
			[]step{ok("replace_vm r/0"), fails("prepare r/0"), ok("rollback r/0")},
			[]Status{StatusRolledBack}},
		{"a VM made beside another that does not come up", []Group{running("r", 1, beside(0))},
			[]step{ok("replace_vm r/0"), ok("prepare r/0"), fails("update r/0"), ok("rollback r/0")},
			[]Status{StatusRolledBack}},
		{"a VM made beside another is kept for a look", []Group{running("r", 1, beside(0), onFailure(manifests.OnFailureHalt))},
			[]step{ok("replace_vm r/0"), ok("prepare r/0"), fails("update r/0")},
			[]Status{StatusFailed}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := begin(t, plan(test.groups...), Memory{}).prepared()
			for _, s := range test.steps {
				p.answer(s.command, s.err)
			}
			p.want()
			p.ended(OutcomeFailed)
			p.status(test.want...)
		})
	}
}

func TestFailuresAreRememberedUntilTheDigestStands(t *testing.T) {
	pl := plan(running("r", 3))
	p := begin(t, pl, Memory{}).prepared()
	p.done("update r/0")
	p.answer("update r/1", broken)
	p.done("rollback r/1")
	digest := p.state.Plan.Groups[0].Digest
	m := p.state.Memory()
	bad := m.Failed("r", digest)
	if bad == nil || bad.Instance != "r/1" || bad.Generation != "new1" || bad.Error.Message != broken.Message || !bad.At.Equal(t0) {
		t.Fatalf("remembered failure is %+v", bad)
	}

	// Another digest does not make it forgotten.
	other := running("r", 3)
	for i := range other.Instances {
		other.Instances[i].Generation = "other"
	}
	p = begin(t, plan(other), m).prepared()
	p.done("update r/0", "update r/1", "update r/2")
	p.ended(OutcomeDone)
	m = p.state.Memory()
	if m.Failed("r", digest) == nil {
		t.Fatal("a bad digest was forgotten")
	}

	// Tried again, it needs its canary again; once it stands it is forgiven.
	p = begin(t, pl, m).prepared()
	p.want("update r/0")
	p.done("update r/0", "update r/1", "update r/2")
	p.ended(OutcomeDone)
	if f := p.state.Memory().Failed("r", digest); f != nil {
		t.Errorf("a digest that stands everywhere is still bad: %+v", f)
	}
}

func TestCanariesThatPassedAreNotRepeated(t *testing.T) {
	group := running("r", 4, maxInFlight(2))
	p := begin(t, plan(group), Memory{}).prepared()
	p.done("update r/0")
	p.event(Event{Kind: EventInterrupt})
	p.done("update r/1", "update r/2")
	p.ended(OutcomeInterrupted)
	m := p.state.Memory()

	// A new plan, made from what is there now.
	rest := group
	rest.Instances = slices.Clone(group.Instances)
	action(ActionNone, 0, 1, 2)(&rest)
	p = begin(t, Plan{ID: "r2", Groups: []Group{rest}}, m).prepared()
	p.want("update r/3")
	p.answer("update r/3", broken)
	p.want("rollback r/3")

	// A canary that has not survived does not vouch for the others.
	sick(0)(&rest)
	action(ActionUpdate, 0)(&rest)
	p = begin(t, Plan{ID: "r3", Groups: []Group{rest}}, m).prepared()
	p.want("update r/0")
}

func TestRollbackAllReachesBackThroughAnInterruption(t *testing.T) {
	group := running("r", 3, onFailure(manifests.OnFailureRollbackAll))
	p := begin(t, plan(group), Memory{}).prepared()
	p.event(Event{Kind: EventInterrupt})
	p.done("update r/0")
	p.ended(OutcomeInterrupted)
	rest := group
	rest.Instances = slices.Clone(group.Instances)
	action(ActionNone, 0)(&rest)
	p = begin(t, Plan{ID: "r2", Groups: []Group{rest}}, p.state.Memory()).prepared()
	p.answer("update r/1", broken)
	p.done("rollback r/1", "rollback r/0")
	p.ended(OutcomeFailed)
}

func TestRecreateReplacesVMsInBatches(t *testing.T) {
	p := begin(t, plan(running("r", 3, canaries(0), maxInFlight(2), action(ActionRecreate, 0, 1), action(ActionNone, 2)), running("s", 1, action(ActionRecreate, 0))), Memory{})
	p.want("stop r/0", "stop r/1", "stop s/0") // nothing to prepare on a VM that goes away
	if c := p.issued[0]; c.Next != "recreate" {
		t.Errorf("hooks are told that %q follows", c.Next)
	}
	p.done("stop r/1", "stop s/0")
	p.want("stop r/0")
	p.done("stop r/0")
	p.want("replace_vm r/0,r/1,s/0")
	p.event(Event{Kind: EventLost, Instance: "r/0"}) // of course
	p.done("replace_vm r/0,r/1,s/0")
	p.done("prepare r/0", "prepare r/1", "prepare s/0")
	p.done("update r/0", "update r/1", "update s/0")
	p.ended(OutcomeDone)
}

// Nothing is stopped for a VM that is made beside the one there is.
func TestBeside(t *testing.T) {
	p := begin(t, plan(running("r", 1, beside(0)), running("s", 1, action(ActionRecreate, 0))), Memory{})
	p.want("stop s/0")
	p.done("stop s/0")
	p.want("replace_vm r/0,s/0") // one run of the engine for both
	p.done("replace_vm r/0,s/0", "prepare r/0", "prepare s/0", "update r/0", "update s/0")
	p.ended(OutcomeDone)
}

func TestRemovalsGoDependentsFirst(t *testing.T) {
	pl := plan(running("r", 1))
	pl.Removals = []Removal{
		{Group: "db", MaxInFlight: 1, Next: "delete", Instances: []RemovedInstance{{ID: "db/0"}}},
		{Group: "web", Requires: []string{"db", "r"}, MaxInFlight: 2, Next: "delete", Instances: []RemovedInstance{{ID: "web/0"}, {ID: "web/1", NoAgent: true}, {ID: "web/2"}, {ID: "web/3"}}},
	}
	p := begin(t, pl, Memory{}).prepared()
	p.done("update r/0")
	p.want("stop web/0", "stop web/2")
	if c := p.issued[0]; c.Next != "delete" {
		t.Errorf("hooks are told that %q follows", c.Next)
	}
	p.done("stop web/0")
	p.want("stop web/2", "stop web/3")
	p.done("stop web/2", "stop web/3")
	p.done("stop db/0")
	p.done("delete_vm db/0,web/0,web/1,web/2,web/3")
	p.ended(OutcomeDone)
}

func TestARemovalThatDoesNotStopIsNotDeleted(t *testing.T) {
	pl := Plan{ID: "r1", Removals: []Removal{{Group: "web", MaxInFlight: 2, Next: "scale_in", Instances: []RemovedInstance{{ID: "web/1"}, {ID: "web/2"}}}}}
	p := begin(t, pl, Memory{})
	p.answer("stop web/1", broken)
	p.done("stop web/2")
	p.ended(OutcomeFailed)
	p.want()
}

func TestAPlanWithNothingToDoEndsAtOnce(t *testing.T) {
	p := begin(t, plan(running("r", 2, action(ActionNone, 0, 1))), Memory{})
	p.want()
	p.ended(OutcomeDone)
}

func TestDeadlines(t *testing.T) {
	p := begin(t, plan(running("r", 2)), Memory{}).prepared()
	p.want("update r/0")
	if want := t0.Add(10*time.Minute + time.Minute + 30*time.Second); !p.deadline().Equal(want) {
		t.Fatalf("next deadline is %s, want %s", p.deadline(), want)
	}
	late := p.issued[0]
	p.issued = nil
	p.now = p.deadline().Add(-1)
	p.event(Event{Kind: EventTick})
	p.want()
	p.now = p.now.Add(1)
	p.event(Event{Kind: EventTick})
	p.want("rollback r/0")
	p.event(Event{Kind: EventDone, OpID: late.OpID}) // too late
	p.want("rollback r/0")
	p.now = p.deadline()
	p.event(Event{Kind: EventTick})
	p.ended(OutcomeFailed)
	f := p.state.Failures()
	if len(f) != 2 || f[0].Error.Message != "no answer to update within 11m30s" || f[1].Command != CommandRollback {
		t.Errorf("failures are %+v", f)
	}
}

func TestALostAgentIsNotSentARollback(t *testing.T) {
	t.Run("in flight", func(t *testing.T) {
		p := begin(t, plan(running("r", 2)), Memory{}).prepared()
		p.event(Event{Kind: EventLost, Instance: "r/0"})
		p.ended(OutcomeFailed)
		p.status(StatusFailed, StatusPrepared)
	})
	t.Run("still to come", func(t *testing.T) {
		p := begin(t, plan(running("r", 2)), Memory{}).prepared()
		p.event(Event{Kind: EventLost, Instance: "r/1"})
		p.done("update r/0")
		p.ended(OutcomeFailed)
		p.status(StatusUpdated, StatusFailed)
	})
}

func TestAnAgentThatEndedInMidWorkIsAskedAgain(t *testing.T) {
	ended := &api.Error{Code: api.CodeInterrupted, Message: "agent ended"}
	p := begin(t, plan(running("r", 1)), Memory{}).prepared()
	var ids []string
	for range attempts {
		ids = append(ids, p.issued[0].OpID)
		p.answer("update r/0", ended)
	}
	if want := []string{"r1.r.0.update.1", "r1.r.0.update.2", "r1.r.0.update.3"}; !slices.Equal(ids, want) {
		t.Errorf("operations were %q, want %q", ids, want)
	}
	p.want("rollback r/0")
}

func TestASupersededDeployerActsNoMore(t *testing.T) {
	p := begin(t, plan(running("r", 3, canaries(0), maxInFlight(2))), Memory{}).prepared()
	p.answer("update r/1", &api.Error{Code: api.CodeStaleEpoch, Message: "epoch 7 holds"})
	p.ended(OutcomeSuperseded)
	p.want("update r/0") // no rollback
	if f := p.state.Failures(); len(f) != 0 {
		t.Errorf("failures are %+v", f)
	}
}

func TestStartIssuesWhatWasInProgressAgain(t *testing.T) {
	p := begin(t, plan(running("r", 3, canaries(0), maxInFlight(2))), Memory{}).prepared()
	before := slices.Clone(p.issued)
	p.issued = nil
	p.now = p.now.Add(24 * time.Hour) // the deployer was away for long
	p.event(Event{Kind: EventStart})
	if diff := cmp.Diff(before, p.issued); diff != "" {
		t.Errorf("commands issued again (-before +after):\n%s", diff)
	}
	p.done("update r/0", "update r/1", "update r/2")
	p.ended(OutcomeDone)
}

func TestAnInterruptedRolloutGoesOn(t *testing.T) {
	p := begin(t, plan(running("r", 2)), Memory{}).prepared()
	p.event(Event{Kind: EventInterrupt})
	p.done("update r/0")
	p.ended(OutcomeInterrupted)
	p.event(Event{Kind: EventTick})
	p.ended(OutcomeInterrupted)
	p.event(Event{Kind: EventStart})
	p.done("update r/1")
	p.ended(OutcomeDone)
}

func TestNewRefusesPlansThatCannotEnd(t *testing.T) {
	for want, pl := range map[string]Plan{
		"the plan has no id":                               {},
		"group a requires b, which is not in the plan":     plan(running("a", 1, requires("b"))),
		"groups require each other: a -> b -> a":           plan(running("a", 1, requires("b")), running("b", 1, requires("a"))),
		"groups require each other: a -> a":                plan(running("a", 1, requires("a"))),
		"max_in_flight is 0, must be at least 1":           plan(running("a", 1, maxInFlight(0))),
		`instance "a/0" is there twice`:                    plan(running("a", 1), Group{Name: "b", Policy: Policy{MaxInFlight: 1}, Instances: []Instance{{ID: "a/0", Action: ActionNone}}}),
		`unknown action "jump"`:                            plan(running("a", 1, action("jump", 0))),
		`unknown on_failure "panic"`:                       plan(running("a", 1, onFailure("panic"))),
		"removed groups require each other: x -> x":        {ID: "r", Removals: []Removal{{Group: "x", Requires: []string{"x"}, MaxInFlight: 1}}},
		"removals of group x: max_in_flight is 0, must be": {ID: "r", Removals: []Removal{{Group: "x"}}},
	} {
		if _, err := New(pl, Memory{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New says %v, want %q", err, want)
		}
	}
}

func TestPolicyForIsExact(t *testing.T) {
	for n := range 1001 {
		for percent := range 101 {
			got := PolicyFor(manifests.Update{Canaries: 3, MaxInFlight: manifests.Amount{Number: percent, Percent: true}}, n)
			// got = floor(percent/100 * n), or 1
			exact := got.MaxInFlight*100 <= percent*n && percent*n < (got.MaxInFlight+1)*100
			if tooFew := got.MaxInFlight == 1 && percent*n < 100; !exact && !tooFew || got.Canaries != min(3, n) {
				t.Fatalf("%d%% of %d: policy %+v", percent, n, got)
			}
		}
	}
}

func TestWatchTimes(t *testing.T) {
	s := time.Second
	for _, test := range []struct{ healthy, from, to, wantHealthy, wantDeadline time.Duration }{
		{3 * s, 0, 60 * s, 3 * s, 60 * s},
		{3 * s, 10 * s, 60 * s, 10 * s, 60 * s},
		{30 * s, 10 * s, 20 * s, 30 * s, 40 * s}, // else none could ever pass
	} {
		p := Policy{MinHealthy: test.healthy, WatchMin: test.from, WatchMax: test.to}
		if p.minHealthy() != test.wantHealthy || p.deadline() != test.wantDeadline {
			t.Errorf("%+v: %s within %s, want %s within %s", p, p.minHealthy(), p.deadline(), test.wantHealthy, test.wantDeadline)
		}
	}
}
