package deployer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

// stopLimit bounds stopping one instance before its VM is deleted. A machine
// that hangs is deleted all the same.
const stopLimit = 60 * time.Second

// DestroyRequest is how to destroy.
type DestroyRequest struct {
	Approve Approve
	// ForgetUnreachable leaves machines that outlive the deployment as they are if
	// they cannot be reached; else one that cannot is an error.
	ForgetUnreachable bool
	// DeleteDisks also deletes the persistent disks, which are kept otherwise.
	DeleteDisks bool
}

// Destroy stops everything, consumers before providers, removes the VMs and
// then the state. A deployment that was never applied is nothing to do.
func (d *Deployer) Destroy(ctx context.Context, q DestroyRequest) (*Result, error) {
	started := time.Now()
	r, err := d.load()
	if err != nil {
		return nil, err
	}
	defer func() { r.close() }()
	result := &Result{Deployment: r.manifest.Deployment.Name, Summary: "nothing to destroy, it was never applied"}
	if r.fresh {
		return result, nil
	}
	lock, tookOver, err := d.hold(ctx, r.store)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	// What was read before the lock may be another run's past.
	if r, err = d.load(); err != nil {
		return nil, err
	}
	r.tookOver = tookOver
	if r.fresh { // destroyed meanwhile
		return result, r.cleanUp(nil)
	}
	r.deleteDisks = q.DeleteDisks
	if len(r.state.VMs) == 0 && len(r.state.Orphans) > 0 && !r.deleteDisks {
		result.Summary = "nothing to destroy but " + r.keptSentence()
		return result, nil
	}
	if err := checkEngine(r.store, r.state); err != nil {
		return nil, err
	}
	machines := machines(r.state)
	inventories := r.fleet.survey(ctx, patient)
	r.fleet.distrusted.forget() // they go with the others
	existing := map[string]plan.Existing{}
	for _, id := range r.vmIDs() {
		if inv := inventories[id]; inv != nil && inv.DeploymentID == r.state.DeploymentID {
			if err := r.refuse(id, inv); err != nil {
				return nil, err
			}
		}
		existing[id] = plan.Existing{VM: true, Inventory: inventories[id]}
	}
	p := plan.Make(r.manifest.Deployment.Name, nil, existing, nil)
	if err := r.protected(p); err != nil {
		return nil, err
	}
	if err := r.refuseIgnored(); err != nil {
		return nil, err
	}
	if p.Disks, err = r.diskChanges(func(string) bool { return true }); err != nil {
		return nil, err
	}
	for i := range p.Instances { // the manifest has them; they go all the same
		p.Instances[i].Causes = nil
		for k := range p.Instances[i].Processes {
			p.Instances[i].Processes[k].Cause = "the deployment is destroyed"
		}
	}
	if ok, err := q.Approve(p); err != nil {
		return nil, err
	} else if !ok {
		return nil, ErrNotApproved
	}
	result.Changed = true
	leave := func(ctx context.Context) error { return r.leaveAll(ctx, !q.ForgetUnreachable) }
	for _, step := range []func(context.Context) error{func(context.Context) error { return r.begin("destroy") }, r.stopAll, leave, r.destroyVMs, func(context.Context) error { return stillRun(machines) }} {
		if err := step(ctx); err != nil {
			result.Summary = "Failed"
			r.ended(err)
			return result, err
		}
	}
	summary := "Destroyed"
	if len(r.state.Orphans) > 0 && !r.deleteDisks {
		summary += "; what is left is " + r.keptSentence()
		r.ended(nil)
	} else if err := r.store.Remove(); err != nil {
		return result, err
	}
	result.Summary, result.Duration, result.Counts = summary, time.Since(started), r.counts.snapshot()
	return result, nil
}

// stopAll stops instances wave by wave, last started first, without a drain:
// nobody stays who could take over what they do. What cannot be stopped is
// reported and does not keep the VM from going.
func (r *run) stopAll(ctx context.Context) error {
	waves := [][]string{r.parted}
	for i := len(r.manifest.Order) - 1; i >= 0; i-- {
		var wave []string
		for _, g := range r.manifest.Order[i] {
			for _, slot := range r.state.Groups[g.Name] {
				wave = append(wave, api.InstanceID(g.Name, slot.Index))
			}
		}
		waves = append(waves, wave)
	}
	for _, wave := range waves {
		err := r.parallel(ctx, len(wave), func(ctx context.Context, i int) error {
			id := wave[i]
			if inv := r.fleet.inventory(id); inv == nil || inv.Instance == "" {
				return nil // nothing answers there; its VM goes as it is
			}
			r.event(Event{Phase: PhaseDestroy, Instance: id, Step: "stop"})
			s := r.submission(id, fmt.Sprintf("%.8s-%d.stop.%s", r.state.DeploymentID, r.state.Epoch, api.SubjectToken(id)))
			s.Kind, s.Stop = api.KindStop, &api.Stop{Next: "delete", SkipDrain: true}
			err := within(ctx, stopLimit, func(ctx context.Context) error { return r.submit(ctx, id, s) })
			var refused *api.Error
			if errors.As(err, &refused) && refused.Code == api.CodeStaleEpoch {
				return fmt.Errorf("cannot stop %s: %w", id, err)
			}
			e := Event{Phase: PhaseDestroy, Instance: id, Step: "stop", Done: true}
			if err != nil {
				e.Message = "not in good order, its VM goes all the same: " + err.Error()
			}
			r.event(e)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
