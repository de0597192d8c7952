package deployer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
	"github.com/clusterworks/deploy/manifests"
)

// vmInput is what the template gets for the wanted instances and those parted
// ones that are named. Those that are exempt stay as they were last rolled.
func (r *run) vmInput(parted []string) (terraform.Input, error) {
	key, err := r.publicKey()
	if err != nil {
		return terraform.Input{}, err
	}
	in := terraform.Input{
		Deployment:   terraform.Deployment{Name: r.manifest.Deployment.Name, ID: r.state.DeploymentID},
		Instances:    map[string]terraform.InstanceInput{},
		Disks:        map[string]terraform.DiskInput{},
		SSHPublicKey: key,
		Settings:     r.manifest.Infrastructure.Settings,
	}
	if err := r.keptDisks(in.Disks); err != nil {
		return in, err
	}
	for _, g := range r.manifest.Groups {
		for _, slot := range r.state.Groups[g.Name] {
			id := api.InstanceID(g.Name, slot.Index)
			if r.exempt(id) != "" {
				if _, made := r.state.VMs[id]; made {
					parted = append(slices.Clone(parted), id) // as it was last rolled
				}
				continue
			}
			vm := instanceInput(g, slot)
			if vm.Image, err = r.image(vm.Image); err != nil {
				return in, err
			}
			in.Instances[id] = vm
			if g.Disk != nil {
				in.Disks[id] = terraform.DiskInput{Group: g.Name, Index: slot.Index, SizeGB: g.Disk.SizeGB, Attached: true}
			}
		}
	}
	for _, id := range parted {
		was, err := r.lastRolled(id)
		if err != nil {
			return in, err
		}
		was.into(&in, id)
	}
	return in, r.addLeaving(&in)
}

func instanceInput(g *manifests.Group, slot state.Slot) terraform.InstanceInput {
	vm := g.VMFor(slot.Index)
	in := terraform.InstanceInput{
		Group: g.Name, Index: slot.Index, AZ: slot.AZ,
		CPUs: vm.CPUs, MemoryMB: vm.MemoryMB, DiskGB: vm.DiskGB, Image: vm.Image, Options: vm.Options,
	}
	if g.Network != nil {
		in.Network = g.Network.Name
		if slot.Index < len(g.Network.Static) {
			in.StaticAddress = g.Network.Static[slot.Index]
		}
	}
	return in
}

// image is what a template gets for a vm's image: a name as it is, a path that
// begins with ./ or ../ taken from the manifest's folder.
func (r *run) image(image string) (string, error) {
	if !strings.HasPrefix(image, "./") && !strings.HasPrefix(image, "../") {
		return image, nil
	}
	path, err := filepath.Abs(filepath.Join(r.manifestDir(), filepath.FromSlash(image)))
	if err != nil {
		return "", fmt.Errorf("cannot find the image %s: %w", image, err)
	}
	return path, nil
}

// engine opens the engine's work folder.
func (r *run) engine(dir string) (*terraform.Runner, error) {
	return terraform.Open(terraform.Options{
		Dir: dir, Templates: r.config.Templates, Template: r.manifest.Infrastructure.Template, BaseDir: r.manifestDir(),
		VMs: r.store.VMs(), Executable: r.config.Executable,
		Report: func(line string) { r.event(Event{Phase: PhaseVMs, Step: "engine", Message: line}) },
	})
}

// rootUnchanged tells whether the root module is what the engine last applied
// in full.
func (r *run) rootUnchanged() (bool, error) {
	leave, stay := r.split()
	if len(r.state.VMs) == 0 || len(leave) > 0 {
		return false, nil
	}
	in, err := r.vmInput(stay)
	if err != nil {
		return false, err
	}
	engine, err := r.engine(r.store.Terraform())
	if err != nil {
		return false, err
	}
	defer engine.Close()
	digest, err := engine.Write(in)
	if err != nil {
		return false, err
	}
	applied, err := engine.Applied()
	return err == nil && applied != nil && applied.Digest == digest, err
}

// planVMs asks the engine what an apply would do to the VMs. It works in a
// folder of its own, on a copy of the engine's state, so that planning writes
// nothing.
func (r *run) planVMs(ctx context.Context) ([]plan.VMChange, error) {
	r.event(Event{Phase: PhaseVMs, Step: "engine", Message: "planning the VMs"})
	_, stay := r.split()
	in, err := r.vmInput(stay)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "deploy-plan-")
	if err != nil {
		return nil, fmt.Errorf("cannot make a folder to plan in: %w", err)
	}
	defer os.RemoveAll(dir)
	data, err := os.ReadFile(filepath.Join(r.store.Terraform(), terraform.StateFile))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, terraform.StateFile), data, 0o600)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot copy the engine's state: %w", err)
	}
	engine, err := r.engine(dir)
	if err != nil {
		return nil, err
	}
	defer engine.Close()
	if _, err := engine.Write(in); err != nil {
		return nil, err
	}
	r.counts.engine.Add(1)
	p, err := engine.Plan(ctx, r.recreate...)
	if err != nil {
		return nil, err
	}
	var out []plan.VMChange
	for _, c := range p.Changes {
		action := plan.Action(c.Action)
		if c.Action == terraform.Replace {
			action = plan.Recreate
		}
		out = append(out, plan.VMChange{Resource: c.Address, Action: action})
	}
	for _, id := range r.toPartWith() {
		out = append(out, plan.VMChange{Resource: "VM that " + id + " had before, at " + r.state.Leaving[id].Address, Action: plan.Delete})
	}
	return out, r.notePlannedVMs(in, p)
}

// firstVMs is planVMs for a deployment that has no VM: all of them are new, and
// the engine need not be asked.
func (r *run) firstVMs() []plan.VMChange {
	var out []plan.VMChange
	for _, id := range r.ids() {
		if r.exempt(id) != "" {
			continue
		}
		out = append(out, plan.VMChange{Resource: "VM " + id, Action: plan.Create})
	}
	return out
}

// makeVMs makes the VMs that are missing and brings those there are to what can
// be changed under them. VMs whose inputs ask for more get them when the rollout
// comes to them, and those that are no longer wanted stay until what runs on
// them has been stopped.
func (r *run) makeVMs(ctx context.Context) error {
	if r.vmsAsWanted {
		return nil
	}
	in, err := r.nextInput(nil)
	if err != nil {
		return err
	}
	for id := range r.movedVMs {
		if inv := r.fleet.inventory(id); inv != nil && inv.Held {
			if r.held == nil {
				r.held = map[string]bool{}
			}
			r.held[id] = true
		}
	}
	replace := slices.Collect(maps.Keys(r.movedVMs))
	for _, id := range r.leavingIDs() {
		if r.movedVMs[id] {
			replace = append(replace, leavingID(id))
		}
	}
	r.event(Event{Phase: PhaseVMs, Message: fmt.Sprintf("%d VMs from template %s", len(in.Instances), r.manifest.Infrastructure.Template)})
	_, err = r.applyVMs(ctx, in, scope{what: "change the VMs", replace: replace, create: true, update: true, disks: r.unwantedDisks(), lost: r.lostDisks})
	if err == nil {
		r.lostDisks = nil
		for id := range r.movedVMs {
			r.recreate = slices.DeleteFunc(r.recreate, func(x string) bool { return x == id })
		}
	}
	r.movedVMs, r.plannedVMs = nil, nil // from now on the addresses are those of the VMs there are
	return err
}

// applyVMs runs the engine within a scope and keeps what it tells. applied is
// false if nothing was begun.
func (r *run) applyVMs(ctx context.Context, in terraform.Input, s scope) (applied bool, err error) {
	engine, err := r.engine(r.store.Terraform())
	if err != nil {
		return false, err
	}
	defer engine.Close()
	if _, err := engine.Write(in); err != nil {
		return false, err
	}
	r.counts.engine.Add(1)
	recreate := slices.DeleteFunc(slices.Clone(r.recreate), func(id string) bool { return !slices.Contains(s.replace, id) })
	p, err := engine.Plan(ctx, recreate...)
	if err != nil {
		return false, err
	}
	instances := p.Instances
	var left []string // machines that stay without their instance
	for _, c := range p.Changes {
		if (c.Action == terraform.Delete || c.Action == terraform.Replace) && !slices.Contains(left, c.Key) {
			left = append(left, c.Key)
		}
	}
	if p.Pending {
		// The engine knows no epochs: this is the last moment to see that another
		// run has begun.
		if err := r.store.Check(r.state); err != nil {
			return false, err
		}
		if err := s.check(p.Changes, in, r.state); err != nil {
			return false, err
		}
		if !s.left {
			if err := r.leaveMachines(ctx, left, false); err != nil {
				return true, err
			}
		}
		r.counts.engine.Add(1)
		if instances, err = engine.Apply(ctx); err != nil {
			return true, err
		}
	}
	return true, r.keepVMs(in, instances)
}

// keepVMs remembers what the infrastructure told.
func (r *run) keepVMs(in terraform.Input, instances map[string]terraform.Instance) error {
	r.vmsMu.Lock()
	defer r.vmsMu.Unlock()
	vms, leaving := map[string]state.VM{}, map[string]state.VM{}
	for id, x := range instances {
		if had, ok := leavingOf(id); ok {
			vm, known := r.state.Leaving[had]
			if !known {
				vm = r.state.VMs[had] // another one was just made beside it
			}
			vm.Running = x.Running
			leaving[had] = vm
			continue
		}
		input, err := json.Marshal(madeOfVM(in, id))
		if err != nil {
			return fmt.Errorf("cannot encode the inputs of %s: %w", id, err)
		}
		vm := state.VM{
			ID: x.ID, Address: x.Address, SSHHost: x.SSHHost, SSHPort: x.SSHPort, SSHUser: x.SSHUser,
			HostKey: strings.TrimSpace(x.SSHHostKey), AgentDir: x.AgentDir, OS: x.OS, Arch: x.Arch,
			Disk: x.Disk, Running: x.Running, ImageDir: x.ImageDir, Input: input, PrivateKeyFile: x.SSHPrivateKeyFile, Keep: x.Keep,
			Beside: x.Beside,
		}
		if key := in.Keys[id]; key != id {
			vm.Key = key
		}
		if had, ok := r.state.VMs[id]; ok && had.ID == vm.ID && vm.HostKey == "" {
			vm.HostKey = had.HostKey // pinned at the first contact
		} else if ok && had.ID != vm.ID {
			delete(r.secrets.Agents, id)
			r.fleet.forget(id)
		}
		vms[id] = vm
	}
	for id := range r.state.VMs {
		if _, there := vms[id]; !there {
			delete(r.secrets.Agents, id)
			r.fleet.forget(id)
		}
	}
	orphans, err := r.orphans(in)
	if err != nil {
		return err
	}
	r.state.VMs, r.state.Orphans, r.state.Leaving = vms, orphans, leaving
	noteEngine(r.store, r.state)
	return r.save()
}

// deleteVMs removes the VMs of instances that have been stopped.
func (r *run) deleteVMs(ctx context.Context, ids []string) error {
	r.parted = slices.DeleteFunc(slices.Clone(r.parted), func(id string) bool { return slices.Contains(ids, id) })
	in, err := r.vmInput(r.parted)
	if err != nil {
		return err
	}
	disks := r.unwantedDisks()
	if r.deleteDisks {
		disks = append(disks, ids...)
	}
	remove := slices.Clone(ids)
	for _, id := range ids {
		delete(in.Instances, leavingID(id))
		remove = append(remove, leavingID(id))
	}
	_, err = r.applyVMs(ctx, in, scope{what: "delete the VMs of " + strings.Join(ids, ", "), remove: remove, disks: disks, update: true})
	return err
}

// destroyVMs removes everything that the engine has made, but for the
// persistent disks unless they are to go too.
func (r *run) destroyVMs(ctx context.Context) error {
	in, err := r.vmInput(r.parted)
	if err != nil {
		return err
	}
	if !r.deleteDisks {
		kept := map[string]terraform.DiskInput{}
		if err := r.keptDisks(kept); err != nil {
			return err
		}
		if len(kept) > 0 {
			in.Instances, in.Disks = map[string]terraform.InstanceInput{}, kept
			return r.destroyButDisks(ctx, in)
		}
	}
	engine, err := r.engine(r.store.Terraform())
	if err != nil {
		return err
	}
	defer engine.Close()
	if _, err := engine.Write(in); err != nil {
		return err
	}
	r.event(Event{Phase: PhaseDestroy, Message: fmt.Sprintf("%d VMs", len(r.state.VMs))})
	if err := r.store.Check(r.state); err != nil {
		return err
	}
	r.counts.engine.Add(1)
	return engine.Destroy(ctx)
}
