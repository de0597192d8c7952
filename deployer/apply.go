package deployer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/execute"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/infra"
	"github.com/clusterworks/deploy/deployer/internal/localvm"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
)

// Approve is asked before anything moves. It may be asked twice in a run: again
// if the VMs, once they exist, lead to more than was approved.
type Approve func(*plan.Plan) (bool, error)

// ask returns ErrNotApproved if the answer is no.
func (a Approve) ask(p *plan.Plan) error {
	ok, err := a(p)
	if err == nil && !ok {
		err = ErrNotApproved
	}
	return err
}

// Result is the end of a run.
type Result struct {
	Deployment string        `json:"deployment"`
	Changed    bool          `json:"changed"`
	Summary    string        `json:"summary"`
	Duration   time.Duration `json:"duration_ns"`
	Counts     Counts        `json:"counts"`
	Error      string        `json:"error,omitempty"`
	// Failing are the instances of which an apply had nothing to change, and that do
	// not do what they should.
	Failing []plan.Failing `json:"failing,omitempty"`
}

// end completes the result of a run that began.
func (r *Result) end(d *Deployer, started time.Time, err error) {
	if err != nil {
		r.Summary, r.Error = "Failed", err.Error()
	}
	r.Duration, r.Counts = time.Since(started), d.counters.Counts()
}

// ApplyRequest says how to apply.
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
	// Saved is a plan to carry out as it is, or not at all (ErrMoved).
	Saved *SavedPlan

	recreate  bool // the targets get other VMs
	skipDrain bool
	pass      bool // of a rotation: the manifest is not what changed
}

// Apply makes the cluster what the manifest says. A Result is returned also
// with an error, if anything was begun.
func (d *Deployer) Apply(ctx context.Context, q ApplyRequest) (result *Result, err error) {
	started := time.Now()
	err = d.change(ctx, func(x *deployment) (err error) {
		told := x.tellRepairs()
		defer func() {
			if err == nil {
				err = localvm.ForgetRepairs(told)
			}
		}()
		c, done, err := x.survey(ctx, q)
		if err != nil {
			return err
		}
		result = &Result{
			Deployment: c.plan.Deployment, Summary: "nothing to do, everything matches the manifest",
			Duration: time.Since(started), Counts: d.counters.Counts(), Failing: c.plan.Unhealed(),
		}
		if done && len(result.Failing) > 0 {
			result.Summary = "nothing to change"
		}
		if done && !slices.ContainsFunc(result.Failing, func(f plan.Failing) bool { return f.Restartable }) {
			return x.heal(ctx, result.Failing)
		}
		if err = x.infra.Protected(c.plan, c.vms); err == nil {
			err = q.Approve.ask(c.plan)
		}
		if err == nil && len(x.State.VMs) == 0 {
			// Without an engine nothing begins, and a first run leaves no state.
			err = infra.Ready(ctx, x.infra)
		}
		if err != nil {
			result = nil
			return err
		}
		result.Changed, result.Summary = true, "Applied"
		leave := x.TellInterrupt()
		defer leave()
		if what := q.what(d.source.Revision()); done {
			result.Summary = "Restarted what was failing"
			err = x.begin(what)
		} else {
			err = x.apply(ctx, c, what, q)
		}
		if err == nil {
			err = x.heal(ctx, result.Failing)
		}
		if err == nil {
			result.Failing, err = confirm(ctx, x, d.confirmTime)
		}
		return err
	})
	if result != nil && result.Changed {
		result.end(d, started, err)
	}
	return result, err
}

// what returns what is done, for the journal.
func (q ApplyRequest) what(revision int) string {
	what := "apply"
	if q.recreate {
		what = "recreate"
	}
	if revision > 0 {
		what = fmt.Sprintf("rollback to revision %d", revision)
	}
	if len(q.Targets) > 0 {
		what += " " + strings.Join(q.Targets, ", ")
	}
	return what
}

// survey plans, and reports whether there is nothing at all to do. The engine is
// left out when its root module is what was last applied and every agent answers
// from the expected VM. A saved plan is compared with what Plan would return now.
func (x *deployment) survey(ctx context.Context, q ApplyRequest) (c comparison, done bool, err error) {
	x.infra.DeleteDisks, x.rollouts.SkipDrain = q.DeleteDisks, q.skipDrain
	if err := errors.Join(infra.CheckEngine(x.Session), x.Target(q.Targets)); err != nil {
		return c, false, err
	}
	if err := errors.Join(infra.CheckDisks(x.Session), x.infra.CheckStemcells()); err != nil {
		return c, false, err
	}
	infra.WarnZones(x.Session)
	infra.WarnRenamed(x.Session)
	if q.recreate {
		ids, err := x.recreatable(q.Targets)
		if err != nil {
			return c, false, err
		}
		x.SetRecreate(ids)
	}
	same, err := x.infra.Unchanged()
	if err != nil {
		return c, false, err
	}
	if same && !q.Refresh && q.Saved == nil && !q.recreate {
		if c, err = x.compare(ctx, c.vms, fleet.Quick); err != nil {
			return c, false, err
		}
		if c.vms.AsWanted = x.allExpected(); c.vms.AsWanted {
			return c, c.plan.Empty(), nil
		}
	}
	vms := x.infra.First()
	if len(x.State.VMs) > 0 || len(x.State.Orphans) > 0 || q.Saved != nil {
		if vms, err = x.infra.Plan(ctx); err != nil {
			return c, false, err
		}
	}
	if c, err = x.compare(ctx, vms, fleet.Patient); err != nil {
		return c, false, err
	}
	if q.Saved != nil {
		w, err := x.world(c)
		if err == nil {
			err = q.Saved.Moved(w, c.plan, x.Store, x.fleet.Reason)
		}
		if err != nil {
			return c, false, err
		}
	}
	return c, c.plan.Empty() && same, nil
}

// allExpected reports whether every agent answers from the expected VM, and no VM
// is to be deleted.
func (x *deployment) allExpected() bool {
	deleted, _ := x.SplitRemoved()
	for _, id := range x.IDs() {
		if x.Exempt(id) != "" {
			continue
		}
		inv, vm := x.fleet.Inventory(id), x.State.VMs[id]
		if inv == nil || inv.VMID != vm.ID || inv.Instance != id || inv.Agent.Unkept || inv.Agent.DiskGone != "" || len(inv.Agent.Damaged) > 0 {
			return false
		}
	}
	return len(deleted) == 0 && len(x.ObsoleteVMs()) == 0
}

// recreatable returns the instances of targets, which must have a VM to replace.
func (x *deployment) recreatable(targets []string) ([]string, error) {
	ids, err := x.Resolve(targets)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		_, made := x.State.VMs[id]
		switch {
		case !made:
			return nil, fmt.Errorf("cannot recreate %s: it has no VM yet; apply first", id)
		case !x.Has(id):
			return nil, fmt.Errorf("cannot recreate %s: the manifest no longer has it, and the next apply removes it", id)
		case slices.Contains(x.State.Ignored, id):
			return nil, fmt.Errorf("cannot recreate %s: it is ignored, so nothing touches it; deploy unignore first", id)
		}
	}
	return ids, nil
}

// apply is the ordered list of what an approved plan leads to. Each step is
// idempotent: a run that was ended anywhere is continued by the next one.
func (x *deployment) apply(ctx context.Context, approved comparison, what string, q ApplyRequest) error {
	var held map[string]bool
	var c comparison
	var m moves
	for _, step := range []func() error{
		func() error { return x.begin(what) },
		func() error { return x.infra.EnsureStemcells(ctx) },
		func() error { return x.fleet.Settle(ctx) },
		func() (err error) { held, err = x.infra.Make(ctx, approved.vms); return err },
		func() error { return x.fleet.Bootstrap(ctx, x.VMIDs()) },
		func() error { return x.fleet.Identify(ctx, x.VMIDs()) },
		func() (err error) { c, err = x.refine(ctx, approved, q.Approve); return err },
		func() error { return x.fleet.Deliver(ctx, c.plan, c.wanted) },
		func() (err error) { m, err = x.roll(ctx, c, held, false); return err },
		func() (err error) { m, err = x.finishMoves(ctx, m, approved, q.Approve, held); return err },
		func() error { return x.fleet.ConnectAgents(ctx) },
		func() error { return x.keepRevision(m.wanted, q.pass) },
		func() error { return x.infra.DropStemcells() },
	} {
		if x.Interrupted() {
			return ErrInterrupted
		}
		if err := step(); err != nil {
			return err
		}
	}
	return x.Save()
}

// refine plans again now that the VMs exist. A plan that touches more than was
// approved is shown and asked for again.
func (x *deployment) refine(ctx context.Context, approved comparison, approve Approve) (comparison, error) {
	c, err := x.compare(ctx, x.infra.Remaining(approved.vms), fleet.Patient)
	if err != nil {
		return c, err
	}
	if err := x.Save(); err != nil { // certificates were issued
		return c, err
	}
	var silent []string
	for _, i := range c.plan.Instances {
		if i.Action == plan.Blocked || i.Action == plan.Start {
			silent = append(silent, i.Instance+" ("+x.fleet.Reason(i.Instance)+")")
		}
	}
	if len(silent) > 0 {
		return c, fmt.Errorf("cannot continue: no answer from %s; if the machine no longer exists, remove it from the infrastructure and apply again", strings.Join(silent, ", "))
	}
	if c.plan.Refines(approved.plan) {
		return c, nil
	}
	if err := approve.ask(c.plan); err != nil {
		return c, fmt.Errorf("VMs were made, but %w", err)
	}
	return c, nil
}

// moves is the rest of the work on instances that move elsewhere.
type moves struct {
	wanted []plan.Wanted // rendered with the addresses of the VMs that there are now
	moved  bool          // others have yet to learn addresses
	more   bool          // instances wait for their turn to move
}

// roll carries a plan's changes out, in the order and at the pace that the
// manifest's policies say.
func (x *deployment) roll(ctx context.Context, c comparison, held map[string]bool, holdMoves bool) (moves, error) {
	rp, more, err := x.rollouts.Plan(c.plan, c.wanted, execute.Circumstances{Held: held, Beside: c.vms.Beside, HoldMoves: holdMoves})
	if err != nil || rp == nil {
		return moves{wanted: c.wanted, more: more}, err
	}
	r, err := x.rollouts.Run(ctx, *rp, c.plan.Instances, c.wanted, func(s rollout.State) error { return execute.SaveMemory(x.Session, s) })
	return moves{wanted: r.Wanted, moved: r.Moved, more: more}, err
}

// finishMoves brings addresses that changed to those who refer to them, deletes
// previous VMs once the new ones are known, and lets the next instances move,
// until none is left.
func (x *deployment) finishMoves(ctx context.Context, m moves, approved comparison, approve Approve, held map[string]bool) (moves, error) {
	for m.moved || m.more || len(x.ObsoleteVMs()) > 0 {
		if x.Interrupted() {
			return m, ErrInterrupted
		}
		// Everybody learns where these are before the next ones move.
		hold := m.moved || len(x.ObsoleteVMs()) > 0
		// Agents first: when the bus moves, they are reached over it.
		if err := x.fleet.ConnectAgents(ctx); err != nil {
			return m, err
		}
		c, err := x.refine(ctx, approved, approve)
		if err != nil {
			return m, err
		}
		if err := x.fleet.Deliver(ctx, c.plan, c.wanted); err != nil {
			return m, err
		}
		if m, err = x.roll(ctx, c, held, hold); err != nil {
			return m, err
		}
		for _, id := range x.ObsoleteVMs() {
			if err := x.infra.TakesOver(ctx, id); err != nil {
				return m, err
			}
			if err := x.infra.DeletePrevious(ctx, id, x.rollouts.SkipDrain); err != nil {
				return m, err
			}
			m.moved = true
		}
	}
	return m, nil
}

func (x *deployment) keepRevision(wanted []plan.Wanted, pass bool) error {
	vms, err := x.infra.Digest()
	if err != nil {
		return err
	}
	return x.packages.Keep(wanted, vms, pass)
}
