package deployer

import (
	"fmt"
	"sync"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// maxEpochLead is by how much an agent's epoch may exceed the state's. A state
// that was put back from an export is behind its agents by as many runs as there
// were since, never by more than this.
const maxEpochLead = 1 << 32

// impossible returns why an inventory cannot be true, nil if it may be.
func impossible(st *state.State, id string, inv *api.Inventory) error {
	if inv.Epoch > st.Epoch && inv.Epoch-st.Epoch > maxEpochLead {
		return fmt.Errorf("its agent reports epoch %d, which no run can have given it (the state is of epoch %d), so nothing that it says is believed; deploy recreate gives %s another VM",
			inv.Epoch, st.Epoch, id)
	}
	return nil
}

// distrust holds the instances whose agents said what cannot be true: what it was,
// and the health that they claim. The zero value is ready for use.
type distrust struct {
	mu      sync.Mutex
	why     map[string]error
	healthy map[string]bool
}

func (d *distrust) add(id string, why error, healthy bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.why == nil {
		d.why, d.healthy = map[string]error{}, map[string]bool{}
	}
	d.why[id], d.healthy[id] = why, healthy
}

// claimsHealth reports whether an agent that is not believed says that its
// instance is healthy. It counts as such for what its group can do without: else
// one liar would keep the others from being updated.
func (d *distrust) claimsHealth(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.why[id] != nil && d.healthy[id]
}

// of returns why the agent of an instance is not believed, nil if it is.
func (d *distrust) of(id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.why[id]
}

// forget is for an instance with another agent; for none, all.
func (d *distrust) forget(ids ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range ids {
		delete(d.why, id)
	}
	if len(ids) == 0 {
		d.why = nil
	}
}
