package deployer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/pki"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// RotateRequest is how to replace the deployment's CA.
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
// Files of class reload change, and agents' settings: no process restarts. What
// stops half-way is continued by the next RotateCA, and an Apply in between keeps
// to the pass that was reached.
func (d *Deployer) RotateCA(ctx context.Context, q RotateRequest) (*Result, error) {
	started := time.Now()
	r, err := d.open()
	if err != nil {
		return nil, err
	}
	if r.state == nil || r.secrets == nil || r.secrets.CA.Certificate == "" {
		return nil, fmt.Errorf("cannot replace the CA: %w", errNoState)
	}
	if r.secrets.NextCA == nil && r.secrets.OldCA == "" {
		if err := d.changeCA(ctx, "begin to rotate the CA", (*run).makeNextCA); err != nil {
			return nil, err
		}
	}
	for _, pass := range []struct {
		name, what string
		due        func(*state.Secrets) bool
		after      func(*run) error
	}{
		{passTrust, "sign with the new CA", func(s *state.Secrets) bool { return s.NextCA != nil }, (*run).useNextCA},
		{passIssue, "drop the old CA", func(s *state.Secrets) bool { return s.OldCA != "" }, (*run).dropOldCA},
	} {
		if r, err = d.open(); err != nil {
			return nil, err
		}
		if !pass.due(r.secrets) {
			continue
		}
		if err := d.pass(ctx, q, pass.name); err != nil {
			return nil, err
		}
		if err := d.changeCA(ctx, pass.what, pass.after); err != nil {
			return nil, err
		}
	}
	if err := d.pass(ctx, q, passDrop); err != nil {
		return nil, err
	}
	return &Result{
		Deployment: r.manifest.Deployment.Name, Changed: true, Summary: "The CA was replaced",
		Duration: time.Since(started), Counts: d.counts.snapshot(),
	}, nil
}

// pass makes the cluster what state and manifest say, and believes it only when
// every agent says so.
func (d *Deployer) pass(ctx context.Context, q RotateRequest, name string) error {
	_, err := d.Apply(ctx, ApplyRequest{Approve: func(p *plan.Plan) (bool, error) { return q.Approve(name, p) }})
	if err != nil {
		return fmt.Errorf("cannot finish pass %s; run rotate-ca again to continue: %w", name, err)
	}
	r, err := d.load()
	if err != nil {
		return err
	}
	defer r.close()
	inventories := r.fleet.survey(ctx, patient)
	urls := r.busURLs()
	var waiting []string
	for _, id := range r.ids() {
		inv := inventories[id]
		if inv == nil {
			waiting = append(waiting, id+" ("+r.fleet.unheard(id).Error()+")")
		} else if b := r.busFor(urls, id, inv); b != nil && b.Digest != inv.Bus.Digest {
			waiting = append(waiting, id+" (has other bus settings)")
		}
	}
	if len(waiting) > 0 {
		return fmt.Errorf("cannot finish pass %s: not taken by %s; run rotate-ca again to continue", name, strings.Join(waiting, ", "))
	}
	return nil
}

// changeCA changes the CAs in the state, under the lock.
func (d *Deployer) changeCA(ctx context.Context, what string, change func(*run) error) error {
	r, err := d.open()
	if err != nil {
		return err
	}
	lock, _, err := d.hold(ctx, r.store)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if r.state, r.secrets, err = r.store.Load(); err != nil { // what was read before the lock may be another's past
		return err
	}
	if r.state == nil || r.secrets == nil {
		return errNoState
	}
	if err := change(r); err != nil {
		return err
	}
	err = r.begin(what)
	r.ended(err)
	return err
}

func (r *run) makeNextCA() error {
	if r.secrets.NextCA != nil || r.secrets.OldCA != "" {
		return nil // another run was first
	}
	next, err := r.newCA()
	r.secrets.NextCA = &next
	return err
}

func (r *run) useNextCA() error {
	if r.secrets.NextCA != nil {
		r.secrets.OldCA, r.secrets.CA, r.secrets.NextCA = r.secrets.CA.Certificate, *r.secrets.NextCA, nil
	}
	return nil
}

func (r *run) dropOldCA() error {
	if r.secrets.NextCA != nil {
		return errors.New("cannot drop the old CA: another rotation has begun meanwhile; run rotate-ca again")
	}
	r.secrets.OldCA = ""
	return nil
}

// warnDays is how long before the end of a certificate it is warned of.
const warnDays = 30

// CertificateWarnings says what certificates, of those that the deployment's CA
// signed and of the CA itself, end within 30 days (and in the last third of their
// lives, when they are due), and what to do. Empty: none.
func (d *Deployer) CertificateWarnings() ([]string, error) {
	r, err := d.open()
	if err != nil || r.secrets == nil {
		return nil, err
	}
	return r.certificateWarnings(), nil
}

func (r *run) warnOfCertificates() {
	for _, text := range r.certificateWarnings() {
		r.event(Event{Phase: PhaseLoad, Message: text})
	}
}

func (r *run) certificateWarnings() []string {
	var out []string
	if r.secrets.NextCA != nil || r.secrets.OldCA != "" {
		out = append(out, "the deployment's CA is being replaced, and that is not finished: run deploy rotate-ca")
	}
	if end, ends := r.endsSoon(r.secrets.CA.Certificate); ends {
		out = append(out, fmt.Sprintf("the deployment's CA ends on %s, and all certificates with it: run deploy rotate-ca", end.Format(time.DateTime)))
	}
	var soon []string
	var first time.Time
	note := func(name, certificate string) {
		if end, ends := r.endsSoon(certificate); ends {
			soon = append(soon, name)
			if first.IsZero() || end.Before(first) {
				first = end
			}
		}
	}
	for id, c := range r.secrets.Agents {
		note("the agent of "+id, c.Certificate)
	}
	for key, c := range r.secrets.Certificates {
		note(key, c.Certificate)
	}
	if len(soon) > 0 {
		slices.Sort(soon)
		text := strings.Join(soon[:min(3, len(soon))], ", ")
		if len(soon) > 3 {
			text += fmt.Sprintf(" and %d more", len(soon)-3)
		}
		out = append(out, fmt.Sprintf("certificates end from %s on (%s): the next apply renews them", first.Format(time.DateTime), text))
	}
	return out
}

// endsSoon tells whether a certificate is due and ends within warnDays. One that
// cannot be read is another check's matter.
func (r *run) endsSoon(certificate string) (time.Time, bool) {
	c, err := pki.ParseCertificate([]byte(certificate))
	if err != nil {
		return time.Time{}, false
	}
	due, err := pki.NeedsRenewal([]byte(certificate), r.now)
	return c.NotAfter, err == nil && due && c.NotAfter.Sub(r.now) < warnDays*24*time.Hour
}
