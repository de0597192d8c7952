package execute

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

const (
	// silence is the time after which a silent agent is asked. Heartbeats come
	// every 10 s.
	silence = 25 * time.Second
	// lostAfter is the time after which the instance of a silent agent counts as lost.
	lostAfter = 75 * time.Second
	// watchEvery and pauseEvery are the times between two looks for silent agents,
	// and for an operator's pause.
	watchEvery = 2 * time.Second
	pauseEvery = 300 * time.Millisecond
	// hearAgain is the time between two attempts to hear heartbeats.
	hearAgain = 2 * time.Second
)

// watcher tells a rollout what happens outside of its own commands: instances
// that fall sick, recover or are lost, and an operator who wants it to pause.
type watcher struct {
	s      *session.Session
	fleet  *fleet.Fleet
	events chan rollout.Event
	places map[string]watched
	// latest is the state of the rollout, which is not told what it knows already.
	latest atomic.Pointer[rollout.State]

	mu    sync.Mutex
	heard map[string]time.Time
	lost  map[string]bool
}

// watched is the place of an instance in the rollout.
type watched struct{ group, index int }

func newWatcher(s *session.Session, f *fleet.Fleet, r rollout.State) *watcher {
	w := &watcher{s: s, fleet: f, events: make(chan rollout.Event), places: map[string]watched{}, heard: map[string]time.Time{}, lost: map[string]bool{}}
	now := time.Now()
	for g, group := range r.Plan.Groups {
		for i, x := range group.Instances {
			w.places[x.ID] = watched{g, i}
			w.heard[x.ID] = now
		}
	}
	w.latest.Store(&r)
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
		if b := w.fleet.ConnectBus(ctx); b != nil {
			err := b.Heartbeats(ctx, func(beat api.Heartbeat) {
				if beat.DeploymentID == w.s.State.DeploymentID {
					w.note(ctx, beat.Instance, beat.State)
				}
			})
			if err != nil {
				w.s.Log.Warn("cannot receive heartbeats; trying again", "err", err)
			}
		}
		if !pause(ctx, hearAgain) {
			return
		}
	}
}

// pause waits, and reports false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// note takes up what an agent reports, and tells the rollout if that is new to it.
func (w *watcher) note(ctx context.Context, id string, reported api.InstanceState) {
	at, ours := w.places[id]
	if !ours {
		return
	}
	w.mu.Lock()
	w.heard[id] = time.Now()
	delete(w.lost, id)
	w.mu.Unlock()
	healthy := reported == api.InstanceRunning
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
		ids := w.silent(time.Now())
		// Each agent's silence is noted on its own.
		_ = w.s.Each(ctx, len(ids), func(ctx context.Context, i int) error {
			w.ask(ctx, ids[i])
			return nil
		})
	}
}

// silent returns the instances from which nothing was heard for a while. Those
// whose VM is being replaced or deleted are not among them, and what they are
// silent for does not count later: a VM that boots has all the time of its command.
func (w *watcher) silent(now time.Time) []string {
	latest := w.latest.Load()
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []string
	for id, heard := range w.heard {
		at := w.places[id]
		switch running := latest.Groups[at.group].Instances[at.index].Running.Kind; {
		case running == rollout.CommandReplaceVM || running == rollout.CommandDeleteVM:
			w.heard[id] = now
			delete(w.lost, id)
		case now.Sub(heard) > silence && !w.lost[id]:
			ids = append(ids, id)
		}
	}
	return ids
}

func (w *watcher) ask(ctx context.Context, id string) {
	asking, cancel := context.WithTimeout(ctx, fleet.AskTime(w.s.VM(state.Own(id))))
	defer cancel()
	inventory, err := w.fleet.Client(state.Own(id)).Inventory(asking)
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
			w.s.Event(session.Event{Phase: session.PhaseRollout, Instance: id, Step: "silent", Error: fmt.Sprintf("no sign of its agent for %s: %v", silent.Round(time.Second), err)})
			w.send(ctx, rollout.Event{Kind: rollout.EventLost, Instance: id})
		}
	}
}

// lookForPause tells the rollout of an operator's pause for this run.
func (w *watcher) lookForPause(ctx context.Context) {
	paused := false
	for ; ; pause(ctx, pauseEvery) {
		if ctx.Err() != nil {
			return
		}
		p, err := w.s.Store.Paused()
		if err != nil {
			w.s.Log.Warn("cannot read whether to pause", "err", err)
			continue
		}
		wanted := p != nil && p.Epoch == w.s.State.Epoch
		if wanted == paused {
			continue
		}
		paused = wanted
		if paused {
			w.s.Event(session.Event{Phase: session.PhaseRollout, Message: fmt.Sprintf("paused by %s: what is in flight finishes; nothing new begins until deploy resume", p.By)})
			w.send(ctx, rollout.Event{Kind: rollout.EventPause})
		} else {
			w.s.Event(session.Event{Phase: session.PhaseRollout, Message: "resumed"})
			w.send(ctx, rollout.Event{Kind: rollout.EventResume})
		}
	}
}
