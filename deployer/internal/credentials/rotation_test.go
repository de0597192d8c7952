package credentials

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/pki"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// caRun is a run with a CA, at a time of its own.
func caRun(t *testing.T, now time.Time, p manifests.PKI) *Credentials {
	t.Helper()
	r := Of(&session.Session{
		Manifest: &manifests.Manifest{Deployment: manifests.Deployment{Name: "cf"}, PKI: p},
		State:    state.New("cf"),
		Secrets:  &state.Secrets{},
		Now:      now,
	})
	if err := r.Ensure(); err != nil {
		t.Fatal(err)
	}
	return r
}

func mustIssue(t *testing.T, r *Credentials, had state.Certificate) state.Certificate {
	t.Helper()
	ca, err := r.CA()
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.certificate(ca, "nats/0", had, []string{"nats.cf.internal"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Whoever trusts what one pass distributes takes the certificates of the pass
// before and of the next, so that no order in which machines follow breaks
// anything; and what was replaced is replaced once.
func TestRotationOverlaps(t *testing.T) {
	r := caRun(t, time.Now(), manifests.DefaultPKI())
	first := mustIssue(t, r, state.Certificate{})
	type moment struct {
		trusted string
		used    state.Certificate
	}
	moments := []moment{{r.Trusted(), first}}
	for _, step := range []func() error{r.MakeNextCA, r.MakeNextCA, r.UseNextCA, r.UseNextCA, r.DropOldCA} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		before := moments[len(moments)-1].used
		moments = append(moments, moment{r.Trusted(), mustIssue(t, r, before)})
	}
	for i, m := range moments {
		for _, near := range moments[max(0, i-1):min(len(moments), i+2)] {
			if !verifies(t, m.trusted, near.used) {
				t.Errorf("at moment %d a certificate of the moment beside it is refused", i)
			}
		}
	}
	last := moments[len(moments)-1]
	if verifies(t, last.trusted, first) || strings.Count(last.trusted, "BEGIN") != 1 {
		t.Error("the old CA is still trusted")
	}
	if last.used.Certificate == first.Certificate || last.used.Certificate != moments[3].used.Certificate {
		t.Error("the certificate was not replaced just once")
	}
	if moments[2].trusted != moments[3].trusted {
		t.Error("the second pass changes what is trusted")
	}
}

func verifies(t *testing.T, trusted string, c state.Certificate) bool {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(trusted)) {
		t.Fatal("nothing is trusted")
	}
	parsed, err := pki.ParseCertificate([]byte(c.Certificate))
	if err != nil {
		t.Fatal(err)
	}
	_, err = parsed.Verify(x509.VerifyOptions{Roots: roots, DNSName: "nats.cf.internal"})
	return err == nil
}

func TestCertificateWarnings(t *testing.T) {
	const day = 24 * time.Hour
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		life  manifests.PKI
		after time.Duration
		want  []string
	}{
		"new":                 {manifests.DefaultPKI(), 0, nil},
		"due, but not soon":   {manifests.DefaultPKI(), 300 * day, nil},
		"a certificate":       {manifests.DefaultPKI(), 340 * day, []string{"the next apply renews them"}},
		"all":                 {manifests.PKI{CertificateLife: 365 * day, CALife: 365 * day}, 340 * day, []string{"rotate-ca", "the next apply renews them"}},
		"short and not due":   {manifests.PKI{CertificateLife: time.Minute, CALife: 3650 * day}, 10 * time.Second, nil},
		"short and due again": {manifests.PKI{CertificateLife: time.Minute, CALife: 3650 * day}, 30 * time.Second, []string{"the next apply renews them"}},
	} {
		r := caRun(t, begin, c.life)
		r.s.Secrets.Certificates = map[string]state.Certificate{"nats/0/nats/server": mustIssue(t, r, state.Certificate{})}
		r.s.Now = begin.Add(c.after)
		got := r.Warnings()
		if len(got) != len(c.want) {
			t.Errorf("%s: %q", name, got)
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], c.want[i]) {
				t.Errorf("%s: %q does not tell %q", name, got[i], c.want[i])
			}
		}
	}
	r := caRun(t, begin, manifests.DefaultPKI())
	if err := r.MakeNextCA(); err != nil {
		t.Fatal(err)
	}
	if got := r.Warnings(); len(got) != 1 || !strings.Contains(got[0], "not finished") {
		t.Errorf("an unfinished rotation: %q", got)
	}
}
