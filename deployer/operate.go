package deployer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// OperateRequest is what to do to which instances, whatever the manifest says now:
// what is installed there stays.
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
	return d.operate(ctx, q, o, func(ctx context.Context, r *run, ids []string) error {
		return r.inWaves(ctx, ids, true, func(ctx context.Context, id string, _ manifests.Update) error {
			return r.oneOperation(ctx, id, "stop", func(s *api.Submission) {
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
	return d.operate(ctx, q, o, func(ctx context.Context, r *run, ids []string) error {
		return r.inWaves(ctx, ids, false, func(ctx context.Context, id string, u manifests.Update) error {
			policy := rollout.PolicyFor(u, 1)
			return r.oneOperation(ctx, id, "start", func(s *api.Submission) {
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
	return d.operate(ctx, q, o, func(ctx context.Context, r *run, ids []string) error {
		r.skipDrain = q.SkipDrain
		return r.carryOut(ctx, r.restartPlan(ids), nil, nil, func(rollout.State) error {
			return r.store.Check(r.state) // what a restart shows says nothing of a generation
		})
	})
}

// Recreate gives instances another VM, at the pace that the groups' policies
// allow; persistent disks stay. One whose agent is silent is not asked. With that
// the instances get what the manifest wants of them.
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

// operation is what operate does.
type operation struct {
	name, summary string
	action        plan.Action
	process       plan.ProcessAction
	cause         string
	// need tells whether an instance needs it; of none, nothing is done.
	need func(*api.Inventory) bool
}

// operate finds the targets, asks, takes the lease and does it.
func (d *Deployer) operate(ctx context.Context, q OperateRequest, o operation, do func(context.Context, *run, []string) error) (*Result, error) {
	started := time.Now()
	r, err := d.load()
	if err != nil {
		return nil, err
	}
	defer func() { r.close() }()
	if r.fresh {
		return nil, fmt.Errorf("cannot %s: %w", o.name, errNoState)
	}
	if len(q.Targets) == 0 {
		return nil, fmt.Errorf("cannot %s: name the groups or instances", o.name)
	}
	lock, tookOver, err := d.hold(ctx, r.store)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	r.close()
	if r, err = d.load(); err != nil { // what was read before the lock may be another's past
		return nil, err
	}
	r.tookOver = tookOver
	ids, err := r.resolve(q.Targets)
	if err != nil {
		return nil, err
	}
	r.event(Event{Phase: PhaseSurvey, Step: "survey"})
	inventories := r.fleet.survey(ctx, patient)
	p, owed, err := r.operationPlan(ids, inventories, o)
	if err != nil {
		return nil, err
	}
	result := &Result{Deployment: r.manifest.Deployment.Name, Summary: "nothing to " + o.name, Counts: r.counts.snapshot()}
	if len(owed) == 0 {
		return result, nil
	}
	if q.Approve != nil {
		if ok, err := q.Approve(p); err != nil {
			return nil, err
		} else if !ok {
			return nil, ErrNotApproved
		}
	}
	if err := r.begin(o.name + " " + strings.Join(q.Targets, ", ")); err != nil {
		return nil, err
	}
	told := r.tellInterrupt()
	err = r.settle(ctx)
	if err == nil && r.tookOver {
		err = r.identify(ctx)
	}
	if err == nil {
		err = do(ctx, r, owed)
	}
	told()
	r.ended(err)
	result.Changed, result.Summary, result.Counts = true, fmt.Sprintf("%s %s", o.summary, strings.Join(owed, ", ")), r.counts.snapshot()
	result.Duration = time.Since(started)
	if err != nil {
		result.Summary, result.Error = "Failed", err.Error()
	}
	return result, err
}

// operationPlan says what the operation does, and to which instances. Targets
// that cannot have it are an error, all at once.
func (r *run) operationPlan(ids []string, inventories map[string]*api.Inventory, o operation) (*plan.Plan, []string, error) {
	p := &plan.Plan{Deployment: r.manifest.Deployment.Name}
	var owed []string
	var errs []error
	for _, id := range ids {
		inv := inventories[id]
		_, made := r.state.VMs[id]
		switch {
		case !made:
			errs = append(errs, fmt.Errorf("cannot %s %s: it has no VM yet; apply first", o.name, id))
			continue
		case r.exempt(id) == plan.ExemptDistrusted:
			errs = append(errs, fmt.Errorf("cannot %s %s: %w", o.name, id, r.fleet.distrusted.of(id)))
			continue
		case r.exempt(id) != "":
			errs = append(errs, fmt.Errorf("cannot %s %s: it is ignored, which means that nothing touches it; deploy unignore first", o.name, id))
			continue
		case inv == nil:
			errs = append(errs, fmt.Errorf("cannot %s %s: its agent does not answer: %s; deploy recreate gives it another VM", o.name, id, r.fleet.reason(id)))
			continue
		case inv.Active == "":
			errs = append(errs, fmt.Errorf("cannot %s %s: nothing is installed there; apply first", o.name, id))
			continue
		}
		if err := r.refuseForeign(id, inv); err != nil {
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
			owed = append(owed, id)
		case o.action == plan.Restart:
			errs = append(errs, fmt.Errorf("cannot restart %s: an operator has stopped it; deploy start starts it", id))
		}
		p.Instances = append(p.Instances, c)
	}
	return p, owed, errors.Join(errs...)
}

// inWaves does something to instances side by side, providers before consumers,
// or the other way round. A wave that fails is the last.
func (r *run) inWaves(ctx context.Context, ids []string, backwards bool, do func(context.Context, string, manifests.Update) error) error {
	waves := slices.Clone(r.manifest.Order)
	if backwards {
		slices.Reverse(waves)
	}
	left := slices.Clone(ids)
	take := func(group string) (taken []string) {
		left = slices.DeleteFunc(left, func(id string) bool {
			if matches(group, id) {
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
	var gone []item // their groups are not in the manifest any more
	for _, id := range left {
		gone = append(gone, item{id, manifests.DefaultUpdate()})
	}
	for _, list := range append(lists, gone) {
		if r.interrupted() {
			return ErrInterrupted
		}
		err := r.parallel(ctx, len(list), func(ctx context.Context, i int) error { return do(ctx, list[i].id, list[i].update) })
		if err != nil {
			return err
		}
	}
	return nil
}

// operationLimit bounds hooks, drain and stop of one operation.
const operationLimit = 10 * time.Minute

// oneOperation carries an operation out on one instance and reports it.
func (r *run) oneOperation(ctx context.Context, id, step string, fill func(*api.Submission), health time.Duration) error {
	r.event(Event{Phase: PhaseRollout, Instance: id, Step: step})
	s := r.submission(id, rollout.OpID(fmt.Sprintf("%.8s-%d", r.state.DeploymentID, r.state.Epoch), id, rollout.CommandKind(step), 1))
	fill(&s)
	err := within(ctx, operationLimit+health, func(ctx context.Context) error { return r.submit(ctx, id, s) })
	e := Event{Phase: PhaseRollout, Instance: id, Step: step, Done: true}
	if err != nil {
		e.Done, e.Error = false, err.Error()
		err = fmt.Errorf("cannot %s %s: %w", step, id, err)
	}
	r.event(e)
	return err
}

// restartPlan is a rollout that restarts some instances and leaves all others of
// their groups as they are, which count all the same.
func (r *run) restartPlan(ids []string) rollout.Plan {
	rp := rollout.Plan{ID: fmt.Sprintf("%.8s-%d", r.state.DeploymentID, r.state.Epoch), Parallel: r.config.Parallel}
	for _, wave := range r.manifest.Order {
		for _, g := range wave {
			rg := rollout.Group{Name: g.Name, Requires: g.Requires}
			for _, slot := range r.state.Groups[g.Name] {
				id := api.InstanceID(g.Name, slot.Index)
				if _, made := r.state.VMs[id]; !made {
					continue // the manifest wants it, and no apply has made it yet
				}
				inv := r.fleet.inventory(id)
				in := rollout.Instance{ID: id, AZ: slot.AZ, Action: rollout.ActionNone, Exempt: true, Healthy: r.fleet.distrusted.claimsHealth(id)}
				if inv != nil {
					in.Generation, in.Previous, in.Held = inv.Active, inv.Active, inv.Held
					in.Healthy = inv.State == api.InstanceRunning
				}
				if slices.Contains(ids, id) {
					in.Action, in.Exempt = rollout.ActionRestart, false
				}
				rg.Instances = append(rg.Instances, in)
			}
			rg.Policy = rollout.PolicyFor(g.Update, len(rg.Instances))
			rp.Groups = append(rp.Groups, rg)
		}
	}
	return rp
}

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
	// Output hears what it says, one call at a time.
	Output func(instance string, o api.Output)
}

// RunResult is how errands ended.
type RunResult struct {
	Deployment string      `json:"deployment"`
	Errand     string      `json:"errand"`
	Runs       []ErrandRun `json:"runs"`
}

// ErrandRun is an errand on one instance.
type ErrandRun struct {
	Instance string        `json:"instance"`
	Status   int           `json:"status"` // exit status, -1 if there is none
	Error    string        `json:"error,omitempty"`
	Took     time.Duration `json:"took_ns"`
}

// Run runs an errand on an instance, or on several side by side. An interrupt
// cancels it. The error is nil also if it exits with another status than 0.
func (d *Deployer) Run(ctx context.Context, q RunRequest) (*RunResult, error) {
	r, err := d.load()
	if err != nil {
		return nil, err
	}
	defer func() { r.close() }()
	if r.fresh {
		return nil, fmt.Errorf("cannot run an errand: %w", errNoState)
	}
	lock, tookOver, err := d.hold(ctx, r.store)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	r.close()
	if r, err = d.load(); err != nil { // what was read before the lock may be another's past
		return nil, err
	}
	r.tookOver = tookOver
	ids, err := r.errandTargets(q)
	if err != nil {
		return nil, err
	}
	inventories := r.fleet.survey(ctx, patient)
	var errs []error
	for _, id := range ids {
		if inventories[id] == nil {
			errs = append(errs, fmt.Errorf("cannot run %s/%s on %s: %w", q.Job, q.Errand, id, r.fleet.unheard(id)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	name := q.Job + "/" + q.Errand
	if err := r.begin("run " + name + " on " + strings.Join(ids, ", ")); err != nil {
		return nil, err
	}
	out := &RunResult{Deployment: r.manifest.Deployment.Name, Errand: name, Runs: make([]ErrandRun, len(ids))}
	err = r.settle(ctx)
	if err == nil && r.tookOver {
		err = r.identify(ctx)
	}
	if err == nil {
		var mu sync.Mutex
		err = r.parallel(ctx, len(ids), func(ctx context.Context, i int) (err error) {
			out.Runs[i], err = r.errand(ctx, ids[i], q, func(o api.Output) {
				mu.Lock()
				defer mu.Unlock()
				q.Output(ids[i], o)
			})
			return err
		})
	}
	ended := err
	for _, x := range out.Runs {
		if ended == nil && x.Error != "" {
			ended = errors.New(x.Error)
		}
	}
	r.ended(ended)
	return out, err
}

// errandTargets are the instances that an errand runs on.
func (r *run) errandTargets(q RunRequest) ([]string, error) {
	name := q.Job + "/" + q.Errand
	var with []string
	known := map[string]bool{}
	for _, g := range r.manifest.Groups {
		for _, j := range g.Jobs {
			for _, h := range j.Spec.Hooks {
				if h.Name == "" {
					continue
				}
				known[j.Spec.Name+"/"+h.Name] = true
				if j.Spec.Name != q.Job || h.Name != q.Errand {
					continue
				}
				for _, slot := range r.state.Groups[g.Name] {
					if id := api.InstanceID(g.Name, slot.Index); r.exempt(id) == "" {
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
		wanted, err := r.resolve(q.Targets)
		if err != nil {
			return nil, err
		}
		ids = slices.DeleteFunc(slices.Clone(with), func(id string) bool { return !slices.Contains(wanted, id) })
	}
	slices.SortFunc(ids, compareIDs)
	switch {
	case len(ids) == 0:
		return nil, fmt.Errorf("cannot run %s: none of the instances has the job %s, or they are ignored; it is on %s", name, q.Job, strings.Join(with, ", "))
	case len(ids) > 1 && !q.All:
		return nil, fmt.Errorf("cannot tell where to run %s: it is on %s; name one of them, or use --all", name, strings.Join(ids, ", "))
	}
	return ids, nil
}

// errand runs on one instance. Its own failure is in what is returned.
func (r *run) errand(ctx context.Context, id string, q RunRequest, output func(api.Output)) (ErrandRun, error) {
	began := time.Now()
	run := ErrandRun{Instance: id}
	s := r.submission(id, rollout.OpID(fmt.Sprintf("%.8s-%d", r.state.DeploymentID, r.state.Epoch), id, "errand", 1))
	s.Kind = api.KindErrand
	s.Errand = &api.Errand{Job: q.Job, Name: q.Errand, Arguments: q.Arguments, Env: q.Env, TimeoutMS: q.Timeout.Milliseconds()}

	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-done:
			return
		case <-r.config.Interrupt:
		}
		r.event(Event{Phase: PhaseRollout, Instance: id, Step: "cancel", Message: "cancelling; once more to leave at once"})
		// If it is not heard, the errand's own end or its timeout is waited for.
		_ = within(ctx, 15*time.Second, func(ctx context.Context) error {
			_, err := r.fleet.client(id).Cancel(ctx, api.CancelRequest{DeploymentID: r.state.DeploymentID, Instance: id, Epoch: r.state.Epoch, OpID: s.OpID})
			return err
		})
	})
	err := r.fleet.client(id).Stream(ctx, s, nil, output)
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
		}
	default:
		run.Status, run.Error = -1, err.Error()
		return run, fmt.Errorf("cannot run %s/%s on %s: %w", q.Job, q.Errand, id, err)
	}
	return run, nil
}

// ErrNothingRuns is returned by Pause and Resume.
var ErrNothingRuns = errors.New("no deploy works on this deployment now")

// Pause asks the run that changes the deployment to finish what is in flight and
// begin nothing new until Resume. It says who that is.
func (d *Deployer) Pause(ctx context.Context) (string, error) {
	store, err := d.findStore()
	if err != nil {
		return "", err
	}
	// A run that has just begun takes its epoch in a moment.
	for deadline := time.Now().Add(2 * time.Second); ; {
		h, busy := store.Busy()
		if !busy {
			return "", fmt.Errorf("cannot pause: %w", ErrNothingRuns)
		}
		st, err := store.LoadState()
		if err != nil {
			return "", err
		}
		if st == nil {
			return "", fmt.Errorf("cannot pause: %s has not begun to change anything", h)
		}
		if p, err := store.Paused(); err != nil {
			return "", err
		} else if p == nil || p.Epoch != st.Epoch {
			if err := store.Pause(state.Pause{Epoch: st.Epoch, By: who(), At: time.Now().UTC()}); err != nil {
				return "", err
			}
		}
		if time.Now().After(deadline) {
			return h.String(), nil
		}
		select {
		case <-ctx.Done():
			return h.String(), nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Resume lets a paused run go on.
func (d *Deployer) Resume() error {
	store, err := d.findStore()
	if err != nil {
		return err
	}
	p, err := store.Paused()
	if err != nil {
		return err
	}
	if p == nil {
		return errors.New("cannot resume: nothing is paused")
	}
	return store.Resume()
}
