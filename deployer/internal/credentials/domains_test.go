package credentials

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/clusterworks/deploy/agent/host/tlspair"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// A domain of the deployment's CA has one certificate, which stays until it is
// renewed in the last third of its life, the CA is replaced or the domain is gone.
func TestDomainCertificates(t *testing.T) {
	start := time.Now()
	r := caRun(t, start, manifests.DefaultPKI())
	m, diags := manifests.Load(fstest.MapFS{"m.hcl": {Data: []byte("deployment \"cf\" {}\ninfrastructure \"local\" {}\n")}}, "m.hcl", manifests.Options{})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	m.Domains = []*manifests.Domain{
		{Name: "*.cf.example", TLS: manifests.DomainTLS{Kind: manifests.TLSInternal}},
		{Name: "plain.example"},
		{Name: "files.example", TLS: manifests.DomainTLS{Kind: manifests.TLSFiles}},
	}
	r.s.Manifest = m
	issue := func(after time.Duration) string {
		t.Helper()
		r.s.Now = start.Add(after)
		if err := r.Issue(nil); err != nil {
			t.Fatal(err)
		}
		c, ok := r.s.Secrets.Domains["*.cf.example"]
		if !ok || len(r.s.Secrets.Domains) != 1 {
			t.Fatalf("certificates of %d domains", len(r.s.Secrets.Domains))
		}
		if problems := (tlspair.Pair{Certificate: c.Certificate, Key: c.PrivateKey}).Problems([]string{"*.cf.example", "a.cf.example"}, nil, r.s.Now); len(problems) > 0 {
			t.Fatal(problems)
		}
		if got := r.Facts(nil).Domains["*.cf.example"].GetAttr("certificate").AsString(); got != c.Certificate {
			t.Error("expressions see another certificate")
		}
		return c.Certificate
	}
	first := issue(0)
	acme := &manifests.Domain{Name: "acme.example", TLS: manifests.DomainTLS{Kind: manifests.TLSACME}}
	m.Domains = append(m.Domains, acme)
	r.s.Secrets.Domains[acme.Name] = r.s.Secrets.Domains["*.cf.example"]
	r.s.Now = start.Add(350 * 24 * time.Hour)
	own, theirs := "(domain *.cf.example): the next apply renews them", "certificate of domain acme.example ends in 14 days"
	if text := strings.Join(r.Warnings(), "\n"); !strings.Contains(text, own) || !strings.Contains(text, theirs) || !strings.Contains(text, "--renew") {
		t.Errorf("warnings %s", text)
	}
	if err := r.Issue(nil); err != nil || r.s.Secrets.Domains[acme.Name].Certificate != first {
		t.Errorf("the certificate of another CA was replaced: %v", err)
	}
	m.Domains = m.Domains[:len(m.Domains)-1]
	r.s.Secrets.Domains = map[string]state.Certificate{"*.cf.example": r.s.Secrets.Domains[acme.Name]}
	if issue(200*24*time.Hour) != first {
		t.Error("it was replaced in the first two thirds of its life")
	}
	second := issue(250 * 24 * time.Hour)
	if second == first {
		t.Error("it was not renewed")
	}
	for _, step := range []func() error{r.MakeNextCA, r.UseNextCA} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	if issue(251*24*time.Hour) == second {
		t.Error("it is still one of the CA that was replaced")
	}
	r.s.Manifest.Domains = nil
	if err := r.Issue(nil); err != nil || len(r.s.Secrets.Domains) != 0 {
		t.Errorf("%d certificates of no domain, %v", len(r.s.Secrets.Domains), err)
	}
}
