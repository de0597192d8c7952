package upstream

import (
	"context"
	"sync"
	"time"
)

// watchAfter is the age at which an exchange begins to watch its request's
// context. Most are complete by then, and a watch costs more than a look at it.
const watchAfter = 20 * time.Millisecond

// young are the exchanges that may not watch their request's context yet.
type young struct {
	mu     sync.Mutex
	list   []*exchange
	spare  []*exchange // the list before, to be used again
	waking bool        // a timer will look at them
}

// watched is the part of an exchange that closes its connection when whoever
// asked has gone: then nobody waits for the backend any more.
type watched struct {
	mu    sync.Mutex
	stop  func() bool // nil: watches nothing
	ended bool
}

// watch makes an exchange watch its request's context in a moment.
func (t *Transport) watch(x *exchange) {
	y := &t.young
	y.mu.Lock()
	y.list = append(y.list, x)
	wake := !y.waking
	y.waking = true
	y.mu.Unlock()
	if wake {
		time.AfterFunc(watchAfter, t.grow)
	}
}

// grow makes the exchanges watch that are still going on, and comes back as long
// as there are new ones.
func (t *Transport) grow() {
	y := &t.young
	y.mu.Lock()
	grown := y.list
	y.list, y.spare = y.spare[:0], nil
	y.waking = len(grown) > 0
	again := y.waking
	y.mu.Unlock()
	for i, x := range grown {
		x.arm(x)
		grown[i] = nil
	}
	y.mu.Lock()
	y.spare = grown
	y.mu.Unlock()
	if again {
		time.AfterFunc(watchAfter, t.grow)
	}
}

// arm begins the watch, unless it has begun or the exchange has ended.
func (w *watched) arm(x *exchange) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stop == nil && !w.ended {
		w.stop = context.AfterFunc(x.req.Context(), func() { x.conn.Conn.Close() })
	}
}

// unwatch ends the watch and reports whether it has left the connection alone.
func (w *watched) unwatch() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	return w.stop == nil || w.stop()
}
