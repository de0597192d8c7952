package deployer

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// keptDisks adds all disks there are, unattached: whoever wants one attaches it.
// Those that no wanted instance can want are left out if they are to be deleted.
func (r *run) keptDisks(disks map[string]terraform.DiskInput) error {
	for _, o := range r.state.Orphans {
		if !r.deleteDisks {
			disks[o.ID] = terraform.DiskInput{Group: o.Group, Index: o.Index, SizeGB: o.SizeGB}
		}
	}
	for id := range r.state.VMs {
		was, err := r.lastRolled(id)
		if err != nil {
			return err
		}
		if d := was.Disk; d != nil && (!r.deleteDisks || r.has(id)) {
			disks[id] = terraform.DiskInput{Group: d.Group, Index: d.Index, SizeGB: d.SizeGB}
		}
	}
	return nil
}

// diskGone says that a persistent disk is not there.
func diskGone(disk string) string {
	return fmt.Sprintf("its persistent disk %s is gone, with the data on it", disk)
}

// knownDisks are the persistent disks that the state knows, by instance.
func knownDisks(st *state.State) map[string]state.Orphan {
	out := map[string]state.Orphan{}
	for _, o := range st.Orphans {
		out[o.ID] = o
	}
	for id, vm := range st.VMs {
		var was madeOf
		// What cannot be read is found where it is needed.
		if json.Unmarshal(vm.Input, &was) == nil && was.Disk != nil {
			out[id] = state.Orphan{ID: id, Group: was.Disk.Group, Index: was.Disk.Index, SizeGB: was.Disk.SizeGB, Folder: vm.Disk}
		}
	}
	return out
}

// unwantedDisks are the instances whose orphaned disks are to be deleted.
func (r *run) unwantedDisks() []string {
	var ids []string
	for _, o := range r.state.Orphans {
		if r.deleteDisks {
			ids = append(ids, o.ID)
		}
	}
	return ids
}

// orphans are the disks of an input that no VM has.
func (r *run) orphans(in terraform.Input) ([]state.Orphan, error) {
	var out []state.Orphan
	for id, d := range in.Disks {
		if d.Attached {
			continue
		}
		o := state.Orphan{ID: id, Group: d.Group, Index: d.Index, SizeGB: d.SizeGB}
		if vm, ok := r.state.VMs[id]; ok {
			was, err := r.lastRolled(id)
			if err != nil {
				return nil, err
			}
			o.AZ, o.Folder = was.VM.AZ, vm.Disk
		}
		for _, had := range r.state.Orphans {
			if had.ID == id {
				o.AZ, o.Folder = had.AZ, had.Folder
			}
		}
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b state.Orphan) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// diskChanges are the disks that lose their instance or find one. gone tells
// which instances go.
func (r *run) diskChanges(gone func(id string) bool) ([]plan.DiskChange, error) {
	wants := func(id, group string) bool {
		g := r.manifest.Group(group)
		return !gone(id) && g != nil && g.Disk != nil && r.has(id)
	}
	var out []plan.DiskChange
	known := knownDisks(r.state)
	for _, id := range slices.Sorted(maps.Keys(r.lostDisks)) {
		out = append(out, plan.DiskChange{Instance: id, Action: plan.Lost, SizeGB: known[id].SizeGB, Folder: known[id].Folder})
	}
	for _, o := range r.state.Orphans {
		if r.exempt(o.ID) != "" || r.lostDisks[o.ID] {
			continue
		}
		c := plan.DiskChange{Instance: o.ID, SizeGB: o.SizeGB, Folder: o.Folder}
		switch {
		case wants(o.ID, o.Group):
			c.Action = plan.Adopt
		case r.deleteDisks:
			c.Action = plan.Delete
		default:
			continue // it stays as it is
		}
		out = append(out, c)
	}
	for _, id := range r.vmIDs() {
		was, err := r.lastRolled(id)
		if err != nil {
			return nil, err
		}
		if was.Disk == nil || wants(id, was.Disk.Group) || r.exempt(id) != "" || r.lostDisks[id] {
			continue
		}
		c := plan.DiskChange{Instance: id, Action: plan.Keep, SizeGB: was.Disk.SizeGB, Folder: r.state.VMs[id].Disk}
		if gone(id) && r.deleteDisks {
			c.Action = plan.Delete
		}
		out = append(out, c)
	}
	return out, nil
}

// destroyButDisks removes everything but the disks of an input without
// instances, and forgets what a deployment that begins anew must not know.
func (r *run) destroyButDisks(ctx context.Context, in terraform.Input) error {
	ids := r.vmIDs()
	r.event(Event{Phase: PhaseDestroy, Message: fmt.Sprintf("%d VMs", len(ids))})
	_, err := r.applyVMs(ctx, in, scope{what: "destroy the VMs", remove: ids, create: true, update: true, left: true, lost: r.lostDisks})
	if err != nil {
		return err
	}
	r.state.Groups, r.state.Memory, r.state.Bus = nil, nil, nil
	r.secrets.Agents, r.secrets.Certificates = nil, nil
	return r.save()
}

// keptSentence names the disks that stay.
func (r *run) keptSentence() string {
	var names []string
	for _, o := range r.state.Orphans {
		names = append(names, fmt.Sprintf("the disk of %s (%d GB, %s)", o.ID, o.SizeGB, o.Folder))
	}
	return strings.Join(names, ", ") + ": the next apply takes it again, destroy --delete-disks removes it with all data"
}
