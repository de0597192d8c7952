package rollout

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/manifests"
)

// A machine that is stepped in place decides as one that is made anew from the
// state at each step: what it keeps in its index is never out of date.
func TestMachineStepsAsStep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPlan(t)
		s, err := New(p, Memory{})
		if err != nil {
			t.Fatal(err)
		}
		machine, now := NewMachine(s), t0
		var open []Command
		event := Event{Kind: EventStart}
		for range 120 {
			commands := machine.Step(event, now)
			next, expected := Step(s, event, now)
			if !reflect.DeepEqual(expected, commands) {
				t.Fatalf("after %+v the commands differ (-Step +Machine):\n%s", event, cmp.Diff(expected, commands))
			}
			if got := machine.State(); !reflect.DeepEqual(next, got) {
				t.Fatalf("after %+v the states differ (-Step +Machine):\n%s", event, cmp.Diff(next, got))
			}
			if got, want := machine.NextDeadline(), NewMachine(next).NextDeadline(); !got.Equal(want) {
				t.Fatalf("after %+v the next deadline is %s, want %s", event, got, want)
			}
			s, open = next, append(open, commands...)
			now = now.Add(time.Duration(rapid.IntRange(0, 5).Draw(t, "seconds")) * time.Second)
			event, open = drawEvent(t, machine, &now, open, p)
		}
	})
}

// drawPlan has groups of all kinds that require each other.
func drawPlan(t *rapid.T) Plan {
	p := Plan{ID: "r", Parallel: rapid.IntRange(1, 4).Draw(t, "parallel")}
	names := []string{"a", "b", "c"}[:rapid.IntRange(1, 3).Draw(t, "groups")]
	for i, name := range names {
		n := rapid.IntRange(1, 5).Draw(t, "instances")
		g := running(name, n)
		if rapid.Bool().Draw(t, "first deploy") {
			g = fresh(name, n)
		}
		g.Policy.MaxInFlight = rapid.IntRange(1, 3).Draw(t, "max in flight")
		g.Policy.Canaries = rapid.IntRange(0, 2).Draw(t, "canaries")
		g.Policy.MinAvailable = rapid.IntRange(0, n).Draw(t, "min available")
		g.Policy.OnFailure = rapid.SampledFrom([]manifests.OnFailure{manifests.OnFailureRollback, manifests.OnFailureHalt, manifests.OnFailureRollbackAll}).Draw(t, "on failure")
		if i > 0 && rapid.Bool().Draw(t, "requires") {
			g.Requires = []string{names[i-1]}
		}
		for k := range g.Instances {
			x := &g.Instances[k]
			x.AZ = rapid.SampledFrom([]string{"z1", "z2"}).Draw(t, "zone")
			x.PostDeploy = rapid.Bool().Draw(t, "post deploy")
			if !g.FirstDeploy {
				x.Action = rapid.SampledFrom([]Action{ActionNone, ActionUpdate, ActionUpdate, ActionRecreate}).Draw(t, "action")
				x.Held = rapid.IntRange(0, 9).Draw(t, "held") == 0
				x.Beside = x.Action == ActionRecreate && !x.Held && rapid.Bool().Draw(t, "beside")
				x.Begun = rapid.IntRange(0, 9).Draw(t, "begun") == 0
			}
		}
		p.Groups = append(p.Groups, g)
	}
	if rapid.Bool().Draw(t, "removals") {
		p.Removals = []Removal{
			{Group: "x", MaxInFlight: 1, Next: api.NextDelete, Instances: []RemovedInstance{{ID: "x/0"}, {ID: "x/1", NoAgent: true}}},
			{Group: "y", Requires: []string{"x"}, MaxInFlight: 2, Next: api.NextDelete, Instances: []RemovedInstance{{ID: "y/0"}, {ID: "y/1", Begun: true}}},
		}
	}
	return p
}

// drawEvent answers a command that is open, lets a deadline pass, or has
// something else happen.
func drawEvent(t *rapid.T, m *Machine, now *time.Time, open []Command, p Plan) (Event, []Command) {
	kinds := []EventKind{EventDone, EventDone, EventDone, EventFailed, EventTick, EventHealthy, EventSick, EventLost, EventInterrupt, EventPause, EventResume, EventStart}
	kind := rapid.SampledFrom(kinds).Draw(t, "event")
	switch kind {
	case EventDone, EventFailed:
		if len(open) == 0 {
			return Event{Kind: EventResume}, open
		}
		i := rapid.IntRange(0, len(open)-1).Draw(t, "answer")
		e := Event{Kind: kind, OpID: open[i].OpID}
		if kind == EventFailed {
			e.Error = &api.Error{Code: rapid.SampledFrom([]api.Code{api.CodeFailed, api.CodeInterrupted}).Draw(t, "code"), Message: "drawn"}
		}
		return e, slices.Delete(slices.Clone(open), i, i+1)
	case EventTick:
		if d := m.NextDeadline(); !d.IsZero() && rapid.Bool().Draw(t, "expire") {
			*now = d
		}
	case EventHealthy, EventSick, EventLost:
		g := rapid.SampledFrom(p.Groups).Draw(t, "group")
		return Event{Kind: kind, Instance: rapid.SampledFrom(g.Instances).Draw(t, "instance").ID}, open
	}
	return Event{Kind: kind}, open
}
