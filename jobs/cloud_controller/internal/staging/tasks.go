package staging

import (
	"crypto/rand"
	"sync"
)

// tasks describe what stagers work on.
type tasks struct {
	mu  sync.Mutex
	all map[string]*task // by upload id
}

type task struct {
	app     int64
	taken   bool
	droplet string // sha1, once it was uploaded
}

// Varz returns what /varz says of stagings. A task is with a stager from its begin
// on, so none is ever pending here.
func (s *Staging) Varz() map[string]any {
	s.tasks.mu.Lock()
	defer s.tasks.mu.Unlock()
	return map[string]any{"running_stage_cmds": len(s.tasks.all), "pending_stage_cmds": 0}
}

func (s *tasks) begin(app int64) (id string) {
	id = rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[string]*task{}
	}
	s.all[id] = &task{app: app}
	return id
}

// end forgets a task and returns the droplet that was uploaded for it.
func (s *tasks) end(id string) (droplet string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	droplet = s.all[id].droplet
	delete(s.all, id)
	return droplet
}

// take uses up an upload id, which serves once.
func (s *tasks) take(id string, app int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.all[id]
	if t == nil || t.taken || t.app != app {
		return false
	}
	t.taken = true
	return true
}

func (s *tasks) uploaded(id, sha1 string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.all[id]; t != nil {
		t.droplet = sha1
	}
}
