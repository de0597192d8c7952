package rollout

import (
	"strings"
	"testing"
	"time"

	"deploy/manifests"
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
