package rollout

import (
	"strings"
	"testing"
	"time"

	"github.com/clusterworks/deploy/manifests"
)

// Nobody waits for an instance that an operator has stopped.
func TestHeldInstanceIsNotWaitedFor(t *testing.T) {
	group := Group{Name: "web", Policy: PolicyFor(manifests.DefaultUpdate(), 3)}
	for i, id := range []string{"web/0", "web/1", "web/2"} {
		group.Instances = append(group.Instances, Instance{ID: id, Action: ActionUpdate, Generation: "new", Previous: "old", Healthy: i > 0, Held: i == 0})
	}
	group.Instances[0].Action = ActionNone
	for _, test := range []struct {
		held bool
		ends bool
	}{{true, true}, {false, false}} {
		group.Instances[0].Held = test.held // else it is only sick, and may recover
		s, err := New(Plan{ID: "r", Groups: []Group{group}}, Memory{})
		if err != nil {
			t.Fatal(err)
		}
		now := time.Unix(1000, 0)
		events := []Event{{Kind: EventStart}}
		for len(events) > 0 {
			var issued []Command
			s, issued = Step(s, events[0], now)
			events = events[1:]
			for _, c := range issued { // everything that is begun goes well
				events = append(events, Event{Kind: EventDone, OpID: c.OpID})
			}
		}
		s, _ = Step(s, Event{Kind: EventTick}, now)
		if got := s.Outcome == OutcomeFailed; got != test.ends {
			t.Errorf("held %v: the outcome is %q", test.held, s.Outcome)
		}
		if test.ends && (len(s.Failures()) != 1 || !strings.Contains(s.Failures()[0].Error.Message, "stopped by an operator")) {
			t.Errorf("failures are %+v", s.Failures())
		}
	}
}

// What a group has to put back does not wait for another group's instances.
func TestRollbackWaitsForItsOwnGroupOnly(t *testing.T) {
	p := begin(t, plan(running("a", 1), running("b", 4, canaries(2), minAvailable(1))), Memory{}).prepared()
	p.done("update b/0")
	p.event(Event{Kind: EventSick, Instance: "b/0"})
	p.done("update b/1")
	p.event(Event{Kind: EventSick, Instance: "b/1"})
	p.want("update a/0") // both canaries hold the rest of b
	p.now = p.deadline()
	p.event(Event{Kind: EventTick})
	p.want("update a/0", "rollback b/0")
	p.done("rollback b/0")
	p.want("update a/0", "rollback b/1")
	p.done("rollback b/1", "update a/0")
	p.ended(OutcomeFailed)
}

// An operator who asks to finish what is in flight does not make a group fail
// that waits for health: nothing of it would be begun any more.
func TestInterruptedGroupIsNotFailedForItsHealth(t *testing.T) {
	p := begin(t, plan(running("a", 2, canaries(0), minAvailable(1), sick(1), action(ActionNone, 1)), running("b", 2)), Memory{}).prepared()
	p.want("update b/0")
	blocked := p.state.Groups[0].BlockedUntil
	if blocked.IsZero() {
		t.Fatal("a does not wait for health")
	}
	p.event(Event{Kind: EventInterrupt})
	p.now = blocked
	p.event(Event{Kind: EventTick})
	p.done("update b/0")
	p.ended(OutcomeInterrupted)
	if f := p.state.Failures(); len(f) > 0 {
		t.Errorf("failures are %+v", f)
	}
}
