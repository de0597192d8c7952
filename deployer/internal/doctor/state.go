package doctor

import (
	"context"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/infra"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// Files reads every file of the state folder, and reports whether the state can be
// used.
func (x *Doctor) Files(store state.Store) bool {
	found, read := state.Examine(store)
	usable := true
	for _, f := range found {
		level := LevelWarn
		if f.Grave {
			level = LevelFail
			usable = usable && f.File != "state.json"
		}
		x.add(level, f.File, f.Fix, "%v", f.Err)
	}
	switch {
	case len(found) == 0 && read == 0:
		x.add(LevelOK, "state folder", "", "there is none yet: %s", store.Dir)
	case len(found) == 0:
		copies, _ := state.Copies(store) // they were read just now
		x.add(LevelOK, "state folder", "", "%d files are whole, %d copies among them", read, len(copies))
	}
	return usable
}

// Agree compares the state with the engine's state and with what the agents say.
func (x *Doctor) Agree(ctx context.Context, d Deployment) {
	if err := infra.CheckEngine(d.Session); err != nil {
		x.add(LevelFail, "engine's state", "deploy state repair MANIFEST", "%v", err)
	} else if len(d.Session.State.VMs) > 0 {
		x.add(LevelOK, "engine's state", "", "it is the one that the last run left")
	}
	if len(d.Session.State.VMs) == 0 {
		return
	}
	inventories := d.Fleet.Survey(ctx, fleet.Patient)
	before := len(x.Findings)
	x.agree(d, inventories)
	x.later(d, inventories)
	if len(x.Findings) == before {
		x.add(LevelOK, "agents", "", "%d agents answer, from the VMs and of the deployment that the state has", len(inventories))
	}
}

// agree adds what agents say that the state cannot have told them.
func (x *Doctor) agree(d Deployment, inventories map[string]*api.Inventory) {
	st := d.Session.State
	ids := d.Session.VMIDs()
	slices.Sort(ids)
	for _, id := range ids {
		check := "agent " + id
		inv, vm := inventories[id], st.VMs[id]
		switch {
		case inv == nil:
			x.add(LevelWarn, check, "deploy doctor MANIFEST", "it cannot be compared: %s", d.Fleet.Reason(id))
		case inv.DeploymentID != "" && inv.DeploymentID != st.DeploymentID:
			x.add(LevelFail, check, "use the folder that holds its state (--state), or make the machine anew", "it obeys another deployment (id %.8s, the state's is %.8s)", inv.DeploymentID, st.DeploymentID)
		case session.Renamed(d.Session.Manifest.Moves, inv.Instance, id):
			x.add(LevelWarn, check, "deploy apply MANIFEST", "its group was moved, and it calls itself %s until the next apply", inv.Instance)
		case inv.Instance != "" && inv.Instance != id:
			x.add(LevelFail, check, "deploy plan MANIFEST asks the engine which VM is whose", "it calls itself %s", inv.Instance)
		case vm.ID != "" && inv.VMID != "" && inv.VMID != vm.ID:
			x.add(LevelFail, check, "deploy plan MANIFEST asks the engine which VM is whose", "it answers from the VM %s, and the state has %s", inv.VMID, vm.ID)
		}
	}
}

// later adds the agents that have obeyed a later run than the state knows.
func (x *Doctor) later(d Deployment, inventories map[string]*api.Inventory) {
	st := d.Session.State
	var ids []string
	for id, inv := range inventories {
		if inv.Epoch > st.Epoch && inv.DeploymentID == st.DeploymentID {
			ids = append(ids, id)
		}
	}
	if slices.Sort(ids); len(ids) > 0 {
		x.add(LevelWarn, "state", "bring the later state here if there is one; the next apply takes a higher epoch and asks the engine what there is",
			"it is of epoch %d, and %s have obeyed a later run", st.Epoch, strings.Join(ids, ", "))
	}
}
