package infra

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/credentials"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// Plan says what an apply does to the VMs. It is a value: nothing changes it.
type Plan struct {
	// Changes are for people.
	Changes []plan.VMChange
	// Actions are the engine's actions on instances' VMs, if all wanted inputs took
	// effect at once.
	Actions map[string][]terraform.Action
	// Pending are the changed inputs of VMs that the rollout brings in batches.
	Pending map[string][]string
	// AtOnce are the instances whose VMs are replaced before the rollout: because
	// of the infrastructure's settings, or because nobody answers there.
	AtOnce map[string]bool
	// Places are the addresses of the VMs that will replace others.
	Places credentials.Places
	// Beside are the instances whose new VM can be made beside the old one.
	Beside map[string]bool
	// Remade are the instances whose VM the engine has made anew outside of deploy:
	// it knows another one than the state does.
	Remade map[string]bool
	// LostDisks are the instances whose persistent disk the engine does not find, and
	// would make anew, empty.
	LostDisks map[string]bool
	// AsWanted: the root module is what was last applied, and every agent answers
	// from the expected VM, so the engine need not be asked.
	AsWanted bool
}

// Inputs returns what the template gets if all wanted inputs take effect.
func (i *Infra) Inputs() (terraform.Input, error) {
	_, kept := i.s.SplitRemoved()
	in, err := i.input(kept)
	return in.forEngine(), err
}

// Unchanged reports whether the root module is what the engine last applied in
// full.
func (i *Infra) Unchanged() (bool, error) {
	deleted, _ := i.s.SplitRemoved()
	if len(i.s.State.VMs) == 0 || len(deleted) > 0 {
		return false, nil
	}
	in, err := i.Inputs()
	if err != nil {
		return false, err
	}
	engine, err := i.open(i.s.Store.Terraform())
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

// First returns the plan for a deployment that has no VM: all of them are new, and
// the engine need not be asked.
func (i *Infra) First() Plan {
	var p Plan
	for _, id := range i.s.IDs() {
		if i.s.Exempt(id) == "" {
			p.Changes = append(p.Changes, plan.VMChange{Resource: "VM " + id, Action: plan.Create})
		}
	}
	return p
}

// Plan asks the engine what an apply would do to the VMs. It works in a folder of
// its own, on a copy of the engine's state, so that planning writes nothing.
func (i *Infra) Plan(ctx context.Context) (Plan, error) {
	i.engine.Lock()
	defer i.engine.Unlock()
	i.s.Event(session.Event{Phase: session.PhaseVMs, Step: "engine", Message: "planning the VMs"})
	_, kept := i.s.SplitRemoved()
	in, err := i.input(kept)
	if err != nil {
		return Plan{}, err
	}
	dir, err := os.MkdirTemp("", "deploy-plan-")
	if err != nil {
		return Plan{}, fmt.Errorf("cannot make a folder to plan in: %w; TMPDIR can name another place", err)
	}
	defer os.RemoveAll(dir)
	data, err := os.ReadFile(filepath.Join(i.s.Store.Terraform(), terraform.StateFile))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, terraform.StateFile), data, 0o600)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Plan{}, fmt.Errorf("cannot copy the engine's state: %w", err)
	}
	engine, err := i.open(dir)
	if err != nil {
		return Plan{}, err
	}
	defer engine.Close()
	if _, err := engine.Write(in.forEngine()); err != nil {
		return Plan{}, err
	}
	var recreate []string
	for _, id := range i.s.Recreate() {
		recreate = append(recreate, in.key(state.Own(id)))
	}
	i.s.Counters.Engine.Add(1)
	p, err := engine.Plan(ctx, recreate...)
	if err != nil {
		return Plan{}, err
	}
	return i.planned(in, p)
}

// planned returns the plan that the engine's plan leads to.
func (i *Infra) planned(in input, p *terraform.Plan) (Plan, error) {
	out := Plan{
		Actions: map[string][]terraform.Action{}, Pending: map[string][]string{}, AtOnce: map[string]bool{},
		Places: credentials.Places{}, Beside: map[string]bool{}, LostDisks: map[string]bool{}, Remade: map[string]bool{},
	}
	disks := knownDisks(i.s.VMs(), i.s.State.Orphans)
	for _, c := range p.Changes {
		if _, known := disks[c.Key]; known && c.Name == terraform.DiskResource && c.Action == terraform.Create {
			out.LostDisks[c.Key] = true
		}
		action := plan.Action(c.Action)
		if c.Action == terraform.Replace {
			action = plan.Recreate
		}
		out.Changes = append(out.Changes, plan.VMChange{Resource: resource(c, in.vm(c.Key), in.VMs, p.Changes), Action: action})
		if vm := in.vm(c.Key); c.Name != terraform.DiskResource && !vm.Previous {
			out.Actions[vm.Instance] = append(out.Actions[vm.Instance], c.Action)
		}
	}
	for _, id := range i.s.ObsoleteVMs() {
		out.Changes = append(out.Changes, plan.VMChange{Resource: "previous VM of " + id + ", at " + i.s.VM(state.PreviousOf(id)).Address, Action: plan.Delete})
	}
	for id, vm := range i.s.VMs() {
		if !i.s.Touches(id) {
			continue
		}
		was, err := readMadeOf(state.Own(id), vm)
		if err != nil {
			return out, err
		}
		wanted := in.of(id)
		changes := was.changes(wanted)
		if i.s.Recreates(id) {
			changes = append(changes, "an operator asks for another one")
		}
		actions, planned := out.Actions[id], p.Instances[in.key(state.Own(id))]
		replaced := slices.Contains(actions, terraform.Replace)
		if planned.ID != "" && planned.ID != vm.ID && !replaced {
			out.Remade[id] = true
		}
		switch {
		case len(changes) > 0 && (replaced || slices.Contains(actions, terraform.Update) || slices.Contains(actions, terraform.Delete)):
			out.Pending[id] = changes
			if replaced && i.fitsBeside(id, vm, was, wanted, planned) {
				out.Beside[id] = true
			}
		case replaced:
			out.AtOnce[id] = true
		}
		if replaced {
			out.Places[id] = credentials.Place{Address: planned.Address, AgentDir: planned.AgentDir}
		}
	}
	return out, nil
}

// fitsBeside reports whether an instance's new VM can be made beside the old one:
// that of a lone server of the bus, which gets another address.
func (i *Infra) fitsBeside(id string, vm state.VM, was, wanted madeOf, planned terraform.Instance) bool {
	group, _, _ := api.SplitInstance(id)
	elsewhere := planned.Address != vm.Address
	if static := wanted.VM.StaticAddress; static != "" {
		elsewhere = static != vm.Address
	}
	return elsewhere && vm.Beside && i.credentials.ServesBus(id) && len(i.s.State.Groups[group]) == 1 &&
		was.Disk == nil && wanted.Disk == nil && !i.s.HasPrevious(id)
}

// Abandon returns the plan with the VMs replaced at once that an operator wants
// recreated and whose agents do not answer: nobody can stop what runs there, and
// the rollout has nothing to wait for.
func (i *Infra) Abandon(p Plan, inventories map[string]*api.Inventory) Plan {
	for _, id := range i.s.Recreate() {
		if _, pending := p.Pending[id]; !pending || inventories[id] != nil {
			continue
		}
		p.Pending, p.AtOnce = maps.Clone(p.Pending), maps.Clone(p.AtOnce)
		delete(p.Pending, id)
		if p.AtOnce == nil {
			p.AtOnce = map[string]bool{}
		}
		p.AtOnce[id] = true
	}
	return p
}

// Remaining returns what is left of a plan after Make and the rollout so far: the
// addresses are those of the VMs that exist.
func (i *Infra) Remaining(p Plan) Plan {
	i.engine.Lock()
	defer i.engine.Unlock()
	p.Changes, p.Pending, p.AtOnce, p.Places, p.LostDisks, p.Remade = nil, maps.Clone(i.pending), nil, nil, nil, nil
	// What was to be made or changed at once is done.
	p.Actions = maps.Clone(p.Actions)
	maps.DeleteFunc(p.Actions, func(id string, _ []terraform.Action) bool { return len(p.Pending[id]) == 0 })
	return p
}

// Causes returns why an instance gets another VM, nil if it does not, and whether
// that one has another address, zone or network.
func (i *Infra) Causes(p Plan, id string) (causes []string, moved bool) {
	place, planned := p.Places[id]
	moved = planned && place.Address != "" && place.Address != i.s.VM(state.Own(id)).Address
	switch {
	case p.AtOnce[id] && i.s.Recreates(id):
		return []string{"VM: an operator asks for another one"}, moved
	case p.AtOnce[id]:
		return []string{"VM: the infrastructure's settings ask for another one; such VMs are replaced at once, not in batches"}, moved
	}
	for _, c := range p.Pending[id] {
		for _, place := range []string{"az ", "network ", "static_address "} {
			moved = moved || strings.HasPrefix(c, place)
		}
		if !slices.Contains(p.Actions[id], terraform.Replace) {
			c += " (the VM is changed in place)"
		}
		if p.Beside[id] {
			c += " (the new VM is made beside the old one, which is deleted when all know the new one)"
		}
		causes = append(causes, "VM: "+c)
	}
	return causes, moved
}

// Protected refuses a plan that would delete a VM of a group with prevent_destroy.
// As in Terraform, a group that is taken out of the manifest takes its protection
// with it.
func (i *Infra) Protected(p *plan.Plan, vms Plan) error {
	var refused []string
	for _, c := range p.Instances {
		g := i.s.Manifest.Group(c.Group)
		deleted := c.Action == plan.Delete || c.Action.NewVM() || slices.Contains(vms.Actions[c.Instance], terraform.Delete)
		if g != nil && g.PreventDestroy && deleted {
			refused = append(refused, c.Instance)
		}
	}
	if len(refused) == 0 {
		return nil
	}
	return fmt.Errorf("cannot delete the VMs of %s: their group has prevent_destroy; nothing was changed; to delete them, remove prevent_destroy from the manifest; to keep them, undo the change that deletes them", strings.Join(refused, ", "))
}
