package stager

import (
	"context"
	"sync"
)

// turns has the tasks of one owner wait for each other when there are many, so that
// nobody who stages what never ends takes the places of all. The zero value is ready to
// use.
type turns struct {
	mu     sync.Mutex
	owners map[string]*owner
}

type owner struct {
	places chan struct{}
	tasks  int // that run or wait
}

// take waits until fewer than most tasks of an owner run, and reports whether that came
// before ctx ended. leave must follow in any case.
func (t *turns) take(ctx context.Context, name string, most int) (leave func(), ok bool) {
	t.mu.Lock()
	if t.owners == nil {
		t.owners = map[string]*owner{}
	}
	o := t.owners[name]
	if o == nil {
		o = &owner{places: make(chan struct{}, most)}
		t.owners[name] = o
	}
	o.tasks++
	t.mu.Unlock()
	select {
	case o.places <- struct{}{}:
		ok = true
	case <-ctx.Done():
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if ok {
			<-o.places
		}
		if o.tasks--; o.tasks == 0 {
			delete(t.owners, name)
		}
	}, ok
}
