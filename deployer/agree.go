package deployer

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/localvm"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// There are two states of the machines: ours and the engine's. An engine that has
// lost its own would make machines anew that are there, and leave them running
// when they are to go, so both are compared before anything is written.

// machines are the ids of the VMs that the state has, by what they are called.
func machines(st *state.State) map[string]string {
	out := map[string]string{}
	for id, vm := range st.VMs {
		out[id] = vm.ID
	}
	for id, vm := range st.Leaving {
		out["the one that "+id+" had before"] = vm.ID
	}
	return out
}

// checkEngine fails if the engine's state cannot be the one that has the
// machines which our state has.
func checkEngine(store state.Store, st *state.State) error {
	machines := machines(st)
	if len(machines) == 0 {
		return nil
	}
	_, err := terraform.CheckState(store.Terraform(), terraform.StateID(st.Engine), slices.Collect(maps.Values(machines)))
	if err == nil || !errors.Is(err, terraform.ErrState) {
		return err
	}
	return fmt.Errorf("%w; state.json has the VMs of %s, which the engine would make anew or leave running; nothing was done: put the file back from a copy of yours, "+
		"or import an export (deploy state import MANIFEST < FILE); if these machines are gone, or you delete them yourself, deploy state forget MANIFEST",
		err, strings.Join(slices.Sorted(maps.Keys(machines)), ", "))
}

// noteEngine keeps which state the engine has now.
func noteEngine(store state.Store, st *state.State) {
	// What is wrong with it, the next run finds before it begins.
	if now, err := terraform.CheckState(store.Terraform(), terraform.StateID{}, nil); err == nil {
		st.Engine = state.EngineState(now)
	}
}

// engineKnows fails if the engine would make VMs whose agents answer: it has lost them.
func engineKnows(r *run, inventories map[string]*api.Inventory) error {
	var lost []string
	for id, vm := range r.state.VMs {
		inv := inventories[id]
		if inv != nil && inv.VMID == vm.ID && !vm.Keep && slices.Contains(r.enginePlan[id], terraform.Create) {
			lost = append(lost, id)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	slices.Sort(lost)
	return fmt.Errorf("cannot use the engine's state %s: it lacks the VMs of %s, whose agents answer, so the engine would make them anew; nothing was done: put the file back from a copy of yours, "+
		"or import an export (deploy state import MANIFEST < FILE); deploy state forget MANIFEST gives these machines up",
		filepath.Join(r.store.Terraform(), terraform.StateFile), strings.Join(lost, ", "))
}

// stillRun fails if something of the machines with these ids still runs here.
func stillRun(machines map[string]string) error {
	var left []string
	for _, name := range slices.Sorted(maps.Keys(machines)) {
		pids, err := localvm.Running(machines[name])
		if err != nil {
			return err
		}
		if len(pids) > 0 {
			left = append(left, fmt.Sprintf("%s (%s, processes %s)", name, machines[name], strings.Trim(fmt.Sprint(pids), "[]")))
		}
	}
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("cannot call the deployment destroyed: the engine says so, and there still run the VMs of %s; the state is kept: end these processes, then destroy again", strings.Join(left, ", "))
}
