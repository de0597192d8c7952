package deployer

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

// confirmTime bounds the wait at the end of an apply for instances that fail or do
// not answer: a process that is just being started again recovers meanwhile.
// confirmPoll is the time between two looks at them.
const (
	confirmTime = 15 * time.Second
	confirmPoll = time.Second
)

// confirm asks all agents once more when an apply has done its work, and returns the
// instances that, at limit, still fail or do not answer, with ErrFailing: an apply
// reports what is, not what it did. Instances that were healthy when their turn came,
// or had none, may have been lost while others changed.
func confirm(ctx context.Context, x *deployment, limit time.Duration) ([]plan.Failing, error) {
	late := time.After(limit)
	for first := true; ; first = false {
		failing := look(ctx, x)
		if err := context.Cause(ctx); err != nil {
			return nil, fmt.Errorf("all is applied, and not looked at again: %w", err)
		}
		if len(failing) == 0 {
			return nil, nil
		}
		for _, f := range failing {
			if first {
				x.Event(Event{Phase: PhaseSurvey, Instance: f.Instance, Message: "waited for, since it is not healthy: " + strings.Join(f.Reasons, "; ")})
			}
		}
		select {
		case <-ctx.Done():
			continue
		case <-late:
		case <-time.After(confirmPoll):
			if !x.Interrupted() {
				continue
			}
		}
		out := &failingError{}
		for _, f := range failing {
			out.add(f)
		}
		return failing, out
	}
}

// look asks all agents, and returns the instances that fail or do not answer. Those
// that the session leaves as they are do not count.
func look(ctx context.Context, x *deployment) (failing []plan.Failing) {
	inventories := x.fleet.Survey(ctx, fleet.Patient)
	for _, id := range x.IDs() {
		if x.Exempt(id) != "" {
			continue
		}
		inv := inventories[id]
		f := plan.FailureOf(id, plan.Existing{VM: true, Inventory: inv})
		if inv == nil {
			f.Reasons = []string{fmt.Sprintf("its agent does not answer: %s; apply again", x.fleet.Reason(id))}
		}
		if len(f.Reasons) > 0 {
			failing = append(failing, f)
		}
	}
	return failing
}
