package infra

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// Make makes the VMs that are missing, replaces those of p.AtOnce and changes the
// others as far as that needs no new VM. VMs whose inputs ask for a new one get it
// when the rollout comes to them. VMs of removed instances stay until what runs
// there has been stopped. It returns the instances, of those with another VM, that
// an operator has stopped: their new agents do not know.
func (i *Infra) Make(ctx context.Context, p Plan) (held map[string]bool, err error) {
	if p.AsWanted {
		return nil, nil
	}
	i.engine.Lock()
	defer i.engine.Unlock()
	i.pending = maps.Clone(p.Pending)
	in, err := i.nextInput(nil)
	if err != nil {
		return nil, err
	}
	held = map[string]bool{}
	var replace []state.VMID
	for id := range p.AtOnce {
		if inv := i.fleet.Inventory(id); inv != nil && inv.Held {
			held[id] = true
		}
		replace = append(replace, state.Own(id))
		if i.s.HasPrevious(id) {
			replace = append(replace, state.PreviousOf(id))
		}
	}
	i.s.Event(session.Event{Phase: session.PhaseVMs, Message: fmt.Sprintf("%s from template %s", session.Count(len(in.VMs), "VM"), i.s.Manifest.Infrastructure.Template)})
	_, err = i.apply(ctx, in, scope{what: "change the VMs", replace: replace, create: true, update: true, disks: i.unwantedDisks(), lost: p.LostDisks})
	if err != nil {
		return nil, err
	}
	for id := range p.AtOnce {
		i.s.Recreated(id)
	}
	return held, nil
}

// Replace brings the wanted inputs to the VMs of a batch. The new VMs of the
// instances in beside are made beside the old ones. begun is false if nothing was
// changed; moved reports whether an address changed.
func (i *Infra) Replace(ctx context.Context, ids []string, beside map[string]bool) (begun, moved bool, err error) {
	i.engine.Lock()
	defer i.engine.Unlock()
	in, err := i.nextInput(ids)
	if err != nil {
		return false, false, err
	}
	before := i.s.VMs()
	var replace []state.VMID
	for _, id := range ids {
		replace = append(replace, state.Own(id))
		if beside[id] {
			if err := i.makeBeside(in, id); err != nil {
				return false, false, err
			}
		}
	}
	if begun, err = i.apply(ctx, in, scope{what: "replace the VMs of " + strings.Join(ids, ", "), replace: replace}); err != nil {
		return begun, false, err
	}
	for _, id := range ids {
		if i.s.Recreated(id) {
			i.fleet.Forget(state.Own(id)) // a machine that stays has the same id, and another agent
		}
		delete(i.pending, id)
		moved = moved || i.s.VM(state.Own(id)).Address != before[id].Address
	}
	return begun, moved, nil
}

// Delete removes the VMs of instances that have been stopped.
func (i *Infra) Delete(ctx context.Context, ids []string) error {
	i.engine.Lock()
	defer i.engine.Unlock()
	i.s.Removed = slices.DeleteFunc(slices.Clone(i.s.Removed), func(id string) bool { return slices.Contains(ids, id) })
	in, err := i.input(i.s.Removed)
	if err != nil {
		return err
	}
	disks := i.unwantedDisks()
	if i.DeleteDisks {
		disks = append(disks, ids...)
	}
	var remove []state.VMID
	for _, id := range ids {
		delete(in.VMs, state.PreviousOf(id))
		remove = append(remove, state.Own(id), state.PreviousOf(id))
	}
	_, err = i.apply(ctx, in, scope{what: "delete the VMs of " + strings.Join(ids, ", "), remove: remove, disks: disks, update: true})
	return err
}

// Destroy removes everything that the engine has made, but for the persistent
// disks unless they are to be deleted too.
func (i *Infra) Destroy(ctx context.Context) error {
	i.engine.Lock()
	defer i.engine.Unlock()
	in, err := i.input(i.s.Removed)
	if err != nil {
		return err
	}
	i.s.Event(session.Event{Phase: session.PhaseDestroy, Message: session.Count(len(i.s.State.VMs), "VM")})
	if !i.DeleteDisks {
		kept := map[string]terraform.DiskInput{}
		if err := i.existingDisks(kept); err != nil {
			return err
		}
		if len(kept) > 0 {
			in.VMs, in.Disks = map[state.VMID]terraform.InstanceInput{}, kept
			return i.destroyButDisks(ctx, in)
		}
	}
	engine, err := i.open(i.s.Store.Terraform())
	if err != nil {
		return err
	}
	defer engine.Close()
	if _, err := engine.Write(in.forEngine()); err != nil {
		return err
	}
	if err := i.s.Check(); err != nil {
		return err
	}
	i.s.Counters.Engine.Add(1)
	return engine.Destroy(ctx)
}
