package rest

import "sync"

// Counter counts connections that are open through this controller, by the id of the
// app or service that they lead to. The zero value is ready to use.
type Counter struct {
	mu   sync.Mutex
	open map[int64]int
}

// Enter counts one more connection to id and reports whether it may be opened: whether
// fewer than most are. If so, Leave must follow.
func (c *Counter) Enter(id int64, most int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[int64]int{}
	}
	if c.open[id] >= most {
		return false
	}
	c.open[id]++
	return true
}

// Leave takes back what Enter has counted.
func (c *Counter) Leave(id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[id]--; c.open[id] == 0 {
		delete(c.open, id)
	}
}
