package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"sync"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/state"
)

// ErrInterrupted ends a run that the user asked to stop. What was in flight has
// finished and is saved.
var ErrInterrupted = errors.New("interrupted: what had begun has finished; the next apply continues from here")

// Change holds the deployment's lock while change works on the session. It reads
// the deployment again once it has the lock: what was read before may be out of
// date. change calls Begin before it changes anything. A change that began is
// noted in the journal with its end. A first run that began nothing leaves no
// state folder.
func Change(ctx context.Context, s *Session, reopen func() (*Session, error), change func(*Session) error) error {
	lock, tookOver, err := Hold(ctx, s.Options, s.Store)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if s, err = reopen(); err != nil {
		return err
	}
	s.TookOver = tookOver
	err = change(s)
	switch {
	case s.began != nil:
		s.ended(err)
	case s.Fresh:
		err = errors.Join(err, s.Store.RemoveUnused())
	}
	return err
}

// Hold takes a deployment's lock. It reports for whom it waits, or from whom it
// takes the lock: with tookOver, an earlier run may continue one day.
func Hold(ctx context.Context, o Options, store state.Store) (lock *state.Lock, tookOver bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	defer func() { <-ended }()
	go func() {
		defer close(ended)
		select {
		case <-o.Interrupt:
			cancel(errors.New("interrupted"))
		case <-ctx.Done():
		}
	}()
	defer cancel(nil)
	lock, err = store.Lock(ctx, state.LockOptions{
		Wait: o.LockWait, Takeover: o.Takeover,
		Told: func(h state.Holder, taken bool) {
			text := fmt.Sprintf("waiting up to %s for %s", o.LockWait, h)
			if taken {
				tookOver = true
				text = fmt.Sprintf("taking over from %s: if it continues, agents and state refuse it", h)
			}
			o.Report(Event{At: time.Now(), Phase: PhaseLoad, Message: text})
		},
	})
	return lock, tookOver, err
}

// Begin takes the lease: an epoch that is higher than that of the state and than
// any that an agent has seen, saved before it is used. Whoever held an earlier
// lease can neither command agents nor write the state any more. what is for the
// journal.
func (s *Session) Begin(what string, seen uint64) error {
	if err := s.Store.Begin(s.State, s.Secrets, max(s.State.Epoch, seen)+1); err != nil {
		return err
	}
	s.Counters.State.Add(1)
	s.began = &state.Entry{At: s.Now.UTC(), Epoch: s.State.Epoch, What: what, Who: Who()}
	if err := s.Store.Journal(*s.began); err != nil {
		return err
	}
	if copies, err := state.Copies(s.Store); err != nil || len(copies) > 0 {
		return err
	}
	s.keepCopy() // the first one: what a first run makes is nowhere else
	return nil
}

// keepCopy copies the state. The disk may be full: a run does not fail for lack
// of a copy.
func (s *Session) keepCopy() {
	err := state.KeepCopy(s.Store, s.State, time.Now())
	if err != nil && !errors.Is(err, state.ErrSuperseded) {
		s.Log.Warn("cannot keep a copy of the state", "error", err)
	}
}

// ended notes in the journal how the change ended. The journal is history only,
// so a failure to write it is not the change's failure.
func (s *Session) ended(err error) {
	e := *s.began
	e.At = time.Now().UTC()
	e.Took = time.Since(s.Now).Round(time.Millisecond)
	e.Revision = s.Revision
	switch {
	case err == nil:
		e.Result = "done"
	case errors.Is(err, ErrInterrupted):
		e.Result = "interrupted"
	default:
		first, _, _ := strings.Cut(err.Error(), "\n")
		e.Result = "failed: " + first
	}
	if err := s.Store.Journal(e); err != nil {
		s.Log.Warn("cannot keep the history", "error", err)
	}
	s.keepCopy()
}

// Remove deletes the state, and the journal with it.
func (s *Session) Remove() error {
	s.began, s.Fresh = nil, false
	return s.Store.Remove()
}

// TellInterrupt reports what an interrupt does, if there is one before stop is
// called.
func (s *Session) TellInterrupt() (stop func()) {
	done := make(chan struct{})
	var tell sync.WaitGroup
	tell.Go(func() {
		select {
		case <-s.Interrupt:
			s.Event(Event{Phase: PhaseRollout, Message: "interrupted: what has begun is finished and saved, then this ends; once more to leave at once"})
		case <-done:
		}
	})
	return func() {
		close(done)
		tell.Wait()
	}
}

// Who returns the user and the machine, "ops@host", for the journal.
func Who() string {
	name := os.Getenv("SUDO_USER")
	if u, err := user.Current(); err == nil && name == "" {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}
