package deployer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// RunRequest is an errand to run.
type RunRequest struct {
	Job, Errand string
	// Targets are groups and instances; empty: the only instance with the job.
	Targets []string
	// All: on all instances with the job, or all targets, side by side.
	All       bool
	Arguments []string
	Env       map[string]string
	Timeout   time.Duration // 0: the errand's own
	// Output receives what it prints, one call at a time.
	Output func(instance string, o api.Output)
}

// RunResult is the result of an errand on all its instances.
type RunResult struct {
	Deployment string      `json:"deployment"`
	Errand     string      `json:"errand"`
	Runs       []ErrandRun `json:"runs"`
}

// ErrandRun is an errand's run on one instance.
type ErrandRun struct {
	Instance string        `json:"instance"`
	Status   int           `json:"status"` // exit status; 128 and the signal's number if a signal ended it; -1 if there is none
	Error    string        `json:"error,omitempty"`
	Took     time.Duration `json:"took_ns"`
}

// Run runs an errand on an instance, or on several side by side. An interrupt
// cancels it. The error is nil also if it exits with another status than 0.
func (d *Deployer) Run(ctx context.Context, q RunRequest) (*RunResult, error) {
	for name, value := range q.Env {
		if err := checkText(name + value); err != nil {
			return nil, fmt.Errorf("cannot give the errand the variable %q: %w", name, err)
		}
	}
	var out *RunResult
	var broken error
	err := d.change(ctx, func(x *deployment) error {
		if x.Fresh {
			return fmt.Errorf("cannot run an errand: %w", session.ErrNoState)
		}
		ids, err := x.errandTargets(q)
		if err != nil {
			return err
		}
		inventories := x.fleet.Survey(ctx, fleet.Patient)
		var errs []error
		for _, id := range ids {
			if inventories[id] == nil {
				errs = append(errs, fmt.Errorf("cannot run %s/%s on %s: %w", q.Job, q.Errand, id, x.fleet.Unheard(id)))
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		name := q.Job + "/" + q.Errand
		if err := x.begin("run " + name + " on " + strings.Join(ids, ", ")); err != nil {
			return err
		}
		out = &RunResult{Deployment: x.Manifest.Deployment.Name, Errand: name, Runs: make([]ErrandRun, len(ids))}
		if err := x.settle(ctx); err != nil {
			return err
		}
		var mu sync.Mutex
		err = x.Each(ctx, len(ids), func(ctx context.Context, i int) (err error) {
			out.Runs[i], err = x.errand(ctx, ids[i], q, func(o api.Output) {
				mu.Lock()
				defer mu.Unlock()
				q.Output(ids[i], o)
			})
			return err
		})
		for _, run := range out.Runs {
			if err == nil && run.Error != "" { // for the journal: the result tells it
				err, broken = errors.New(run.Error), errors.New(run.Error)
			}
		}
		return err
	})
	if broken != nil {
		err = nil
	}
	return out, err
}

// errandTargets returns the instances that an errand runs on.
func (x *deployment) errandTargets(q RunRequest) ([]string, error) {
	name := q.Job + "/" + q.Errand
	var with []string
	known := map[string]bool{}
	for _, g := range x.Manifest.Groups {
		for _, j := range g.Jobs {
			for _, h := range j.Spec.Hooks {
				if h.Name == "" {
					continue
				}
				known[j.Spec.Name+"/"+h.Name] = true
				if j.Spec.Name != q.Job || h.Name != q.Errand {
					continue
				}
				for _, slot := range x.State.Groups[g.Name] {
					if id := api.InstanceID(g.Name, slot.Index); x.Exempt(id) == "" {
						with = append(with, id)
					}
				}
			}
		}
	}
	if !known[name] {
		var names []string
		for n := range known {
			names = append(names, n)
		}
		slices.Sort(names)
		if len(names) == 0 {
			return nil, fmt.Errorf("cannot run %s: the manifest's jobs have no errands", name)
		}
		return nil, fmt.Errorf("cannot find the errand %s: there are %s", name, strings.Join(names, ", "))
	}
	ids := with
	if len(q.Targets) > 0 {
		wanted, err := x.Resolve(q.Targets)
		if err != nil {
			return nil, err
		}
		ids = slices.DeleteFunc(slices.Clone(with), func(id string) bool { return !slices.Contains(wanted, id) })
	}
	slices.SortFunc(ids, session.CompareIDs)
	switch {
	case len(ids) == 0:
		return nil, fmt.Errorf("cannot run %s: none of the instances has the job %s, or they are ignored; it is on %s", name, q.Job, strings.Join(with, ", "))
	case len(ids) > 1 && !q.All:
		return nil, fmt.Errorf("cannot tell where to run %s: it is on %s; name one of them, or use --all", name, strings.Join(ids, ", "))
	}
	return ids, nil
}

// errand runs an errand on one instance. The errand's own failure is in the
// ErrandRun.
func (x *deployment) errand(ctx context.Context, id string, q RunRequest, output func(api.Output)) (ErrandRun, error) {
	began := time.Now()
	run := ErrandRun{Instance: id}
	s := x.fleet.Submission(id, rollout.OpID(fmt.Sprintf("%.8s-%d", x.State.DeploymentID, x.State.Epoch), id, "errand", 1))
	s.Kind = api.KindErrand
	s.Errand = &api.Errand{Job: q.Job, Name: q.Errand, Env: q.Env, TimeoutMS: q.Timeout.Milliseconds()}
	for _, a := range q.Arguments {
		s.Errand.Arguments = append(s.Errand.Arguments, api.Argument(a))
	}

	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-done:
			return
		case <-x.Interrupt:
		}
		x.Event(Event{Phase: PhaseRollout, Instance: id, Step: "cancel", Message: "cancelling; once more to leave at once"})
		// If it is not heard, the errand's own end or its timeout is waited for.
		_ = fleet.Within(ctx, 15*time.Second, func(ctx context.Context) error {
			_, err := x.fleet.Client(state.Own(id)).Cancel(ctx, api.CancelRequest{DeploymentID: x.State.DeploymentID, Instance: id, Epoch: x.State.Epoch, OpID: s.OpID})
			return err
		})
	})
	err := x.fleet.Client(state.Own(id)).Stream(ctx, s, nil, output)
	close(done)
	watch.Wait()
	run.Took = time.Since(began)
	var refused *api.Error
	switch {
	case err == nil:
	case errors.As(err, &refused) && refused.Code != api.CodeStaleEpoch && refused.Code != api.CodeConflict:
		run.Status, run.Error = -1, refused.Message
		if refused.Process != nil && refused.Process.Exit != nil {
			run.Status = refused.Process.Exit.Status
			if n := unix.SignalNum("SIG" + refused.Process.Exit.Signal); n != 0 {
				run.Status = 128 + int(n)
			}
		}
	default:
		run.Status, run.Error = -1, err.Error()
		return run, fmt.Errorf("cannot run %s/%s on %s: %w", q.Job, q.Errand, id, err)
	}
	return run, nil
}
