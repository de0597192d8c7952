// Package session is one command's work on a deployment: the manifest and the
// state that it read, the lock and the lease that let it change them, the
// instances that it may touch, and the journal of what it did.
//
// Change is the frame of every command that changes a deployment.
package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// ErrNoState is returned by commands that need a state.
var ErrNoState = errors.New("there is no state yet: apply first, or check --state")

// Options are the settings that all sessions of a deployer share.
type Options struct {
	Report    func(Event) // receives events, concurrently
	Log       *slog.Logger
	Interrupt <-chan struct{} // closed when the user asks to stop
	Parallel  int             // how many VMs are worked on side by side
	// LockWait is the time to wait for another run on the same deployment.
	// Takeover takes the lock from a run that still holds it.
	LockWait time.Duration
	Takeover bool
	Counters *Counters
}

// Session is one command's work on a deployment.
type Session struct {
	Options
	Manifest *manifests.Manifest
	Store    state.Store
	// State and Secrets are never nil. While a rollout's commands run side by
	// side, they are read and written through the methods of Session only.
	State   *state.State
	Secrets *state.Secrets
	// Fresh: there was no state before this session.
	Fresh bool
	// Now is the time at which the session began.
	Now time.Time
	// TookOver: the lock was taken from another run. It may continue one day, so
	// every agent is told the new epoch.
	TookOver bool
	// Targets restrict the session to some groups or instances. Empty: all.
	Targets []string
	// Removed are the instances that have a VM and that the manifest does not have.
	Removed []string
	// Revision is the number of the revision that the session made, 0 for none.
	Revision int

	// Distrusted are the instances whose agents are not believed.
	Distrusted Distrust

	recreating sync.Mutex
	recreate   []string // guarded by recreating

	mu    sync.Mutex   // guards State, Secrets and what is written of them
	began *state.Entry // of the journal, nil before the session has the lease
}

// Open reads the state of a manifest's deployment.
func Open(o Options, store state.Store, m *manifests.Manifest) (*Session, error) {
	s := &Session{Options: o, Manifest: m, Store: store, Now: time.Now()}
	var err error
	if s.State, s.Secrets, err = store.Load(); err != nil {
		return nil, err
	}
	if s.Fresh = s.State == nil; s.Fresh {
		s.State = state.New(m.Deployment.Name)
	}
	if s.Secrets == nil {
		s.Secrets = &state.Secrets{}
	}
	return s, nil
}

// Assign gives the manifest's instances their indexes and zones, in memory, and
// finds the instances that the manifest no longer has.
func (s *Session) Assign() {
	slots := map[string][]state.Slot{}
	for _, g := range s.Manifest.Groups {
		slots[g.Name] = s.State.Assign(g.Name, g.Instances, g.AZs)
	}
	s.State.Groups = slots
	for _, id := range slices.Sorted(maps.Keys(s.State.VMs)) {
		if !s.Has(id) {
			s.Removed = append(s.Removed, id)
		}
	}
}

// Has reports whether the manifest has an instance.
func (s *Session) Has(id string) bool {
	group, index, err := api.SplitInstance(id)
	return err == nil && slices.ContainsFunc(s.State.Groups[group], func(s state.Slot) bool { return s.Index == index })
}

// IDs returns the manifest's instances in rollout order.
func (s *Session) IDs() []string {
	var out []string
	for _, wave := range s.Manifest.Order {
		for _, g := range wave {
			for _, slot := range s.State.Groups[g.Name] {
				out = append(out, api.InstanceID(g.Name, slot.Index))
			}
		}
	}
	return out
}

// Update changes state and secrets in memory.
func (s *Session) Update(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// Save writes state and secrets, if they differ from what is on disk.
func (s *Session) Save() error { return s.UpdateAndSave(func() error { return nil }) }

// UpdateAndSave changes state and secrets and writes them.
func (s *Session) UpdateAndSave(change func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := change(); err != nil {
		return err
	}
	wrote, err := s.Store.Save(s.State, s.Secrets)
	if wrote {
		s.Counters.State.Add(1)
	}
	return err
}

// Check fails with state.ErrSuperseded once another run has taken over.
func (s *Session) Check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Store.Check(s.State)
}

// Interrupted reports whether the user asked to stop.
func (s *Session) Interrupted() bool {
	select {
	case <-s.Interrupt:
		return true
	default:
		return false
	}
}

// Each calls f for 0..n-1, Options.Parallel at a time, and returns all errors.
func (s *Session) Each(ctx context.Context, n int, f func(context.Context, int) error) error {
	var group errgroup.Group
	group.SetLimit(s.Parallel)
	errs := make([]error, n)
	for i := range n {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				errs[i] = fmt.Errorf("not begun: %w", context.Cause(ctx))
				return nil
			}
			errs[i] = f(ctx, i)
			return nil
		})
	}
	_ = group.Wait() // the errors are kept by index
	return errors.Join(errs...)
}
