package deployer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// Pause asks the run that changes the deployment to finish what is in flight and
// begin nothing new until Resume. It returns who holds the lock.
func (d *Deployer) Pause(ctx context.Context) (string, error) {
	store, err := d.source.Store()
	if err != nil {
		return "", err
	}
	// A run that has just begun takes its epoch in a moment.
	for deadline := time.Now().Add(2 * time.Second); ; {
		h, busy := store.Busy()
		if !busy {
			return "", fmt.Errorf("cannot pause: %w", ErrNothingRuns)
		}
		st, err := store.LoadState()
		if err != nil {
			return "", err
		}
		if st == nil {
			return "", fmt.Errorf("cannot pause: %s has not begun to change anything", h)
		}
		if p, err := store.Paused(); err != nil {
			return "", err
		} else if p == nil || p.Epoch != st.Epoch {
			if err := store.Pause(state.Pause{Epoch: st.Epoch, By: session.Who(), At: time.Now().UTC()}); err != nil {
				return "", err
			}
		}
		if time.Now().After(deadline) {
			return h.String(), nil
		}
		select {
		case <-ctx.Done():
			return h.String(), nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Resume lets a paused run continue.
func (d *Deployer) Resume() error {
	store, err := d.source.Store()
	if err != nil {
		return err
	}
	p, err := store.Paused()
	if err != nil {
		return err
	}
	if p == nil {
		return errors.New("cannot resume: nothing is paused")
	}
	return store.Resume()
}
