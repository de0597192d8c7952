// Package domains looks after the names that a deployment's load balancers serve:
// whether their certificates can be served, when these end, whether the names
// resolve to the load balancers, and whether each load balancer really answers for
// them.
package domains

import (
	"crypto/x509"
	"fmt"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/clusterworks/deploy/agent/host/tlspair"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// Pair returns a domain's certificate and the roots, PEM, that its clients trust
// beside the public ones. ok is false if there is none (yet).
func Pair(d *manifests.Domain, secrets *state.Secrets) (pair tlspair.Pair, roots string, ok bool) {
	switch d.TLS.Kind {
	case manifests.TLSFiles:
		f := d.TLS.Files
		pair, roots = tlspair.Pair{Certificate: f.Certificate, Key: f.Key}, f.Root
	case manifests.TLSSecret:
		v := secrets.Values[d.TLS.Secret]
		pair, roots = tlspair.Pair{Certificate: v["certificate"], Key: v["private_key"]}, v["ca"]
	default:
		c := secrets.Domains[d.Name]
		pair, roots = tlspair.Pair{Certificate: c.Certificate, Key: c.PrivateKey}, secrets.CA.Certificate
	}
	return pair, roots, pair.Certificate != ""
}

// Check reports the certificates of the manifest's domains that cannot be served,
// with the line that names them: those of others, of other names, of another time,
// or without a way to a root.
func Check(m *manifests.Manifest, secrets *state.Secrets, now time.Time) error {
	var diags hcl.Diagnostics
	for _, d := range m.Domains {
		if d.TLS.Kind != manifests.TLSFiles && d.TLS.Kind != manifests.TLSSecret {
			continue // the deployer sees to those itself
		}
		pair, roots, ok := Pair(d, secrets)
		if !ok {
			continue // a secret that is not made yet is made to fit
		}
		for _, err := range pair.Problems([]string{d.Name}, trusted(roots), now) {
			diags = append(diags, &hcl.Diagnostic{
				Severity: hcl.DiagError, Summary: "Certificate cannot be served", Subject: d.TLS.Range.Ptr(),
				Detail: fmt.Sprintf("Domain %q cannot be served over TLS: %v.", d.Name, err),
			})
		}
	}
	if diags.HasErrors() {
		return &manifests.Error{Diagnostics: diags, Files: m.Files}
	}
	return nil
}

// trusted returns the public roots that this machine knows, and others, PEM.
func trusted(others string) *x509.CertPool {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a machine without any knows only the others
	}
	pool.AppendCertsFromPEM([]byte(others))
	return pool
}

// soonDays is the number of days before its end from which a certificate that
// people have to replace is reported, if the last third of its life has begun.
const soonDays = 30

// Warnings names the certificates that end within soonDays and that nobody but
// people can replace, and those that browsers do not take.
func Warnings(m *manifests.Manifest, secrets *state.Secrets, now time.Time) []string {
	var out []string
	for _, d := range m.Domains {
		var what string
		switch d.TLS.Kind {
		case manifests.TLSFiles:
			what = "replace the files that its tls names, and apply"
		case manifests.TLSSecret:
			what = fmt.Sprintf("run deploy secret rotate %s, or secret set, and apply", d.TLS.Secret)
		case manifests.TLSACME:
			if w := renewalWarning(d, secrets, now); w != "" {
				out = append(out, w)
			}
			continue
		default:
			continue
		}
		pair, _, ok := Pair(d, secrets)
		if !ok {
			continue
		}
		leaf := first(pair)
		if leaf == nil {
			continue
		}
		if leaf.PublicKeyAlgorithm == x509.Ed25519 {
			out = append(out, fmt.Sprintf("the certificate of domain %s has an Ed25519 key, which browsers do not take: get one with an ECDSA key, of P-256", d.Name))
		}
		if soon(leaf, now) {
			out = append(out, fmt.Sprintf("the certificate of domain %s %s: %s", d.Name, ends(leaf.NotAfter, now), what))
		}
	}
	return out
}

// Leaf returns a domain's own certificate, nil if there is none that can be read.
func Leaf(d *manifests.Domain, secrets *state.Secrets) *x509.Certificate {
	pair, _, ok := Pair(d, secrets)
	if !ok {
		return nil
	}
	return first(pair)
}

// first returns a pair's own certificate, nil if it cannot be read.
func first(p tlspair.Pair) *x509.Certificate {
	chain, err := p.Chain()
	if err != nil {
		return nil
	}
	return chain[0]
}

// soon reports whether a certificate ends within soonDays and has lived for two
// thirds of its life.
func soon(c *x509.Certificate, now time.Time) bool {
	left := c.NotAfter.Sub(now)
	return left < soonDays*24*time.Hour && left < c.NotAfter.Sub(c.NotBefore)/3
}

// Days returns the whole days that are left until an end, below 0 after it.
func Days(end, now time.Time) int {
	left := end.Sub(now)
	if left < 0 {
		return -1 - int(-left/(24*time.Hour))
	}
	return int(left / (24 * time.Hour))
}

// ends says when a certificate ends, or ended.
func ends(end, now time.Time) string {
	at := end.UTC().Format(time.DateTime)
	if now.After(end) {
		return "ended on " + at + " UTC"
	}
	days := Days(end, now)
	unit := "days"
	if days == 1 {
		unit = "day"
	}
	return fmt.Sprintf("ends in %d %s, on %s UTC", days, unit, at)
}
