package domains

import (
	"crypto/x509"
	"fmt"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// Attempt is the last try to get a certificate that failed.
type Attempt struct {
	At       time.Time
	Failures int // in a row; 0: none has failed since the last success
}

// The waits after failures: the first, and the longest. CAs allow few failures an
// hour.
const (
	firstWait   = 15 * time.Minute
	longestWait = 12 * time.Hour
)

// Due reports whether a certificate is to be got now: if there is none, or two
// thirds of its life are over, and the last failure was long enough ago. next is
// when it will be, if nothing changes. A certificate that is about to end is tried
// for more often, so that there is time for several tries.
func Due(leaf *x509.Certificate, last Attempt, now time.Time) (due bool, next time.Time) {
	if leaf != nil {
		next = leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 3 * 2)
	}
	if last.Failures > 0 {
		wait := longestWait
		if last.Failures < 7 {
			wait = min(firstWait<<(last.Failures-1), longestWait)
		}
		if leaf != nil {
			if left := leaf.NotAfter.Sub(last.At); left > 0 {
				wait = max(min(wait, left/8), firstWait)
			}
		}
		if again := last.At.Add(wait); again.After(next) {
			next = again
		}
	}
	return !now.Before(next), next
}

// Keeps says what happens while a CA does not give a certificate.
func Keeps(leaf *x509.Certificate, now time.Time) string {
	switch {
	case leaf == nil:
		return "the domain has no HTTPS until there is one"
	case now.After(leaf.NotAfter):
		return "the one that is there has " + ends(leaf.NotAfter, now) + ", and browsers refuse it"
	}
	return fmt.Sprintf("the one that is there stays and is good for %d days more", Days(leaf.NotAfter, now))
}

// renewalWarning says what is to be done about a domain's certificate of an ACME CA,
// and why it has not been; "" if nothing is.
func renewalWarning(d *manifests.Domain, secrets *state.Secrets, now time.Time) string {
	leaf := Leaf(d, secrets)
	var last state.ACMEFailure
	if secrets.ACME != nil {
		last = secrets.ACME.Failed[d.Name]
	}
	switch due, _ := Due(leaf, Attempt{}, now); {
	case !due:
		return ""
	case last.Failures > 0:
		return fmt.Sprintf("the certificate of domain %s could not be renewed at %s (%s); %s", d.Name, last.At.UTC().Format(time.DateTime), last.Error, Keeps(leaf, now))
	case leaf == nil:
		return fmt.Sprintf("domain %s has no certificate yet: run deploy domains --renew", d.Name)
	}
	return fmt.Sprintf("the certificate of domain %s %s: deploy domains --renew is due, and should run by itself every day", d.Name, ends(leaf.NotAfter, now))
}
