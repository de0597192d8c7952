package deployer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// A lone server of the bus that moves would take the bus along. Its new VM is
// made beside the old one instead:
//
//  1. The rollout makes it and brings it up (rollout.Instance.Beside). From then
//     on it is the instance's VM; the old one, which serves on, is in
//     state.Leaving. One that does not come up is deleted, and the old one takes
//     its place again (returnToOld).
//  2. Everybody learns of both (followAddresses).
//  3. The old one is stopped and deleted (partWithOld), which everybody learns,
//     too.
//
// The state says at any time which VMs there are, so the next run goes on where
// one was ended.

// leavingMark makes of an instance's id that of the VM which it had before.
const leavingMark = " (leaving)"

func leavingID(id string) string { return id + leavingMark }

// leavingOf is the instance that had a VM before, if id is that of such a VM.
func leavingOf(id string) (instance string, leaving bool) { return strings.CutSuffix(id, leavingMark) }

// leavingIDs are the instances that have a VM of before, sorted.
func (r *run) leavingIDs() []string {
	r.vmsMu.Lock()
	defer r.vmsMu.Unlock()
	return slices.Sorted(maps.Keys(r.state.Leaving))
}

// isLeaving tells whether an instance has a VM of before.
func (r *run) isLeaving(id string) bool {
	r.vmsMu.Lock()
	defer r.vmsMu.Unlock()
	_, leaving := r.state.Leaving[id]
	return leaving
}

// toPartWith are the VMs of before that this run may delete: not as long as
// some who use them are not to learn where the new ones are.
func (r *run) toPartWith() []string {
	if len(r.targets) > 0 {
		return nil
	}
	return slices.DeleteFunc(r.leavingIDs(), func(id string) bool { return !r.touches(id) })
}

// addLeaving adds to an input the VMs of before, and which keys the VMs have.
func (r *run) addLeaving(in *terraform.Input) error {
	in.Keys = map[string]string{}
	for id, vm := range r.state.VMs {
		in.Keys[id] = cmp.Or(vm.Key, id)
	}
	for id, vm := range r.state.Leaving {
		var was madeOf
		if err := json.Unmarshal(vm.Input, &was); err != nil {
			return fmt.Errorf("cannot read how the VM that %s had before was made: %w", id, err)
		}
		in.Instances[leavingID(id)], in.Keys[leavingID(id)] = was.VM, cmp.Or(vm.Key, id)
	}
	return nil
}

// mayGoBeside tells whether an instance's new VM can be made beside the old one:
// a lone server of the bus that is to be at another address.
func (r *run) mayGoBeside(id string, was, wanted madeOf, planned terraform.Instance) bool {
	group, _, _ := api.SplitInstance(id)
	vm := r.state.VMs[id]
	elsewhere := planned.Address != vm.Address
	if static := wanted.VM.StaticAddress; static != "" {
		elsewhere = static != vm.Address
	}
	return elsewhere && vm.Beside && r.servesBus(id) && len(r.state.Groups[group]) == 1 &&
		was.Disk == nil && wanted.Disk == nil && !r.isLeaving(id)
}

// makeBeside has an input make another VM for an instance and keep the one that
// it has.
func (r *run) makeBeside(in *terraform.Input, id string) error {
	was, err := r.lastRolled(id)
	if err != nil {
		return err
	}
	key := in.Keys[id]
	in.Instances[leavingID(id)], in.Keys[leavingID(id)] = was.VM, key
	in.Keys[id] = terraform.BesideKey(key)
	return nil
}

// returnToOld deletes a VM that did not come up beside the old one.
func (x *executor) returnToOld(ctx context.Context, id string) error {
	if !x.isLeaving(id) {
		return nil // none was made
	}
	x.event(Event{Phase: PhaseVMs, Message: fmt.Sprintf("the new VM of %s goes again; the old one has never stopped", id)})
	x.vmsMu.Lock()
	failed := x.state.VMs[id]
	x.state.VMs[id] = x.state.Leaving[id]
	delete(x.state.Leaving, id)
	x.vmsMu.Unlock()
	x.owedVMs[id] = []string{"its new VM did not come up"}
	x.fleet.forget(id)
	x.fleet.forget(leavingID(id))
	in, err := x.nextInput(nil)
	if err != nil {
		return err
	}
	in.Keys[leavingID(id)] = cmp.Or(failed.Key, id)
	_, err = x.applyVMs(ctx, in, scope{what: "delete the new VM of " + id, remove: []string{leavingID(id)}})
	return err
}

// partWithOld stops and deletes the VM that an instance had before. What runs on
// it is stopped first: whoever is connected to it learns that at once.
func (r *run) partWithOld(ctx context.Context, id string) error {
	old := leavingID(id)
	r.event(Event{Phase: PhaseVMs, Instance: old, Step: "stop"})
	s := r.submission(id, fmt.Sprintf("%.8s-%d.leave.%s", r.state.DeploymentID, r.state.Epoch, api.SubjectToken(id)))
	s.Kind, s.Stop = api.KindStop, &api.Stop{Next: api.NextRecreate, SkipDrain: r.skipDrain}
	err := within(ctx, stopLimit, func(ctx context.Context) error { return r.submit(ctx, old, s) })
	var refused *api.Error
	if errors.As(err, &refused) && refused.Code == api.CodeStaleEpoch {
		return fmt.Errorf("cannot stop the VM that %s had before: %w", id, err)
	}
	e := Event{Phase: PhaseVMs, Instance: old, Step: "stop", Done: true}
	if err != nil {
		e.Message = "not in good order, its VM goes all the same: " + err.Error()
	}
	r.event(e)
	r.vmsMu.Lock()
	vm := r.state.Leaving[id]
	delete(r.state.Leaving, id)
	r.vmsMu.Unlock()
	err = r.deleteOld(ctx, id, vm)
	if err != nil {
		r.vmsMu.Lock()
		defer r.vmsMu.Unlock()
		r.state.Leaving[id] = vm
		return err
	}
	r.fleet.forget(old)
	return nil
}

func (r *run) deleteOld(ctx context.Context, id string, vm state.VM) error {
	in, err := r.nextInput(nil)
	if err != nil {
		return err
	}
	in.Keys[leavingID(id)] = cmp.Or(vm.Key, id)
	_, err = r.applyVMs(ctx, in, scope{what: "delete the VM that " + id + " had before", remove: []string{leavingID(id)}, update: true})
	return err
}

// takesOver makes sure that an instance serves on its new VM before it parts
// with the old one.
func (r *run) takesOver(ctx context.Context, id string) error {
	var inv api.Inventory
	err := within(ctx, sshAsk, func(ctx context.Context) (err error) { inv, err = r.fleet.client(id).Inventory(ctx); return err })
	if err == nil && inv.State != api.InstanceRunning {
		err = fmt.Errorf("it is %s: %s", inv.State, strings.Join(inv.Reasons, "; "))
	}
	if err != nil {
		return fmt.Errorf("cannot delete the VM that %s had before, since the new one does not serve: %w; the old one goes on; mend the new one and apply again", id, err)
	}
	return nil
}

// errTwoVMs is why an instance is not asked over the bus.
var errTwoVMs = errors.New("the agent of the VM that it had before answers on the bus in its name")
