package deployer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// OperateRequest names the instances of an operation. What is installed there
// stays, whatever the manifest says now.
type OperateRequest struct {
	Targets []string // groups and instances, at least one
	Approve Approve
	// SkipDrain stops what must stop at once, without pre_stop and drain.
	SkipDrain bool
}

// Stop drains and stops instances. They stay stopped, whatever is applied, until
// Start.
func (d *Deployer) Stop(ctx context.Context, q OperateRequest) (*Result, error) {
	o := operation{
		name: "stop", summary: "Stopped", action: plan.Stop, process: plan.ProcessStop, cause: "an operator stops it",
		need: func(inv *api.Inventory) bool { return !inv.Held },
	}
	return operate(ctx, d, q, o, func(ctx context.Context, x *deployment, ids []string) error {
		return x.inWaves(ctx, ids, true, func(ctx context.Context, id string, _ manifests.Update) error {
			return x.oneOperation(ctx, id, "stop", func(s *api.Submission) {
				s.Kind, s.Stop = api.KindStop, &api.Stop{Next: api.NextStop, Hold: true, SkipDrain: q.SkipDrain}
			}, 0)
		})
	})
}

// Start starts what Stop has stopped, and whatever else of what is installed does
// not run.
func (d *Deployer) Start(ctx context.Context, q OperateRequest) (*Result, error) {
	o := operation{
		name: "start", summary: "Started", action: plan.Start, process: plan.ProcessStart, cause: "it is stopped",
		need: func(inv *api.Inventory) bool { return inv.Held || inv.State != api.InstanceRunning },
	}
	return operate(ctx, d, q, o, func(ctx context.Context, x *deployment, ids []string) error {
		return x.inWaves(ctx, ids, false, func(ctx context.Context, id string, u manifests.Update) error {
			policy := rollout.PolicyFor(u, 1)
			return x.oneOperation(ctx, id, "start", func(s *api.Submission) {
				s.Kind, s.Start = api.KindStart, &api.Start{
					MinHealthyMS: max(policy.MinHealthy, policy.WatchMin).Milliseconds(), DeadlineMS: healthLimit(policy).Milliseconds(),
				}
			}, healthLimit(policy))
		})
	})
}

// healthLimit bounds the wait for health; what came up at once can always pass.
func healthLimit(p rollout.Policy) time.Duration { return max(p.WatchMax, p.WatchMin+p.MinHealthy) }

// Restart ends all processes of instances in order and starts them anew, at the
// pace that the groups' policies allow: canaries, limits and what must stay
// available hold as in an update.
func (d *Deployer) Restart(ctx context.Context, q OperateRequest) (*Result, error) {
	o := operation{
		name: "restart", summary: "Restarted", action: plan.Restart, process: plan.ProcessRestart, cause: "an operator restarts it",
		need: func(inv *api.Inventory) bool { return !inv.Held },
	}
	return operate(ctx, d, q, o, func(ctx context.Context, x *deployment, ids []string) error {
		x.rollouts.SkipDrain = q.SkipDrain
		_, err := x.rollouts.Run(ctx, x.rollouts.Restart(ids), nil, nil, func(rollout.State) error {
			return x.Check() // what a restart shows says nothing of a generation
		})
		return err
	})
}

// Recreate gives instances another VM, at the pace that the groups' policies
// allow. Persistent disks stay. A silent agent is not asked. The instances get what
// the manifest wants of them.
func (d *Deployer) Recreate(ctx context.Context, q OperateRequest) (*Result, error) {
	if len(q.Targets) == 0 {
		return nil, errors.New("cannot recreate: name the groups or instances")
	}
	result, err := d.Apply(ctx, ApplyRequest{Approve: q.Approve, Targets: q.Targets, recreate: true, skipDrain: q.SkipDrain})
	if result != nil && result.Changed && err == nil {
		result.Summary = "Recreated " + strings.Join(q.Targets, ", ")
	}
	return result, err
}

// operation describes what operate does.
type operation struct {
	name, summary string
	action        plan.Action
	process       plan.ProcessAction
	cause         string
	// need reports whether an instance needs it. Others are left alone.
	need func(*api.Inventory) bool
}

// operate finds the targets, asks, takes the lease and does it.
func operate(ctx context.Context, d *Deployer, q OperateRequest, o operation, do func(context.Context, *deployment, []string) error) (result *Result, err error) {
	started := time.Now()
	err = d.change(ctx, func(x *deployment) error {
		if x.Fresh {
			return fmt.Errorf("cannot %s: %w", o.name, session.ErrNoState)
		}
		if len(q.Targets) == 0 {
			return fmt.Errorf("cannot %s: name the groups or instances", o.name)
		}
		ids, err := x.Resolve(q.Targets)
		if err != nil {
			return err
		}
		x.Event(Event{Phase: PhaseSurvey, Step: "survey"})
		p, due, err := x.operationPlan(ids, x.fleet.Survey(ctx, fleet.Patient), o)
		if err != nil {
			return err
		}
		if len(due) == 0 {
			result = &Result{Deployment: p.Deployment, Summary: "nothing to " + o.name, Counts: d.counters.Counts()}
			return nil
		}
		if q.Approve != nil {
			if err := q.Approve.ask(p); err != nil {
				return err
			}
		}
		if err := x.begin(o.name + " " + strings.Join(q.Targets, ", ")); err != nil {
			return err
		}
		result = &Result{Deployment: p.Deployment, Changed: true, Summary: fmt.Sprintf("%s %s", o.summary, strings.Join(due, ", "))}
		told := x.TellInterrupt()
		defer told()
		if err := x.settle(ctx); err != nil {
			return err
		}
		return do(ctx, x, due)
	})
	if result != nil && result.Changed {
		result.end(d, started, err)
	}
	return result, err
}

// settle waits for what earlier runs have left, and tells agents the new epoch if
// one of those runs may continue.
func (x *deployment) settle(ctx context.Context) error {
	err := x.fleet.Settle(ctx)
	if err == nil && x.TookOver {
		err = x.fleet.Identify(ctx, x.VMIDs())
	}
	return err
}

// operationPlan returns what the operation does, and the instances that need it.
// Targets that cannot have it are an error, all at once.
func (x *deployment) operationPlan(ids []string, inventories map[string]*api.Inventory, o operation) (*plan.Plan, []string, error) {
	p := &plan.Plan{Deployment: x.Manifest.Deployment.Name}
	var due []string
	var errs []error
	for _, id := range ids {
		inv := inventories[id]
		_, made := x.State.VMs[id]
		switch {
		case !made:
			errs = append(errs, fmt.Errorf("cannot %s %s: it has no VM yet; apply first", o.name, id))
			continue
		case x.Exempt(id) == plan.ExemptDistrusted:
			errs = append(errs, fmt.Errorf("cannot %s %s: %w", o.name, id, x.Distrusted.Of(id)))
			continue
		case x.Exempt(id) != "":
			errs = append(errs, fmt.Errorf("cannot %s %s: it is ignored, so nothing touches it; deploy unignore first", o.name, id))
			continue
		case inv == nil:
			errs = append(errs, fmt.Errorf("cannot %s %s: its agent does not answer: %s; deploy recreate gives it another VM", o.name, id, x.fleet.Reason(id)))
			continue
		case inv.Active == "":
			errs = append(errs, fmt.Errorf("cannot %s %s: nothing is installed there; apply first", o.name, id))
			continue
		}
		if err := x.fleet.RefuseForeign(id, inv); err != nil {
			errs = append(errs, err)
			continue
		}
		group, _, _ := api.SplitInstance(id)
		c := plan.InstanceChange{Instance: id, Group: group, Action: plan.None, From: inv.Active, To: inv.Active, Held: inv.Held && o.action != plan.Start}
		switch {
		case o.need(inv):
			c.Action = o.action
			for _, s := range inv.Processes {
				if o.action == plan.Start && s.State != api.ProcessStopped {
					continue
				}
				c.Processes = append(c.Processes, plan.ProcessChange{Job: s.Job, Name: s.Name, Action: o.process, Cause: o.cause})
			}
			due = append(due, id)
		case o.action == plan.Restart:
			errs = append(errs, fmt.Errorf("cannot restart %s: an operator has stopped it; deploy start starts it", id))
		}
		p.Instances = append(p.Instances, c)
	}
	return p, due, errors.Join(errs...)
}

// inWaves does something to instances side by side, providers before consumers,
// or the other way round. A wave that fails is the last.
func (x *deployment) inWaves(ctx context.Context, ids []string, backwards bool, do func(context.Context, string, manifests.Update) error) error {
	waves := slices.Clone(x.Manifest.Order)
	if backwards {
		slices.Reverse(waves)
	}
	left := slices.Clone(ids)
	take := func(group string) (taken []string) {
		left = slices.DeleteFunc(left, func(id string) bool {
			if session.Matches(group, id) {
				taken = append(taken, id)
				return true
			}
			return false
		})
		return taken
	}
	type item struct {
		id     string
		update manifests.Update
	}
	var lists [][]item
	for _, wave := range waves {
		var list []item
		for _, g := range wave {
			for _, id := range take(g.Name) {
				list = append(list, item{id, g.Update})
			}
		}
		lists = append(lists, list)
	}
	var removed []item // their groups are not in the manifest any more
	for _, id := range left {
		removed = append(removed, item{id, manifests.DefaultUpdate()})
	}
	for _, list := range append(lists, removed) {
		if x.Interrupted() {
			return ErrInterrupted
		}
		err := x.Each(ctx, len(list), func(ctx context.Context, i int) error { return do(ctx, list[i].id, list[i].update) })
		if err != nil {
			return err
		}
	}
	return nil
}

// operationLimit bounds hooks, drain and stop of one operation.
const operationLimit = 10 * time.Minute

// oneOperation carries an operation out on one instance and reports it.
func (x *deployment) oneOperation(ctx context.Context, id, step string, fill func(*api.Submission), health time.Duration) error {
	x.Event(Event{Phase: PhaseRollout, Instance: id, Step: step})
	s := x.fleet.Submission(id, rollout.OpID(fmt.Sprintf("%.8s-%d", x.State.DeploymentID, x.State.Epoch), id, rollout.CommandKind(step), 1))
	fill(&s)
	err := fleet.Within(ctx, operationLimit+health, func(ctx context.Context) error { return x.fleet.Submit(ctx, state.Own(id), s) })
	e := Event{Phase: PhaseRollout, Instance: id, Step: step, Done: true}
	if err != nil {
		e.Done, e.Error = false, err.Error()
		err = fmt.Errorf("cannot %s %s: %w", step, id, err)
	}
	x.Event(e)
	return err
}
