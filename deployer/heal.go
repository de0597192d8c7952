package deployer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// ErrFailing is in the chain of the error of an apply after which instances are as
// the manifest says, and do not do what they should.
var ErrFailing = errors.New("not everything is healthy")

// failingError is ErrFailing with what is known of each instance.
type failingError struct{ errs []error }

func (e *failingError) Error() string {
	return fmt.Sprintf("everything matches the manifest, but %v", errors.Join(e.errs...))
}
func (e *failingError) Is(target error) bool { return target == ErrFailing }
func (e *failingError) Unwrap() []error      { return e.errs }

func (e *failingError) add(f plan.Failing) {
	e.errs = append(e.errs, fmt.Errorf("%s is failing: %s", f.Instance, strings.Join(f.Reasons, "; ")))
}

// heal restarts what fails of instances to which nothing else happens, and waits
// for it. What cannot be restarted, and what fails again, is the error.
func (x *deployment) heal(ctx context.Context, failing []plan.Failing) error {
	var ids []string
	out := &failingError{}
	for _, f := range failing {
		if f.Restartable {
			ids = append(ids, f.Instance)
		} else {
			out.add(f)
		}
	}
	// A wave that fails is the last one: what needs it would fail too.
	if err := x.inWaves(ctx, ids, false, x.restartFailing); errors.Is(err, ErrInterrupted) {
		return err
	} else if err != nil {
		out.errs = append(out.errs, err)
	}
	if len(out.errs) > 0 {
		return out
	}
	return nil
}

// restartFailing restarts the processes of an instance that fail, unless they have
// recovered, and waits until it is healthy.
func (x *deployment) restartFailing(ctx context.Context, id string, u manifests.Update) error {
	inv, err := x.fleet.Client(state.Own(id)).Inventory(ctx)
	if err != nil {
		return fmt.Errorf("cannot restart what fails on %s: %w", id, err)
	}
	if inv.State != api.InstanceFailing {
		return nil
	}
	policy := rollout.PolicyFor(u, 1)
	limit := healthLimit(policy)
	q := failingProcesses(inv.Processes)
	q.MinHealthyMS, q.DeadlineMS = max(policy.MinHealthy, policy.WatchMin).Milliseconds(), limit.Milliseconds()
	return x.oneOperation(ctx, id, "restart", func(s *api.Submission) { s.Kind, s.Restart = api.KindRestart, &q }, limit)
}

// failingProcesses is the least that restarts all processes that fail: one, those
// of a job, or all. Those that do not run have nothing to drain.
func failingProcesses(all []api.ProcessStatus) api.RestartProcesses {
	failing := slices.DeleteFunc(slices.Clone(all), func(p api.ProcessStatus) bool {
		return p.State != api.ProcessFailing && p.State != api.ProcessBackoff
	})
	if len(failing) == 0 {
		return api.RestartProcesses{}
	}
	first := failing[0]
	q := api.RestartProcesses{Job: first.Job, Process: first.Name, SkipDrain: true}
	for _, p := range failing {
		q.SkipDrain = q.SkipDrain && p.State == api.ProcessBackoff
		if p.Job != first.Job {
			q.Job = ""
		}
	}
	if q.Job == "" {
		q.SkipDrain = false // healthy ones are among them
	}
	if len(failing) > 1 {
		q.Process = ""
		q.SkipDrain = q.SkipDrain && len(failing) == len(all)
	}
	if q.Job == "" {
		q.Process = ""
	}
	return q
}
