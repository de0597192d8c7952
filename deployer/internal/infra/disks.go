package infra

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// keptDisks adds all disks there are, unattached: whoever wants one attaches it.
// Those that no wanted instance can want are left out if they are to be deleted.
func (i *Infra) existingDisks(disks map[string]terraform.DiskInput) error {
	for _, o := range i.s.State.Orphans {
		if !i.DeleteDisks {
			disks[o.ID] = terraform.DiskInput{Group: o.Group, Index: o.Index, SizeGB: o.SizeGB}
		}
	}
	for id, vm := range i.s.VMs() {
		was, err := readMadeOf(state.Own(id), vm)
		if err != nil {
			return err
		}
		if d := was.Disk; d != nil && (!i.DeleteDisks || i.s.Has(id)) {
			disks[id] = terraform.DiskInput{Group: d.Group, Index: d.Index, SizeGB: d.SizeGB}
		}
	}
	return nil
}

// DiskGone says that a persistent disk does not exist any more.
func DiskGone(disk string) string {
	return fmt.Sprintf("its persistent disk %s is lost, with the data on it", disk)
}

// knownDisks returns the persistent disks that the state knows, by instance.
func knownDisks(vms map[string]state.VM, orphans []state.Orphan) map[string]state.Orphan {
	out := map[string]state.Orphan{}
	for _, o := range orphans {
		out[o.ID] = o
	}
	for id, vm := range vms {
		// What cannot be read is found where it is needed.
		if was, err := readMadeOf(state.Own(id), vm); err == nil && was.Disk != nil {
			out[id] = state.Orphan{ID: id, Group: was.Disk.Group, Index: was.Disk.Index, SizeGB: was.Disk.SizeGB, Folder: vm.Disk}
		}
	}
	return out
}

// unwantedDisks returns the instances whose orphaned disks are to be deleted.
func (i *Infra) unwantedDisks() []string {
	var ids []string
	for _, o := range i.s.State.Orphans {
		if i.DeleteDisks {
			ids = append(ids, o.ID)
		}
	}
	return ids
}

// orphans returns the disks of an input that no VM has.
func (i *Infra) orphans(in input) ([]state.Orphan, error) {
	vms := i.s.VMs()
	var out []state.Orphan
	for id, d := range in.Disks {
		if d.Attached {
			continue
		}
		o := state.Orphan{ID: id, Group: d.Group, Index: d.Index, SizeGB: d.SizeGB}
		if vm, ok := vms[id]; ok {
			was, err := readMadeOf(state.Own(id), vm)
			if err != nil {
				return nil, err
			}
			o.AZ, o.Folder = was.VM.AZ, vm.Disk
		}
		for _, had := range i.s.State.Orphans {
			if had.ID == id {
				o.AZ, o.Folder = had.AZ, had.Folder
			}
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b state.Orphan) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// DiskChanges returns the disks that lose their instance or find one. lost are the
// instances whose disk is gone, and gets an empty one in its place; gone reports
// which instances are deleted.
func (i *Infra) DiskChanges(lost map[string]bool, gone func(id string) bool) ([]plan.DiskChange, error) {
	wants := func(id, group string) bool {
		g := i.s.Manifest.Group(group)
		return !gone(id) && g != nil && g.Disk != nil && i.s.Has(id)
	}
	var out []plan.DiskChange
	known := knownDisks(i.s.VMs(), i.s.State.Orphans)
	for _, id := range slices.Sorted(maps.Keys(lost)) {
		out = append(out, plan.DiskChange{Instance: id, Action: plan.Lost, SizeGB: known[id].SizeGB, Folder: known[id].Folder})
	}
	for _, o := range i.s.State.Orphans {
		if i.s.Exempt(o.ID) != "" || lost[o.ID] {
			continue
		}
		c := plan.DiskChange{Instance: o.ID, SizeGB: o.SizeGB, Folder: o.Folder}
		switch {
		case wants(o.ID, o.Group):
			c.Action = plan.Adopt
		case i.DeleteDisks:
			c.Action = plan.Delete
		default:
			continue // it stays as it is
		}
		out = append(out, c)
	}
	vms := i.s.VMs()
	for _, id := range slices.Sorted(maps.Keys(vms)) {
		was, err := readMadeOf(state.Own(id), vms[id])
		if err != nil {
			return nil, err
		}
		group, _, _ := api.SplitInstance(id) // the disk may have been made for another name of it
		if was.Disk == nil || wants(id, group) || i.s.Exempt(id) != "" || lost[id] {
			continue
		}
		c := plan.DiskChange{Instance: id, Action: plan.Keep, SizeGB: was.Disk.SizeGB, Folder: vms[id].Disk}
		if gone(id) && i.DeleteDisks {
			c.Action = plan.Delete
		}
		out = append(out, c)
	}
	return out, nil
}

// destroyButDisks removes everything but the disks of an input without VMs, and
// forgets what a deployment that begins anew must not know.
func (i *Infra) destroyButDisks(ctx context.Context, in input) error {
	var remove []state.VMID
	for _, id := range i.s.VMIDs() {
		remove = append(remove, state.Own(id))
	}
	for _, id := range i.s.PreviousVMs() {
		remove = append(remove, state.PreviousOf(id))
	}
	_, err := i.apply(ctx, in, scope{what: "destroy the VMs", remove: remove, create: true, update: true, uninstalled: true})
	if err != nil {
		return err
	}
	return i.s.UpdateAndSave(func() error {
		i.s.State.Groups, i.s.State.Memory, i.s.State.Bus = nil, nil, nil
		i.s.Secrets.Agents, i.s.Secrets.Certificates = nil, nil
		return nil
	})
}

// KeptDisks names the disks that stay, for people.
func (i *Infra) KeptDisks() string {
	var names []string
	for _, o := range i.s.State.Orphans {
		names = append(names, fmt.Sprintf("the disk of %s (%d GB, %s)", o.ID, o.SizeGB, o.Folder))
	}
	return strings.Join(names, ", ") + ": the next apply uses it again, destroy --delete-disks removes it with all data"
}
