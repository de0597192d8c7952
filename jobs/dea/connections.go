package dea

import (
	"sync"
	"time"

	"github.com/clusterworks/deploy/agent/host/proc"
)

// connectionsShare is the share of the time that may be spent on reading the tables of
// connections: each reading takes milliseconds, also when they are empty.
const connectionsShare = 0.1

// connections counts those of each port, read once for all instances that wait
// for their requests to end.
type connections struct {
	read func() (map[int]int, error) // proc.Connections; tests have their own

	mu    sync.Mutex
	at    time.Time
	took  time.Duration
	count map[int]int
}

// of returns the number of established connections of a port, as of now or of at most
// this age; older only if reading is slow (see connectionsShare).
func (c *connections) of(port int, age time.Duration) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if since := time.Since(c.at); c.count == nil || since >= age && float64(since)*connectionsShare >= float64(c.took) {
		c.count = nil
		began := time.Now()
		count, err := c.read()
		if err != nil {
			return 0, err
		}
		c.at, c.took, c.count = time.Now(), time.Since(began), count
	}
	return c.count[port], nil
}

func newConnections() *connections { return &connections{read: proc.Connections} }
