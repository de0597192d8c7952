package fleet

import (
	"fmt"
	"slices"

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
	return fmt.Errorf("cannot use the VM of %s at %s: its agent belongs to another deployment (id %s, by its agent.json), whose state is not in %s; "+
		"use the folder that holds it (--state), bring it here (deploy state import), or make the machine anew "+
		"(on one of your own, run bin/agent uninstall there, in the agent's folder)",
		id, f.s.VM(state.Own(id)).Address, inv.DeploymentID, f.s.Store.Dir)
}

// maxEpochLead is by how much an agent's epoch may exceed the state's. A state
// that was put back from an export is behind its agents by as many runs as there
// were since, never by more than this.
const maxEpochLead = 1 << 32

// The most that an agent can have of something: far more than any has, and little
// enough to be handled.
const (
	maxListed = 100_000 // packages, generations, processes, reasons
	maxText   = 1 << 20 // bytes of one text
)

// impossible returns why an inventory cannot be true, given the state's epoch; nil
// if it may be.
func impossible(id string, inv *api.Inventory, epoch uint64) error {
	why := implausible(inv)
	if inv.Epoch > epoch && inv.Epoch-epoch > maxEpochLead {
		why = fmt.Sprintf("reports epoch %d, which no run can have given it (the state is of epoch %d)", inv.Epoch, epoch)
	}
	if why == "" {
		return nil
	}
	return fmt.Errorf("its agent %s, so its reports are not trusted; replace the VM with deploy recreate %s", why, id)
}

// implausible says what an agent of this API cannot report, "" if there is nothing.
func implausible(inv *api.Inventory) string {
	for _, list := range []struct {
		name string
		n    int
	}{
		{"packages", len(inv.Store)}, {"generations", len(inv.Generations)}, {"processes", len(inv.Processes)}, {"reasons", len(inv.Reasons)},
		{"differences", len(inv.Drift)}, {"damaged files", len(inv.Agent.Damaged)}, {"servers of the bus", len(inv.Bus.URLs)},
	} {
		if list.n > maxListed {
			return fmt.Sprintf("reports %d %s", list.n, list.name)
		}
	}
	texts := []string{inv.Active, inv.Previous, inv.Instance, inv.DeploymentID, inv.VMID, inv.BootID, inv.Syslog, inv.Names, inv.Bus.Error, inv.Agent.Version, inv.Agent.Digest, inv.Agent.DiskGone}
	texts = slices.Concat(texts, inv.Reasons, inv.Agent.Damaged)
	for _, p := range inv.Processes {
		texts = append(texts, p.Job, p.Name, p.Reason, p.Digest, p.ReloadDigest)
	}
	for _, text := range texts {
		if len(text) > maxText {
			return fmt.Sprintf("reports a text of %d bytes", len(text))
		}
	}
	if inv.Agent.API < 0 {
		return fmt.Sprintf("reports version %d of its API", inv.Agent.API)
	}
	if inv.Agent.API != api.Version {
		return "" // it may know states that this deploy does not
	}
	switch inv.State {
	case api.InstanceRunning, api.InstanceStarting, api.InstanceFailing, api.InstanceStopped:
	default:
		return fmt.Sprintf("reports the state %.40q, which there is not", inv.State)
	}
	for _, p := range inv.Processes {
		switch p.State {
		case api.ProcessStarting, api.ProcessRunning, api.ProcessFailing, api.ProcessBackoff, api.ProcessStopping, api.ProcessStopped:
		default:
			return fmt.Sprintf("reports the state %.40q of a process, which there is not", p.State)
		}
	}
	return ""
}
