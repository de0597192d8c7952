package deployer

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

// ErrSuperseded ends a run that another one has taken over from.
var ErrSuperseded = state.ErrSuperseded

// hold takes the deployment's lock and says aloud whom it waits for, or takes it
// from. tookOver tells that an earlier run may go on one day.
func (d *Deployer) hold(ctx context.Context, s state.Store) (lock *state.Lock, tookOver bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	defer func() { <-ended }()
	go func() {
		defer close(ended)
		select {
		case <-d.config.Interrupt:
			cancel(errors.New("interrupted"))
		case <-ctx.Done():
		}
	}()
	defer cancel(nil)
	lock, err = s.Lock(ctx, state.LockOptions{
		Wait: d.config.LockWait, Takeover: d.config.Takeover,
		Told: func(h state.Holder, taken bool) {
			text := fmt.Sprintf("waiting up to %s for %s", d.config.LockWait, h)
			if taken {
				tookOver = true
				text = fmt.Sprintf("taking over from %s: when it goes on, agents and state refuse it", h)
			}
			d.config.Report(Event{At: time.Now(), Phase: PhaseLoad, Message: text})
		},
	})
	return lock, tookOver, err
}

// begin takes the lease: a higher epoch than any agent has seen, saved before it
// is used. Whoever held an earlier one can neither command agents nor write the
// state any more.
func (r *run) begin(what string) error {
	epoch := r.state.Epoch
	if r.fleet != nil {
		epoch = max(epoch, r.fleet.highestEpoch())
	}
	if err := r.store.Begin(r.state, r.secrets, epoch+1); err != nil {
		return err
	}
	r.counts.state.Add(1)
	r.began = &state.Entry{At: r.now.UTC(), Epoch: r.state.Epoch, What: what, Who: who()}
	return r.store.Journal(*r.began)
}

// ended notes in the journal how a run ended that had begun. The journal is
// history only, so that what goes wrong with it is not the run's failure.
func (r *run) ended(err error) {
	if r.began == nil {
		return
	}
	e := *r.began
	e.At = time.Now().UTC()
	e.Took = time.Since(r.now).Round(time.Millisecond)
	e.Revision = r.madeRevision
	switch {
	case err == nil:
		e.Result = "done"
	case errors.Is(err, ErrInterrupted):
		e.Result = "interrupted"
	default:
		first, _, _ := strings.Cut(err.Error(), "\n")
		e.Result = "failed: " + first
	}
	if err := r.store.Journal(e); err != nil {
		r.config.Log.Warn("cannot keep the history", "error", err)
	}
}

// tellInterrupt says what an interrupt does, when there is one, until stop.
func (r *run) tellInterrupt() (stop func()) {
	done := make(chan struct{})
	var tell sync.WaitGroup
	tell.Go(func() {
		select {
		case <-r.config.Interrupt:
			r.event(Event{Phase: PhaseRollout, Message: "interrupted: what has begun is finished and saved, then this ends; once more to leave at once"})
		case <-done:
		}
	})
	return func() {
		close(done)
		tell.Wait()
	}
}

// who is the person, for the journal.
func who() string {
	name := os.Getenv("SUDO_USER")
	if u, err := user.Current(); err == nil && name == "" {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}
