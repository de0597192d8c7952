package servers

import "sync"

// Readiness says whether a node's servers serve. A service embeds it; until SetReady is
// called, they do.
type Readiness struct {
	mu  sync.Mutex
	why error
}

// Ready returns nil if the servers serve, and otherwise why they do not.
func (r *Readiness) Ready() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.why
}

// SetReady says that the servers serve from now on, or why they do not.
func (r *Readiness) SetReady(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.why = why
}
