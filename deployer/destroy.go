package deployer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/infra"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// DestroyRequest says how to destroy.
type DestroyRequest struct {
	Approve Approve
	// ForgetUnreachable leaves machines that outlive the deployment as they are if
	// they cannot be reached; else one that cannot is an error.
	ForgetUnreachable bool
	// DeleteDisks also deletes the persistent disks, which are kept otherwise.
	DeleteDisks bool
}

// Destroy stops everything, consumers before providers, removes the VMs and
// then the state. It does nothing to a deployment that was never applied.
func (d *Deployer) Destroy(ctx context.Context, q DestroyRequest) (result *Result, err error) {
	started, by := time.Now(), d
	if _, wrong := d.open(); errors.As(wrong, new(*manifests.Error)) {
		var number int
		if by, number, err = lastApplied(d, wrong); err != nil {
			return nil, err
		}
		d.config.Report(Event{At: started, Phase: PhaseLoad, Message: byRevision(number)})
	}
	err = by.change(ctx, func(x *deployment) error {
		x.infra.DeleteDisks = q.DeleteDisks
		nothing := ""
		switch {
		case x.Fresh:
			nothing = "nothing to destroy, it was never applied"
		case len(x.State.VMs) == 0 && len(x.State.Orphans) > 0 && !q.DeleteDisks:
			nothing = "nothing to destroy but " + x.infra.KeptDisks()
		}
		if nothing != "" {
			result = &Result{Deployment: x.Manifest.Deployment.Name, Summary: nothing}
			return nil
		}
		if err := infra.CheckEngine(x.Session); err != nil {
			return err
		}
		machines := infra.Machines(x.State)
		p, err := x.destroyPlan(ctx)
		if err != nil {
			return err
		}
		if err := q.Approve.ask(p); err != nil {
			return err
		}
		result = &Result{Deployment: p.Deployment, Changed: true, Summary: "Destroyed"}
		for _, step := range []func() error{
			func() error { return x.begin("destroy") },
			func() error { return x.stopAll(ctx) },
			func() error { return x.fleet.UninstallAll(ctx, !q.ForgetUnreachable) },
			func() error { return x.infra.Destroy(ctx) },
			func() error { return infra.CheckEnded(machines) },
		} {
			if err := step(); err != nil {
				return err
			}
		}
		if len(x.State.Orphans) > 0 && !q.DeleteDisks {
			result.Summary += "; what is left is " + x.infra.KeptDisks()
			return nil
		}
		return x.Remove()
	})
	if result != nil && result.Changed {
		result.end(by, started, err)
	}
	return result, err
}

// destroyPlan returns what a destroy does to each instance. What must not be
// destroyed is an error.
func (x *deployment) destroyPlan(ctx context.Context) (*plan.Plan, error) {
	inventories := x.fleet.Survey(ctx, fleet.Patient)
	x.Distrusted.Forget() // they are destroyed with the others
	existing := map[string]plan.Existing{}
	for _, id := range x.VMIDs() {
		if inv := inventories[id]; inv != nil && inv.DeploymentID == x.State.DeploymentID {
			if err := x.fleet.Refuse(id, inv); err != nil {
				return nil, err
			}
		}
		existing[id] = plan.Existing{VM: true, Inventory: inventories[id]}
	}
	p := plan.Make(x.Manifest.Deployment.Name, nil, existing, nil)
	if err := x.infra.Protected(p, infra.Plan{}); err != nil {
		return nil, err
	}
	if err := x.refuseIgnored(); err != nil {
		return nil, err
	}
	for i := range p.Instances { // the manifest has them; a destroy deletes them anyway
		p.Instances[i].Causes = nil
		for k := range p.Instances[i].Processes {
			p.Instances[i].Processes[k].Cause = "the deployment is destroyed"
		}
	}
	var err error
	if p.Disks, err = x.infra.DiskChanges(nil, func(string) bool { return true }); err != nil {
		return nil, err
	}
	return p, x.census(ctx, p, inventories)
}

// stopAll stops instances wave by wave, last started first, without a drain:
// nobody is left to take over what they do. A failure to stop is reported, and the
// VM is deleted anyway.
func (x *deployment) stopAll(ctx context.Context) error {
	waves := [][]string{x.Removed}
	for i := len(x.Manifest.Order) - 1; i >= 0; i-- {
		var wave []string
		for _, g := range x.Manifest.Order[i] {
			for _, slot := range x.State.Groups[g.Name] {
				wave = append(wave, api.InstanceID(g.Name, slot.Index))
			}
		}
		waves = append(waves, wave)
	}
	for _, wave := range waves {
		err := x.Each(ctx, len(wave), func(ctx context.Context, i int) error {
			id := wave[i]
			if inv := x.fleet.Inventory(id); inv == nil || inv.Instance == "" {
				return nil // nothing answers there; its VM is deleted as it is
			}
			x.Event(Event{Phase: PhaseDestroy, Instance: id, Step: "stop"})
			s := x.fleet.Submission(id, fmt.Sprintf("%.8s-%d.stop.%s", x.State.DeploymentID, x.State.Epoch, api.SubjectToken(id)))
			s.Kind, s.Stop = api.KindStop, &api.Stop{Next: api.NextDelete, SkipDrain: true}
			err := fleet.Within(ctx, infra.StopLimit, func(ctx context.Context) error { return x.fleet.Submit(ctx, state.Own(id), s) })
			var refused *api.Error
			if errors.As(err, &refused) && refused.Code == api.CodeStaleEpoch {
				return fmt.Errorf("cannot stop %s: %w", id, err)
			}
			e := Event{Phase: PhaseDestroy, Instance: id, Step: "stop", Done: true}
			if err != nil {
				e.Message = "it did not stop in order; its VM is deleted anyway: " + err.Error()
			}
			x.Event(e)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
