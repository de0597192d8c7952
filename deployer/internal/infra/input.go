package infra

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/stemcells"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
	"github.com/clusterworks/deploy/manifests"
)

// besideMark ends the key of a VM that was made beside another one of the same
// instance. The state and templates (templates/CONTRACT.md) know it.
const besideMark = "+"

// besideKey returns the key of a VM that is made beside the one with the given
// key. That one is deleted later, so the two take turns: "nats/0", "nats/0+",
// "nats/0".
func besideKey(key string) string {
	if id, beside := strings.CutSuffix(key, besideMark); beside {
		return id
	}
	return key + besideMark
}

// input is the template's input, with the VMs by name.
type input struct {
	terraform.Input // without Instances
	VMs             map[state.VMID]terraform.InstanceInput
	// Keys are the keys of VMs that exist.
	Keys map[state.VMID]string

	stemcells stemcells.Store
}

// key returns the engine's key of a VM.
func (in input) key(id state.VMID) string { return cmp.Or(in.Keys[id], id.Instance) }

// vm returns whose key it is. A key that no VM has is that of the instance with
// this name.
func (in input) vm(key string) state.VMID {
	if in.Keys[state.Own(key)] == key {
		return state.Own(key)
	}
	for id, k := range in.Keys {
		if k == key {
			return id
		}
	}
	return state.Own(key)
}

// forEngine returns the input with the VMs by key.
func (in input) forEngine() terraform.Input {
	out := in.Input
	out.Instances = make(map[string]terraform.InstanceInput, len(in.VMs))
	for id, vm := range in.VMs {
		vm.Image = in.stemcells.Image(vm.Image)
		out.Instances[in.key(id)] = vm
	}
	return out
}

// of returns the inputs of an instance's own VM.
func (in input) of(instance string) madeOf {
	m := madeOf{VM: in.VMs[state.Own(instance)]}
	if d := in.Disks[instance]; d.Attached {
		m.Disk = &d
	}
	return m
}

// put makes the inputs of an instance's own VM those of m.
func (in input) put(instance string, m madeOf) {
	in.VMs[state.Own(instance)] = m.VM
	if d, ok := in.Disks[instance]; m.Disk != nil {
		in.Disks[instance] = *m.Disk
	} else if ok {
		d.Attached = false // it is there when the VM's turn comes
		in.Disks[instance] = d
	}
}

// madeOf is state.VM.Input: the inputs of a VM, as last rolled.
type madeOf struct {
	VM   terraform.InstanceInput `json:"vm"`
	Disk *terraform.DiskInput    `json:"disk,omitempty"`
}

// readMadeOf returns the inputs that a VM was made of.
func readMadeOf(id state.VMID, vm state.VM) (madeOf, error) {
	var m madeOf
	if err := json.Unmarshal(vm.Input, &m); err != nil {
		return m, fmt.Errorf("cannot read how the VM of %s was made: %w", id, err)
	}
	return m, nil
}

// lastRolled returns the inputs that a VM was made of.
func (i *Infra) lastRolled(id state.VMID) (madeOf, error) { return readMadeOf(id, i.s.VM(id)) }

// changes returns the inputs in which m differs from what is wanted.
func (m madeOf) changes(wanted madeOf) []string {
	var out []string
	differ := func(name string, was, is any) {
		if was != is {
			out = append(out, fmt.Sprintf("%s %v -> %v", name, was, is))
		}
	}
	a, b := m.VM, wanted.VM
	differ("group", quoted(a.Group), quoted(b.Group))
	differ("az", quoted(a.AZ), quoted(b.AZ))
	differ("cpus", a.CPUs, b.CPUs)
	differ("memory_mb", a.MemoryMB, b.MemoryMB)
	differ("disk_gb", a.DiskGB, b.DiskGB)
	if a.Image != b.Image {
		out = append(out, imageChange(a, b))
	}
	if !maps.Equal(a.Options, b.Options) {
		out = append(out, "options")
	}
	differ("network", quoted(a.Network), quoted(b.Network))
	differ("static_address", quoted(a.StaticAddress), quoted(b.StaticAddress))
	size := func(d *terraform.DiskInput) string {
		if d == nil {
			return "none"
		}
		return fmt.Sprintf("%d GB", d.SizeGB)
	}
	differ("disk", size(m.Disk), size(wanted.Disk))
	return out
}

// imageChange tells of another image; of stemcells what they are called, not their
// digests, unless they are called the same.
func imageChange(was, is terraform.InstanceInput) string {
	a, b := was.Tags[stemcellTag], is.Tags[stemcellTag]
	if a == "" || b == "" || a == b {
		return fmt.Sprintf("image %q -> %q", was.Image, is.Image)
	}
	return fmt.Sprintf("stemcell %s -> %s", a, b)
}

func quoted(s string) string { return fmt.Sprintf("%q", s) }

// input returns what the template gets for the wanted instances and the removed
// ones that are named. Instances that are exempt stay as they were last rolled.
func (i *Infra) input(removed []string) (input, error) {
	key, err := i.credentials.SSHPublicKey()
	if err != nil {
		return input{}, err
	}
	in := input{
		Input: terraform.Input{
			Deployment:   terraform.Deployment{Name: i.s.Manifest.Deployment.Name, ID: i.s.State.DeploymentID},
			Disks:        map[string]terraform.DiskInput{},
			SSHPublicKey: key,
			Settings:     i.s.Manifest.Infrastructure.Settings,
			Moves:        map[string]string{},
		},
		VMs: map[state.VMID]terraform.InstanceInput{}, Keys: map[state.VMID]string{},
		stemcells: stemcellsOf(i.s.Store, i.options.Dir),
	}
	for _, m := range i.s.Manifest.Moves {
		in.Moves[m.From] = m.To
	}
	if err := i.existingDisks(in.Disks); err != nil {
		return in, err
	}
	vms := i.s.VMs()
	for _, g := range i.s.Manifest.Groups {
		for _, slot := range i.s.State.Groups[g.Name] {
			id := api.InstanceID(g.Name, slot.Index)
			if i.s.Exempt(id) != "" {
				if _, made := vms[id]; made {
					removed = append(slices.Clone(removed), id) // as it was last rolled
				}
				continue
			}
			vm := instanceInput(g, slot, i.s.Manifest.Deployment.Tags)
			if vm.Image, err = i.image(vm.Image); err != nil {
				return in, err
			}
			in.VMs[state.Own(id)] = vm
			if g.Disk != nil {
				in.Disks[id] = terraform.DiskInput{Group: g.Name, Index: slot.Index, SizeGB: g.Disk.SizeGB, Attached: true}
			}
		}
	}
	for _, id := range removed {
		was, err := readMadeOf(state.Own(id), vms[id])
		if err != nil {
			return in, err
		}
		in.put(id, was)
	}
	for id, vm := range vms {
		in.Keys[state.Own(id)] = cmp.Or(vm.Key, id)
	}
	for id, vm := range i.s.Previous() {
		old := state.PreviousOf(id)
		was, err := readMadeOf(old, vm)
		if err != nil {
			return in, err
		}
		in.VMs[old], in.Keys[old] = was.VM, cmp.Or(vm.Key, id)
	}
	return in, nil
}

func instanceInput(g *manifests.Group, slot state.Slot, tags map[string]string) terraform.InstanceInput {
	vm := g.VMFor(slot.Index)
	in := terraform.InstanceInput{
		Group: g.Name, Index: slot.Index, AZ: slot.AZ,
		CPUs: vm.CPUs, MemoryMB: vm.MemoryMB, DiskGB: vm.DiskGB, Image: vm.Image, Options: vm.Options, UserData: vm.UserData,
	}
	for _, p := range g.Ports {
		in.Ports = append(in.Ports, terraform.Port{Port: p.Number, Protocol: p.Network, Public: p.Public})
	}
	if len(tags) > 0 || vm.Stemcell != nil {
		in.Tags = maps.Clone(tags)
	}
	if vm.Stemcell != nil {
		if in.Tags == nil {
			in.Tags = map[string]string{}
		}
		in.Image = stemcells.Reference(vm.Stemcell)
		in.Tags[stemcellTag] = vm.Stemcell.String()
	}
	if g.Network != nil {
		in.Network = g.Network.Name
		if slot.Index < len(g.Network.Static) {
			in.StaticAddress = g.Network.Static[slot.Index]
		}
	}
	return in
}

// image returns what a template gets for a VM's image: a name as it is, a path
// that begins with ./ or ../ taken from the manifest's folder.
func (i *Infra) image(image string) (string, error) {
	if !strings.HasPrefix(image, "./") && !strings.HasPrefix(image, "../") {
		return image, nil
	}
	path, err := filepath.Abs(filepath.Join(i.options.Dir, filepath.FromSlash(image)))
	if err != nil {
		return "", fmt.Errorf("cannot find the image %s: %w", image, err)
	}
	return path, nil
}

// nextInput returns what the template gets while a rollout is under way: the
// wanted inputs for the instances whose turn it is and for those whose inputs have
// no pending change, and what was last rolled for all others. The caller holds
// i.engine.
func (i *Infra) nextInput(turn []string) (input, error) {
	in, err := i.input(i.s.Removed)
	if err != nil {
		return in, err
	}
	for id := range i.pending {
		if slices.Contains(turn, id) {
			continue
		}
		was, err := i.lastRolled(state.Own(id))
		if err != nil {
			return in, err
		}
		in.put(id, was)
	}
	return in, nil
}

// Digest covers the inputs of all VMs.
func (i *Infra) Digest() (string, error) {
	in, err := i.input(nil)
	if err != nil {
		return "", err
	}
	instances := map[string]terraform.InstanceInput{}
	for id, vm := range in.VMs {
		if !id.Previous {
			instances[id.Instance] = vm
		}
	}
	data, err := json.Marshal(struct{ Instances, Disks any }{instances, in.Disks})
	if err != nil {
		return "", fmt.Errorf("cannot encode the inputs of VMs: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}
