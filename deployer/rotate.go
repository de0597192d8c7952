package deployer

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/credentials"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// RotateRequest says how to replace the deployment's CA.
type RotateRequest struct {
	// Approve is asked for each of the three passes, with what it is for.
	Approve func(pass string, p *plan.Plan) (bool, error)
}

// The passes of a rotation, for people.
const (
	passTrust = "1 of 3: everybody trusts the new CA as well as the old one"
	passIssue = "2 of 3: everybody gets certificates of the new CA"
	passDrop  = "3 of 3: nobody trusts the old CA any more"
)

// RotateCA replaces the deployment's CA, in three passes that are each like an
// apply: the new one is trusted everywhere, then it signs, then the old one is
// dropped. A pass begins only when every instance and agent has taken the last.
// Files of class reload change, and agents' settings: no process restarts. A
// rotation that stops half-way is continued by the next RotateCA, and an Apply in between keeps
// to the pass that was reached.
func (d *Deployer) RotateCA(ctx context.Context, q RotateRequest) (*Result, error) {
	started := time.Now()
	s, err := d.open()
	if err != nil {
		return nil, err
	}
	if s.Fresh || s.Secrets.CA.Certificate == "" {
		return nil, fmt.Errorf("cannot replace the CA: %w", session.ErrNoState)
	}
	if s.Secrets.NextCA == nil && s.Secrets.OldCA == "" {
		if err := changeCA(ctx, d, "begin to rotate the CA", (*credentials.Credentials).MakeNextCA); err != nil {
			return nil, err
		}
	}
	for _, p := range []struct {
		name, what string
		due        func(*state.Secrets) bool
		after      func(*credentials.Credentials) error
	}{
		{passTrust, "sign with the new CA", func(s *state.Secrets) bool { return s.NextCA != nil }, (*credentials.Credentials).UseNextCA},
		{passIssue, "drop the old CA", func(s *state.Secrets) bool { return s.OldCA != "" }, (*credentials.Credentials).DropOldCA},
	} {
		if s, err = d.open(); err != nil {
			return nil, err
		}
		if !p.due(s.Secrets) {
			continue
		}
		if err := pass(ctx, d, q, p.name); err != nil {
			return nil, err
		}
		if err := changeCA(ctx, d, p.what, p.after); err != nil {
			return nil, err
		}
	}
	if err := pass(ctx, d, q, passDrop); err != nil {
		return nil, err
	}
	return &Result{
		Deployment: s.Manifest.Deployment.Name, Changed: true, Summary: "The CA was replaced",
		Duration: time.Since(started), Counts: d.counters.Counts(),
	}, nil
}

// pass makes the cluster what state and manifest say, and ends only when every
// agent reports it.
func pass(ctx context.Context, d *Deployer, q RotateRequest, name string) error {
	_, err := d.Apply(ctx, ApplyRequest{pass: true, Approve: func(p *plan.Plan) (bool, error) { return q.Approve(name, p) }})
	if err != nil {
		return fmt.Errorf("cannot finish pass %s; run rotate-ca again to continue: %w", name, err)
	}
	x, err := d.load()
	if err != nil {
		return err
	}
	defer x.fleet.Close()
	inventories := x.fleet.Survey(ctx, fleet.Patient)
	urls := x.credentials.BusURLs(nil)
	var waiting []string
	for _, id := range x.IDs() {
		inv := inventories[id]
		if inv == nil {
			waiting = append(waiting, id+" ("+x.fleet.Unheard(id).Error()+")")
		} else if b := x.credentials.BusFor(urls, id, inv); b != nil && b.Digest != inv.Bus.Digest {
			waiting = append(waiting, id+" (has other bus settings)")
		}
	}
	if len(waiting) > 0 {
		return fmt.Errorf("cannot finish pass %s: not taken by %s; run rotate-ca again to continue", name, strings.Join(waiting, ", "))
	}
	return nil
}

// changeCA changes the CAs in the state, under the lock.
func changeCA(ctx context.Context, d *Deployer, what string, change func(*credentials.Credentials) error) error {
	return d.changeState(ctx, func(s *session.Session) error {
		if s.Fresh {
			return session.ErrNoState
		}
		if err := change(credentials.Of(s)); err != nil {
			return err
		}
		return s.Begin(what, 0)
	})
}
