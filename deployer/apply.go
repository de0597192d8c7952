package deployer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/packages"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/render"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// Approve is asked before anything moves. It may be asked twice in a run: again
// if the VMs, once they exist, lead to more than was approved.
type Approve func(*plan.Plan) (bool, error)

// Result is how a run ended.
type Result struct {
	Deployment string        `json:"deployment"`
	Changed    bool          `json:"changed"`
	Summary    string        `json:"summary"`
	Duration   time.Duration `json:"duration_ns"`
	Counts     Counts        `json:"counts"`
	Error      string        `json:"error,omitempty"`
	// Failing are the instances that an apply had nothing to change of, and that do
	// not do what they should.
	Failing []plan.Failing `json:"failing,omitempty"`
}

// PlanRequest says of what to plan.
type PlanRequest struct {
	// Targets are groups and instances; empty: all.
	Targets []string
}

// Plan computes every consequence of an apply and changes nothing, neither
// there nor here.
func (d *Deployer) Plan(ctx context.Context, q PlanRequest) (*plan.Plan, error) {
	r, p, err := d.planned(ctx, q)
	if err != nil {
		return nil, err
	}
	r.close()
	return p, nil
}

func (d *Deployer) planned(ctx context.Context, q PlanRequest) (*run, *plan.Plan, error) {
	r, err := d.load()
	if err != nil {
		return nil, nil, err
	}
	p, err := func() (*plan.Plan, error) {
		if err := r.target(q.Targets); err != nil {
			return nil, err
		}
		if err := checkEngine(r.store, r.state); err != nil {
			return nil, err
		}
		r.warnOfCertificates()
		vms, err := r.planVMs(ctx)
		if err != nil {
			return nil, err
		}
		p, _, err := r.plan(ctx, vms, patient)
		return p, err
	}()
	if err != nil {
		r.close()
		return nil, nil, err
	}
	return r, p, nil
}

// plan asks the agents and compares. The inventories are returned for what
// follows.
func (r *run) plan(ctx context.Context, vms []plan.VMChange, p patience) (*plan.Plan, map[string]*api.Inventory, error) {
	r.event(Event{Phase: PhaseSurvey, Step: "survey"})
	inventories := r.fleet.survey(ctx, p)
	if err := engineKnows(r, inventories); err != nil {
		return nil, nil, err
	}
	r.abandonSilent(inventories)
	for _, id := range r.vmIDs() {
		if inv := inventories[id]; inv != nil {
			if err := r.refuse(id, inv); err != nil {
				return nil, nil, err
			}
		}
	}
	if err := r.issueCertificates(); err != nil {
		return nil, nil, err
	}
	wanted, err := r.wanted()
	if err != nil {
		return nil, nil, err
	}
	existing, err := r.existing(ctx, wanted, inventories)
	if err != nil {
		return nil, nil, err
	}
	made := plan.Make(r.manifest.Deployment.Name, wanted, existing, vms)
	made.Exempt(r.exempt)
	made.Disks, err = r.diskChanges(func(id string) bool { return !r.has(id) })
	return made, inventories, err
}

// existing is what there is of every instance with a VM.
func (r *run) existing(ctx context.Context, wanted []plan.Wanted, inventories map[string]*api.Inventory) (map[string]plan.Existing, error) {
	want := map[string]plan.Wanted{}
	for _, w := range wanted {
		want[w.Spec.Instance] = w
	}
	memory, err := r.memory()
	if err != nil {
		return nil, err
	}
	out := map[string]plan.Existing{}
	specs, err := r.activeSpecs(ctx, want, inventories)
	if err != nil {
		return nil, err
	}
	owed := r.newAgentOwed()
	for _, id := range r.vmIDs() {
		inv := inventories[id]
		e := plan.Existing{VM: true, Inventory: inv}
		if inv == nil {
			e.Silent = r.fleet.reason(id)
			if why := r.fleet.distrusted.of(id); why != nil {
				e.Distrusted = why.Error()
			}
			// Silent: the engine knows whether the VM is gone or just not running.
			e.VM = !slices.Contains(r.enginePlan[id], terraform.Create)
			e.Stopped = slices.Contains(r.enginePlan[id], terraform.Update)
		}
		e.Replace, e.Moved = r.replaceCauses(id)
		e.Abandoned = inv == nil && slices.Contains(r.recreate, id)
		if inv != nil {
			e.Agent = owed.of(id, inv)
		}
		if spec := specs[id]; spec != nil {
			e.Active = spec
			e.Shown = map[string]string{}
			for _, j := range spec.Jobs {
				for _, f := range j.Files {
					e.Shown[j.Name+"/"+f.Path] = render.Redact(f.Content, f.Sensitive)
				}
			}
		} else if w, ok := want[id]; ok && inv != nil && inv.Active == w.Spec.Generation && w.Known {
			// The same generation has the same content: no need to fetch it.
			e.Active, e.Shown = &w.Spec, w.Shown
		}
		group, _, _ := api.SplitInstance(id)
		if g, ok := memory.Group(group); ok {
			if g.PostDeploy && inv != nil {
				e.Agent = append(e.Agent, "post_deploy has not run since the last change")
			}
			for _, f := range g.Bad {
				if f.Generation != "" && (f.Instance == id || f.Generation == want[id].Spec.Generation) {
					e.FailedGeneration, e.FailedReason = f.Generation, f.Error.Error()
				}
			}
		}
		out[id] = e
	}
	return out, nil
}

// activeSpecs fetches the specs of the instances whose generation differs from
// the wanted one, side by side.
func (r *run) activeSpecs(ctx context.Context, want map[string]plan.Wanted, inventories map[string]*api.Inventory) (map[string]*api.Spec, error) {
	var ids []string
	for id, inv := range inventories {
		if w, ok := want[id]; ok && inv != nil && !older(inv) && inv.Active != "" && (!w.Known || inv.Active != w.Spec.Generation) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	specs := make([]*api.Spec, len(ids))
	err := r.parallel(ctx, len(ids), func(ctx context.Context, i int) error {
		return within(ctx, 15*time.Second, func(ctx context.Context) error {
			s, err := r.fleet.client(ids[i]).Spec(ctx, api.SpecRequest{})
			if err != nil {
				var e *api.Error
				if errors.As(err, &e) && e.Code == api.CodeNotFound {
					return nil // damaged on disk: the plan says so, apply mends it
				}
				return fmt.Errorf("cannot read what is installed on %s: %w", ids[i], err)
			}
			specs[i] = &s
			return nil
		})
	})
	out := map[string]*api.Spec{}
	for i, id := range ids {
		out[id] = specs[i]
	}
	return out, err
}

// agentOwed says what agents themselves are owed, apart from their instances.
type agentOwed struct {
	*run
	agent    packages.Blob
	agentErr error
	urls     []string
}

func (r *run) newAgentOwed() agentOwed {
	o := agentOwed{run: r, urls: r.busURLs()}
	o.agent, o.agentErr = r.agentBlob()
	return o
}

func (r agentOwed) of(id string, inv *api.Inventory) []string {
	urls := r.urls
	var out []string
	if r.agentErr == nil && inv.Agent.Digest != r.agent.Digest {
		out = append(out, "agent program")
	}
	if inv.Agent.Unkept {
		out = append(out, "nothing would start the agent again: its init or keeper has ended")
	}
	if bus := r.busFor(urls, id, inv); bus != nil && inv.Bus.Digest != bus.Digest {
		out = append(out, "bus settings of the agent")
	}
	if !r.outlets(inv) {
		out = append(out, "where the agent's metrics and logs go")
	}
	return out
}

// ApplyRequest is how to apply.
type ApplyRequest struct {
	Approve Approve
	// Refresh asks the engine also when everything seems to be as it was left:
	// it sees what was done to VMs by hand.
	Refresh bool
	// DeleteDisks also deletes the persistent disks that no instance has any more.
	DeleteDisks bool
	// Targets are groups and instances that are to be changed, the others are left
	// as they are; empty: all.
	Targets []string
	// Saved is a plan to do just that, or nothing (ErrMoved).
	Saved *SavedPlan

	recreate  bool // the targets get other VMs
	skipDrain bool
}

// Apply makes the cluster what the manifest says. A Result is returned also
// with an error, if anything was begun.
func (d *Deployer) Apply(ctx context.Context, q ApplyRequest) (*Result, error) {
	started := time.Now()
	r, err := d.load()
	if err != nil {
		return nil, err
	}
	defer r.close()
	lock, tookOver, err := d.hold(ctx, r.store)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	// What was read before the lock may be another run's past.
	if r, err = d.load(); err != nil {
		return nil, err
	}
	defer r.close()
	r.tookOver = tookOver
	r.deleteDisks = q.DeleteDisks

	if err := errors.Join(checkEngine(r.store, r.state), r.target(q.Targets)); err != nil {
		return nil, r.cleanUp(err)
	}
	r.skipDrain = q.skipDrain
	if q.recreate {
		if r.recreate, err = r.recreatable(q.Targets); err != nil {
			return nil, r.cleanUp(err)
		}
	}
	p, done, err := r.survey(ctx, q.Refresh, q.Saved != nil)
	if err == nil && q.Saved != nil {
		err = r.moved(q.Saved, p)
	}
	if err != nil {
		return nil, r.cleanUp(err)
	}
	result := &Result{Deployment: p.Deployment, Summary: "nothing to do, everything is as the manifest says", Counts: r.counts.snapshot()}
	result.Failing = p.Unhealed()
	if done && len(result.Failing) > 0 {
		result.Summary = "nothing to change"
	}
	if done && !slices.ContainsFunc(result.Failing, func(f plan.Failing) bool { return f.Restartable }) {
		result.Duration = time.Since(started)
		return result, r.heal(ctx, result.Failing)
	}
	if err := r.protected(p); err != nil {
		return nil, r.cleanUp(err)
	}
	if ok, err := q.Approve(p); err != nil {
		return nil, r.cleanUp(err)
	} else if !ok {
		return nil, r.cleanUp(ErrNotApproved)
	}
	told := r.tellInterrupt()
	if done {
		err = r.begin(r.what())
	} else {
		err = r.apply(ctx, p, q.Approve)
	}
	if err == nil {
		err = r.heal(ctx, result.Failing)
	}
	told()
	r.ended(err)
	result.Changed = true
	result.Summary = "Applied"
	if done {
		result.Summary = "Restarted what was failing"
	}
	if err == nil {
		result.Failing = nil
	}
	if err != nil {
		result.Summary, result.Error = "Failed", err.Error()
	}
	result.Duration = time.Since(started)
	result.Counts = r.counts.snapshot()
	return result, err
}

// what is done, for the journal.
func (r *run) what() string {
	what := "apply"
	if len(r.recreate) > 0 {
		what = "recreate"
	}
	if r.revision != nil {
		what = fmt.Sprintf("rollback to revision %d", r.revision.revision.Number)
	}
	if len(r.targets) > 0 {
		what += " " + strings.Join(r.targets, ", ")
	}
	return what
}

// survey plans, and tells whether there is nothing at all to do. The engine is
// left out when its root module is what was last applied and every agent
// answers from the VM that is expected there. exact plans just as Plan does.
func (r *run) survey(ctx context.Context, refresh, exact bool) (p *plan.Plan, done bool, err error) {
	same, err := r.rootUnchanged()
	if err != nil {
		return nil, false, err
	}
	if same && !refresh && !exact && len(r.recreate) == 0 {
		p, inventories, err := r.plan(ctx, nil, quick)
		if err != nil {
			return nil, false, err
		}
		if r.vmsAsWanted = r.allExpected(inventories); r.vmsAsWanted {
			return p, p.Empty(), nil
		}
	}
	vms := r.firstVMs()
	if len(r.state.VMs) > 0 || len(r.state.Orphans) > 0 || exact {
		if vms, err = r.planVMs(ctx); err != nil {
			return nil, false, err
		}
	}
	p, _, err = r.plan(ctx, vms, patient)
	if err != nil {
		return nil, false, err
	}
	return p, p.Empty() && same, nil
}

// allExpected tells whether every agent answers from the expected VM.
func (r *run) allExpected(inventories map[string]*api.Inventory) bool {
	leave, _ := r.split()
	for _, id := range r.ids() {
		if r.exempt(id) != "" {
			continue
		}
		inv, vm := inventories[id], r.state.VMs[id]
		if inv == nil || inv.VMID != vm.ID || inv.Instance != id || inv.Agent.Unkept || inv.Agent.DiskGone != "" {
			return false
		}
	}
	return len(leave) == 0 && len(r.toPartWith()) == 0
}

// cleanUp removes a state folder in which a first run has left nothing.
func (r *run) cleanUp(err error) error {
	if !r.fresh {
		return err
	}
	return errors.Join(err, r.store.RemoveUnused())
}

// apply is the ordered list of what an approved plan leads to. Each step is
// idempotent: a run that was ended anywhere is continued by the next one.
func (r *run) apply(ctx context.Context, approved *plan.Plan, approve Approve) error {
	var p *plan.Plan
	steps := []func(context.Context) error{
		func(context.Context) error { return r.begin(r.what()) },
		r.settle,
		r.makeVMs,
		r.bootstrap,
		r.identify,
		func(ctx context.Context) (err error) {
			p, err = r.refine(ctx, approved, approve)
			return err
		},
		func(ctx context.Context) error { return r.deliver(ctx, p) },
		func(ctx context.Context) error { return r.roll(ctx, p) },
		func(ctx context.Context) error { return r.followAddresses(ctx, approved, approve) },
		r.connectAgents,
		func(context.Context) error { return r.keepRevision() },
	}
	for _, step := range steps {
		if r.interrupted() {
			return ErrInterrupted
		}
		if err := step(ctx); err != nil {
			return err
		}
	}
	return r.save()
}

// refine plans again now that the VMs exist. A plan that touches more than was
// approved is shown and asked for again.
func (r *run) refine(ctx context.Context, approved *plan.Plan, approve Approve) (*plan.Plan, error) {
	p, _, err := r.plan(ctx, nil, patient)
	if err != nil {
		return nil, err
	}
	if err := r.save(); err != nil { // certificates were issued
		return nil, err
	}
	var silent []string
	for _, c := range p.Instances {
		if c.Action == plan.Blocked || c.Action == plan.Start {
			silent = append(silent, c.Instance+" ("+r.fleet.reason(c.Instance)+")")
		}
	}
	if len(silent) > 0 {
		return nil, fmt.Errorf("cannot go on: no answer from %s; if the machine is gone, remove it from the infrastructure and apply again", strings.Join(silent, ", "))
	}
	if p.Refines(approved) {
		return p, nil
	}
	if ok, err := approve(p); err != nil {
		return nil, err
	} else if !ok {
		return nil, fmt.Errorf("VMs were made, but %w", ErrNotApproved)
	}
	return p, nil
}
