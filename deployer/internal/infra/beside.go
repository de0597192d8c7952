package infra

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// A lone server of the bus that moves would take the bus along. Its new VM is
// made beside the old one instead:
//
//  1. The rollout makes it and brings it up (rollout.Instance.Beside). From then
//     on it is the instance's VM. The old one, which continues to serve, is in
//     state.Previous. A new VM that does not come up is deleted, and the old one
//     takes its place again (ReturnToPrevious).
//  2. Everybody learns of both.
//  3. The old one is stopped and deleted (DeletePrevious), which everybody learns,
//     too.
//
// The state says at any time which VMs there are, so the next run continues where
// one was ended.

// StopLimit bounds stopping one instance before its VM is deleted. A machine that
// hangs is deleted anyway.
const StopLimit = 60 * time.Second

// makeBeside has an input make another VM for an instance and keep the one that
// it has.
func (i *Infra) makeBeside(in input, id string) error {
	own, old := state.Own(id), state.PreviousOf(id)
	was, err := i.lastRolled(own)
	if err != nil {
		return err
	}
	key := in.Keys[own]
	in.VMs[old], in.Keys[old] = was.VM, key
	in.Keys[own] = besideKey(key)
	return nil
}

// ReturnToPrevious deletes an instance's VM that did not come up beside the old
// one, which takes its place again.
func (i *Infra) ReturnToPrevious(ctx context.Context, id string) error {
	i.engine.Lock()
	defer i.engine.Unlock()
	own, old := state.Own(id), state.PreviousOf(id)
	if !i.s.HasPrevious(id) {
		return nil // none was made
	}
	i.s.Event(session.Event{Phase: session.PhaseVMs, Message: fmt.Sprintf("the new VM of %s is deleted; the old one never stopped serving", id)})
	failed := i.s.VM(own)
	i.s.Update(func() {
		i.s.State.VMs[id] = i.s.State.Previous[id]
		delete(i.s.State.Previous, id)
	})
	if i.pending == nil {
		i.pending = map[string][]string{}
	}
	i.pending[id] = []string{"its new VM did not come up"}
	i.fleet.Forget(own)
	i.fleet.Forget(old)
	return i.deletePrevious(ctx, id, failed, scope{what: "delete the new VM of " + id})
}

// deletePrevious deletes a VM that the state no longer has.
func (i *Infra) deletePrevious(ctx context.Context, id string, vm state.VM, s scope) error {
	old := state.PreviousOf(id)
	in, err := i.nextInput(nil)
	if err != nil {
		return err
	}
	in.Keys[old] = vm.Key
	if vm.Key == "" {
		in.Keys[old] = id
	}
	s.remove = []state.VMID{old}
	_, err = i.apply(ctx, in, s)
	return err
}

// DeletePrevious stops and deletes an instance's previous VM. What runs on it is
// stopped first: whoever is connected to it learns that at once.
func (i *Infra) DeletePrevious(ctx context.Context, id string, skipDrain bool) error {
	old := state.PreviousOf(id)
	if err := i.stopPrevious(ctx, id, skipDrain); err != nil {
		return err
	}
	i.engine.Lock()
	defer i.engine.Unlock()
	vm := i.s.VM(old)
	i.s.Update(func() { delete(i.s.State.Previous, id) })
	err := i.deletePrevious(ctx, id, vm, scope{what: "delete the previous VM of " + id, update: true})
	if err != nil {
		i.s.Update(func() { i.s.State.Previous[id] = vm })
		return err
	}
	i.fleet.Forget(old)
	return nil
}

func (i *Infra) stopPrevious(ctx context.Context, id string, skipDrain bool) error {
	old := state.PreviousOf(id)
	i.s.Event(session.Event{Phase: session.PhaseVMs, Instance: old.String(), Step: "stop"})
	s := i.fleet.Submission(id, fmt.Sprintf("%.8s-%d.leave.%s", i.s.State.DeploymentID, i.s.State.Epoch, api.SubjectToken(id)))
	s.Kind, s.Stop = api.KindStop, &api.Stop{Next: api.NextRecreate, SkipDrain: skipDrain}
	err := fleet.Within(ctx, StopLimit, func(ctx context.Context) error { return i.fleet.Submit(ctx, old, s) })
	var refused *api.Error
	if errors.As(err, &refused) && refused.Code == api.CodeStaleEpoch {
		return fmt.Errorf("cannot stop the previous VM of %s: %w", id, err)
	}
	e := session.Event{Phase: session.PhaseVMs, Instance: old.String(), Step: "stop", Done: true}
	if err != nil {
		e.Message = "it did not stop in order; its VM is deleted anyway: " + err.Error()
	}
	i.s.Event(e)
	return nil
}

// TakesOver returns an error unless an instance serves on its new VM, so that the
// previous one may be deleted.
func (i *Infra) TakesOver(ctx context.Context, id string) error {
	var inv api.Inventory
	err := fleet.Within(ctx, fleet.AskTime(i.s.VM(state.Own(id))), func(ctx context.Context) (err error) {
		inv, err = i.fleet.Client(state.Own(id)).Inventory(ctx)
		return err
	})
	if err == nil && inv.State != api.InstanceRunning {
		err = fmt.Errorf("it is %s: %s", inv.State, strings.Join(inv.Reasons, "; "))
	}
	if err != nil {
		return fmt.Errorf("cannot delete the previous VM of %s, since the new one does not serve: %w; the previous one still serves; repair the new one and apply again", id, err)
	}
	return nil
}
