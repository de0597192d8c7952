package infra

import (
	"fmt"
	"slices"

	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// scope limits what one run of the engine may do to the resources of VMs. Resources
// that belong to no VM may always be updated.
type scope struct {
	what    string       // "replace the VMs of router/0"
	replace []state.VMID // whose resources may be replaced, deleted, created
	remove  []state.VMID // whose resources may be deleted
	disks   []string     // instances whose persistent disks may be deleted
	// lost are the instances whose persistent disk may be made anew, empty.
	lost        map[string]bool
	uninstalled bool // machines that outlive their instances have no agent any more
	create      bool // others that are missing may be created
	update      bool // others may be updated
}

// check refuses a plan that goes beyond its scope.
func (s scope) check(changes []terraform.Change, in input, vms map[string]state.VM, orphans []state.Orphan) error {
	disks := knownDisks(vms, orphans)
	for _, c := range changes {
		if had, was := disks[c.Key]; was && c.Name == terraform.DiskResource && c.Action == terraform.Create && !s.lost[c.Key] {
			return fmt.Errorf("cannot %s: the persistent disk of %s (%s) is lost, and an empty one would take its place; nothing was changed: restore the disk, or apply again with --accept-data-loss", s.what, c.Key, had.Folder)
		}
		vm := in.vm(c.Key)
		if c.Name == terraform.DiskResource {
			vm = state.Own(c.Key)
		}
		_, wanted := in.VMs[vm]
		_, known := vms[vm.Instance]
		_, disk := in.Disks[vm.Instance]
		ours := wanted || !vm.Previous && (known || disk)
		inTurn := slices.Contains(s.replace, vm)
		var allowed bool
		switch {
		case c.Name == terraform.ImageResource && !wanted && !known:
			allowed = c.Action != terraform.Replace // an image comes with the first VM of it and goes with the last
		case c.Name == terraform.DiskResource && c.Action == terraform.Replace:
		case c.Name == terraform.DiskResource && c.Action == terraform.Delete:
			allowed = slices.Contains(s.disks, c.Key) && !disk
		case c.Action == terraform.Delete || c.Action == terraform.Replace:
			allowed = inTurn || c.Action == terraform.Delete && slices.Contains(s.remove, vm) || !ours && s.create
		case c.Action == terraform.Create:
			allowed = s.create || inTurn
		case c.Action == terraform.Update:
			allowed = s.update || inTurn || !ours
		}
		if !allowed {
			return fmt.Errorf("cannot %s: the engine's plan would also %s %s, which this step must not do; nothing was changed: if somebody changed or removed it by hand, apply again to plan for that", s.what, c.Action, resource(c, vm, in.VMs, changes))
		}
	}
	return nil
}
