package fleet

import (
	"fmt"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// Refuse returns an error if an agent is not this deploy's to change.
func (f *Fleet) Refuse(id string, inv *api.Inventory) error {
	if err := f.RefuseForeign(id, inv); err != nil {
		return err
	}
	if inv.Agent.API > api.Version {
		return fmt.Errorf("cannot use the agent of %s: it is newer (version %s, program %.12s) and speaks version %d of the agents' API, this deploy up to version %d; "+
			"use the deploy that has put it there, or a newer one", id, inv.Agent.Version, inv.Agent.Digest, inv.Agent.API, api.Version)
	}
	return nil
}

// Older reports whether an agent speaks an older API than this deploy. Of such an
// agent only what it says of itself is believed, until it is replaced.
func Older(inv *api.Inventory) bool { return inv.Agent.API < api.Version }

// RefuseForeign returns an error if a machine obeys another deployment than this
// state's: two states would fight over it.
func (f *Fleet) RefuseForeign(id string, inv *api.Inventory) error {
	if inv.DeploymentID == "" || inv.DeploymentID == f.s.State.DeploymentID {
		return nil
	}
	return fmt.Errorf("cannot use the VM of %s at %s: its agent belongs to another deployment (id %s), whose state is not in %s; "+
		"use the folder that holds it (--state), bring it here (deploy state import), or make the machine anew "+
		"(on one of your own, run bin/agent uninstall there, in the agent's folder)",
		id, f.s.VM(state.Own(id)).Address, inv.DeploymentID, f.s.Store.Dir)
}

// maxEpochLead is by how much an agent's epoch may exceed the state's. A state
// that was put back from an export is behind its agents by as many runs as there
// were since, never by more than this.
const maxEpochLead = 1 << 32

// impossible returns why an inventory cannot be true, given the state's epoch; nil
// if it may be.
func impossible(id string, inv *api.Inventory, epoch uint64) error {
	if inv.Epoch > epoch && inv.Epoch-epoch > maxEpochLead {
		return fmt.Errorf("its agent reports epoch %d, which no run can have given it (the state is of epoch %d), so nothing that it says is believed; deploy recreate gives %s another VM",
			inv.Epoch, epoch, id)
	}
	return nil
}
