package deployer

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
)

const (
	// silence is how long an agent may say nothing before it is asked; heartbeats
	// come every 10 s.
	silence = 25 * time.Second
	// lostAfter is when an agent that does not answer either is no longer waited for.
	lostAfter = 75 * time.Second
	// watchEvery is how often is looked who is silent, pauseEvery whether to pause.
	watchEvery = 2 * time.Second
	pauseEvery = 300 * time.Millisecond
	// hearAgain is the time between two attempts to hear heartbeats.
	hearAgain = 2 * time.Second
)

// watcher tells a rollout what happens outside of its own commands: instances
// that fall sick, recover or are lost, and an operator who wants it to pause.
type watcher struct {
	*run
	events chan rollout.Event
	places map[string]watched
	// latest is the rollout as it stands: what it knows already is not told.
	latest atomic.Pointer[rollout.State]

	mu    sync.Mutex
	heard map[string]time.Time
	lost  map[string]bool
}

// watched is where an instance stands in the rollout.
type watched struct{ group, index int }

func (r *run) newWatcher(s rollout.State) *watcher {
	w := &watcher{run: r, events: make(chan rollout.Event), places: map[string]watched{}, heard: map[string]time.Time{}, lost: map[string]bool{}}
	now := time.Now()
	for g, group := range s.Plan.Groups {
		for i, x := range group.Instances {
			w.places[x.ID] = watched{g, i}
			w.heard[x.ID] = now
		}
	}
	w.latest.Store(&s)
	return w
}

// watch works until ctx ends.
func (w *watcher) watch(ctx context.Context) {
	var work sync.WaitGroup
	work.Go(func() { w.hear(ctx) })
	work.Go(func() { w.lookForSilent(ctx) })
	work.Go(func() { w.lookForPause(ctx) })
	work.Wait()
}

func (w *watcher) send(ctx context.Context, e rollout.Event) {
	select {
	case w.events <- e:
	case <-ctx.Done():
	}
}

// hear takes heartbeats while there is a bus.
func (w *watcher) hear(ctx context.Context) {
	for {
		if b := w.fleet.connectBus(ctx); b != nil {
			err := b.Heartbeats(ctx, func(beat api.Heartbeat) {
				if beat.DeploymentID == w.state.DeploymentID {
					w.note(ctx, beat.Instance, beat.State)
				}
			})
			if err != nil {
				w.config.Log.Warn("heartbeats are not heard for a moment", "err", err)
			}
		}
		if !pause(ctx, hearAgain) {
			return
		}
	}
}

// pause is false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// note takes up what an agent says, and tells the rollout if it thinks
// otherwise.
func (w *watcher) note(ctx context.Context, id string, state api.InstanceState) {
	at, ours := w.places[id]
	if !ours {
		return
	}
	w.mu.Lock()
	w.heard[id] = time.Now()
	delete(w.lost, id)
	w.mu.Unlock()
	healthy := state == api.InstanceRunning
	if p := w.latest.Load().Groups[at.group].Instances[at.index]; p.InFlight || p.Healthy == healthy {
		return
	}
	kind := rollout.EventSick
	if healthy {
		kind = rollout.EventHealthy
	}
	w.send(ctx, rollout.Event{Kind: kind, Instance: id})
}

// lookForSilent asks agents from which nothing was heard: those without a bus
// are never heard.
func (w *watcher) lookForSilent(ctx context.Context) {
	for pause(ctx, watchEvery) {
		w.mu.Lock()
		var ids []string
		for id, at := range w.heard {
			if time.Since(at) > silence && !w.lost[id] {
				ids = append(ids, id)
			}
		}
		w.mu.Unlock()
		// Each one's silence is its own matter.
		_ = w.parallel(ctx, len(ids), func(ctx context.Context, i int) error {
			w.ask(ctx, ids[i])
			return nil
		})
	}
}

func (w *watcher) ask(ctx context.Context, id string) {
	asking, cancel := context.WithTimeout(ctx, sshAsk)
	defer cancel()
	inventory, err := w.fleet.client(id).Inventory(asking)
	switch {
	case ctx.Err() != nil:
	case err == nil:
		w.note(ctx, id, inventory.State)
	default:
		w.mu.Lock()
		silent := time.Since(w.heard[id])
		lost := silent > lostAfter
		w.lost[id] = lost
		w.mu.Unlock()
		if lost {
			w.event(Event{Phase: PhaseRollout, Instance: id, Step: "silent", Error: fmt.Sprintf("no sign of its agent for %s: %v", silent.Round(time.Second), err)})
			w.send(ctx, rollout.Event{Kind: rollout.EventLost, Instance: id})
		}
	}
}

// lookForPause heeds the pause that is meant for this run.
func (w *watcher) lookForPause(ctx context.Context) {
	paused := false
	for ; ; pause(ctx, pauseEvery) {
		if ctx.Err() != nil {
			return
		}
		p, err := w.store.Paused()
		if err != nil {
			w.config.Log.Warn("cannot tell whether to pause", "err", err)
			continue
		}
		wanted := p != nil && p.Epoch == w.state.Epoch
		if wanted == paused {
			continue
		}
		paused = wanted
		if paused {
			w.event(Event{Phase: PhaseRollout, Message: fmt.Sprintf("paused by %s: what is in flight finishes, nothing new begins until deploy resume", p.By)})
			w.send(ctx, rollout.Event{Kind: rollout.EventPause})
		} else {
			w.event(Event{Phase: PhaseRollout, Message: "goes on"})
			w.send(ctx, rollout.Event{Kind: rollout.EventResume})
		}
	}
}
