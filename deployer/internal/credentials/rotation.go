package credentials

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/domains"
	"github.com/clusterworks/deploy/deployer/internal/pki"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/manifests"
)

// A rotation replaces the CA with overlap: the next one is trusted before it
// signs, the old one is trusted after it did. The state says which of them there
// are; what is trusted and who signs follows from that alone.

// MakeNextCA makes the CA that is to take over, and is trusted from now on.
func (c *Credentials) MakeNextCA() error {
	if c.s.Secrets.NextCA != nil || c.s.Secrets.OldCA != "" {
		return nil // another run was first
	}
	next, err := c.newCA()
	c.s.Secrets.NextCA = &next
	return err
}

// UseNextCA lets the next CA sign. The one that signed until now stays trusted.
func (c *Credentials) UseNextCA() error {
	if c.s.Secrets.NextCA != nil {
		c.s.Secrets.OldCA, c.s.Secrets.CA, c.s.Secrets.NextCA = c.s.Secrets.CA.Certificate, *c.s.Secrets.NextCA, nil
	}
	return nil
}

// DropOldCA ends the trust in the CA that signed before.
func (c *Credentials) DropOldCA() error {
	if c.s.Secrets.NextCA != nil {
		return errors.New("cannot drop the old CA: another rotation has begun meanwhile; run rotate-ca again")
	}
	c.s.Secrets.OldCA = ""
	return nil
}

// warnDays is the number of days before its end from which a certificate is
// reported.
const warnDays = 30

// Warn reports the Warnings.
func (c *Credentials) Warn() {
	for _, text := range c.Warnings() {
		c.s.Event(session.Event{Phase: session.PhaseLoad, Message: text})
	}
}

// Warnings names the certificates that end within warnDays and are in the last
// third of their lives, the CA among them, and says what to do.
func (c *Credentials) Warnings() []string {
	var out []string
	if c.s.Secrets.NextCA != nil || c.s.Secrets.OldCA != "" {
		out = append(out, "the deployment's CA is being replaced, and that is not finished: run deploy rotate-ca")
	}
	if end, ends := c.endsSoon(c.s.Secrets.CA.Certificate); ends {
		out = append(out, fmt.Sprintf("the deployment's CA ends on %s, and all certificates with it: run deploy rotate-ca", end.Format(time.DateTime)))
	}
	var soon []string
	var first time.Time
	note := func(name, certificate string) {
		if end, ends := c.endsSoon(certificate); ends {
			soon = append(soon, name)
			if first.IsZero() || end.Before(first) {
				first = end
			}
		}
	}
	for id, issued := range c.s.Secrets.Agents {
		note("the agent of "+id, issued.Certificate)
	}
	for key, issued := range c.s.Secrets.Certificates {
		note(key, issued.Certificate)
	}
	for _, d := range c.s.Manifest.Domains {
		if d.TLS.Kind == manifests.TLSInternal { // of the others domains.Warnings knows
			note("domain "+d.Name, c.s.Secrets.Domains[d.Name].Certificate)
		}
	}
	out = append(out, domains.Warnings(c.s.Manifest, c.s.Secrets, c.s.Now)...)
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

// endsSoon returns the end of a certificate, and reports whether it is due for
// renewal and ends within warnDays. It ignores a certificate that cannot be read,
// which other checks report.
func (c *Credentials) endsSoon(certificate string) (time.Time, bool) {
	parsed, err := pki.ParseCertificate([]byte(certificate))
	if err != nil {
		return time.Time{}, false
	}
	due, err := pki.NeedsRenewal([]byte(certificate), c.s.Now)
	return parsed.NotAfter, err == nil && due && parsed.NotAfter.Sub(c.s.Now) < warnDays*24*time.Hour
}
