package dns

import (
	"sync"
	"time"
)

const (
	// staleAfter is the time without a heartbeat after which an instance counts as
	// failed. Agents send one every 10 s, give or take a second.
	staleAfter = 35 * time.Second
	// firstNews is the time after the bus was reached within which an instance that
	// was never heard of counts as healthy: each agent has sent one by then.
	firstNews = 15 * time.Second
)

// health describes what agents last said of their instances. While the bus is away nothing
// is news, so the last word holds.
type health struct {
	mu     sync.Mutex
	last   map[string]word
	joined time.Time // when the bus was reached last
}

type word struct {
	running bool
	at      time.Time
}

func newHealth() *health { return &health{last: map[string]word{}} }

// connected notes that heartbeats come from now on.
func (h *health) connected(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.joined = now
}

// heard notes a heartbeat.
func (h *health) heard(instance string, running bool, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last[instance] = word{running, now}
}

// healthy reports whether requests for a group should reach this member. connected
// says whether there is a bus.
func (h *health) healthy(instance string, connected bool, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	w, known := h.last[instance]
	if !connected || h.joined.IsZero() {
		return !known || w.running
	}
	if !known {
		return now.Sub(h.joined) < firstNews
	}
	since := w.at
	if since.Before(h.joined) {
		since = h.joined
	}
	return w.running && now.Sub(since) < staleAfter
}

// forget drops what is no instance any more.
func (h *health) forget(keep map[string]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.last {
		if !keep[id] {
			delete(h.last, id)
		}
	}
}
