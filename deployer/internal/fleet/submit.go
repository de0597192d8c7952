package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// Submission returns what every change to an instance begins with.
func (f *Fleet) Submission(id, opID string) api.Submission {
	return api.Submission{Change: api.Change{
		DeploymentID: f.s.State.DeploymentID, Instance: id, Epoch: f.s.State.Epoch, OpID: opID,
	}}
}

// Submit sends an operation to the agent on a VM, follows it to its end and
// reports its steps. If the agent is still busy with another one (an update that
// took longer than it was waited for), Submit waits for that first: a refused
// submission leaves no trace there.
func (f *Fleet) Submit(ctx context.Context, vm state.VMID, s api.Submission) error {
	id := vm.String()
	for {
		err := f.Client(vm).Do(ctx, s, func(e api.OperationEvent) {
			f.s.Event(session.Event{Phase: session.PhaseRollout, Instance: id, Step: e.Step, Message: e.Message})
		})
		var refused *api.Error
		if !errors.As(err, &refused) {
			return err
		}
		if refused.Code == api.CodeStaleEpoch && f.s.Check() == nil {
			// Only the state says who has taken over: an agent may say anything.
			return &api.Error{Code: api.CodeInternal, Message: fmt.Sprintf("its agent refuses epoch %d of this run, although no other run has begun (%s); replace the VM with deploy recreate %s", f.s.State.Epoch, refused.Message, id)}
		}
		if refused.Code != api.CodeConflict {
			return err
		}
		inv, askErr := f.Client(vm).Inventory(ctx)
		if askErr != nil || inv.Running == nil || inv.Running.OpID == s.OpID {
			return err
		}
		f.s.Event(session.Event{Phase: session.PhaseRollout, Instance: id, Step: "wait", Message: "waiting for the " + string(inv.Running.Kind) + " that runs there"})
		if err := f.follow(ctx, vm, inv.Running); err != nil {
			return err
		}
	}
}

// Settle waits for operations that an earlier run left, so that every change
// starts from a known end of the last one.
func (f *Fleet) Settle(ctx context.Context) error {
	ids := f.s.VMIDs()
	return f.s.Each(ctx, len(ids), func(ctx context.Context, i int) error {
		id := ids[i]
		inv := f.Inventory(id)
		if inv == nil || inv.Running == nil || Older(inv) { // a replaced agent gives up what it does
			return nil
		}
		f.s.Event(session.Event{Phase: session.PhaseSurvey, Instance: id, Step: "settle", Message: "waiting for the " + string(inv.Running.Kind) + " that an earlier run began"})
		ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
		defer cancel()
		if err := f.follow(ctx, state.Own(id), inv.Running); err != nil {
			if ctx.Err() == nil { // it says what is not so
				f.Distrust(id, err)
				err = nil
			}
			return err
		}
		f.s.Event(session.Event{Phase: session.PhaseSurvey, Instance: id, Step: "settle", Done: true})
		return nil
	})
}

// follow waits until an operation on an agent has ended, well or not.
func (f *Fleet) follow(ctx context.Context, vm state.VMID, op *api.Operation) error {
	since := uint64(0)
	for {
		progress, err := f.Client(vm).Wait(ctx, api.WaitRequest{OpID: op.OpID, Since: since, MaxMS: 10_000})
		if err != nil {
			return fmt.Errorf("cannot follow the %s that runs on %s: %w", op.Kind, vm, err)
		}
		if progress.Operation.State != api.OperationRunning {
			return nil
		}
		since = progress.Operation.Sequence
	}
}

// Distrust leaves an instance out of this run, whose agent does not do as it says.
func (f *Fleet) Distrust(id string, why error) {
	inv := f.Inventory(id)
	f.s.Distrusted.Add(id, why, inv != nil && inv.State == api.InstanceRunning)
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.inventories, id)
	f.reasons[id] = why
}
