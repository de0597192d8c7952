package session

import "sync"

// Distrust holds the instances whose agents said what cannot be true: what it
// was, and the health that they claim. The zero value is ready for use.
type Distrust struct {
	mu      sync.Mutex
	why     map[string]error
	healthy map[string]bool
}

// Add notes why the agent of an instance is not believed, and whether it says
// that the instance is healthy.
func (d *Distrust) Add(id string, why error, healthy bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.why == nil {
		d.why, d.healthy = map[string]error{}, map[string]bool{}
	}
	d.why[id], d.healthy[id] = why, healthy
}

// ClaimsHealth reports whether an agent that is not believed says that its
// instance is healthy. It counts as such for what its group can do without: else
// one liar would keep the others from being updated.
func (d *Distrust) ClaimsHealth(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.why[id] != nil && d.healthy[id]
}

// Of returns why the agent of an instance is not believed, nil if it is.
func (d *Distrust) Of(id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.why[id]
}

// Forget is for instances with another agent; without any, it forgets all.
func (d *Distrust) Forget(ids ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range ids {
		delete(d.why, id)
	}
	if len(ids) == 0 {
		d.why = nil
	}
}
