package domains

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/clusterworks/deploy/deployer/internal/pki"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

var now = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// issue makes a certificate for names, by a CA of its own.
func issue(t *testing.T, life time.Duration, names ...string) (pair pki.Pair, root string) {
	t.Helper()
	ca, err := pki.NewCA(rand.Reader, "test", now, 10*365*day)
	if err != nil {
		t.Fatal(err)
	}
	pair, err = ca.IssueServer(rand.Reader, names[0], names, nil, now, life)
	if err != nil {
		t.Fatal(err)
	}
	own, err := ca.Pair()
	if err != nil {
		t.Fatal(err)
	}
	return pair, string(own.Certificate)
}

func files(t *testing.T, life time.Duration, names ...string) manifests.DomainTLS {
	t.Helper()
	pair, root := issue(t, life, names...)
	return manifests.DomainTLS{Kind: manifests.TLSFiles, Files: manifests.CertificateFiles{Certificate: string(pair.Certificate), Key: string(pair.PrivateKey), Root: root},
		Range: hcl.Range{Filename: "cluster.hcl", Start: hcl.Pos{Line: 7, Column: 3}, End: hcl.Pos{Line: 7, Column: 9}}}
}

// What cannot be served is refused with the manifest's line.
func TestCheck(t *testing.T) {
	without := files(t, 90*day, "www.shop.example")
	without.Files.Root = ""
	other := files(t, 90*day, "www.shop.example")
	other.Files.Key = files(t, 90*day, "www.shop.example").Files.Key
	pair, root := issue(t, 90*day, "api.shop.example")
	secrets := &state.Secrets{Values: map[string]map[string]string{"web": {"certificate": string(pair.Certificate), "private_key": string(pair.PrivateKey), "ca": root}}}
	secret := func(name string) manifests.DomainTLS {
		return manifests.DomainTLS{Kind: manifests.TLSSecret, Secret: name, Range: without.Range}
	}
	for name, tc := range map[string]struct {
		domain string
		tls    manifests.DomainTLS
		at     time.Time
		want   string
	}{
		"good":              {"www.shop.example", files(t, 90*day, "www.shop.example"), now, ""},
		"of another name":   {"shop.example", files(t, 90*day, "www.shop.example"), now, "for www.shop.example, not for shop.example"},
		"expired":           {"www.shop.example", files(t, 90*day, "www.shop.example"), now.Add(91 * day), "expired at"},
		"of another key":    {"www.shop.example", other, now, "private key does not match"},
		"without its root":  {"www.shop.example", without, now, "the chain is incomplete"},
		"a secret":          {"api.shop.example", secret("web"), now, ""},
		"another's secret":  {"www.shop.example", secret("web"), now, "not for www.shop.example"},
		"not made yet":      {"www.shop.example", secret("new"), now, ""},
		"the deployment's":  {"www.shop.example", manifests.DomainTLS{Kind: manifests.TLSInternal}, now, ""},
		"without any TLS":   {"www.shop.example", manifests.DomainTLS{}, now, ""},
		"expired by secret": {"api.shop.example", secret("web"), now.Add(100 * day), "expired at"},
	} {
		m := &manifests.Manifest{Domains: []*manifests.Domain{{Name: tc.domain, TLS: tc.tls}}}
		err := Check(m, secrets, tc.at)
		if (err == nil) != (tc.want == "") {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
		if err != nil && (!strings.Contains(strings.ReplaceAll(err.Error(), "\n", " "), tc.want) || !strings.Contains(err.Error(), "cluster.hcl line 7")) {
			t.Errorf("%s: %v, want %q at its line", name, err, tc.want)
		}
	}
}

// Who has to replace a certificate learns so in time, and not of a short-lived one
// all its life.
func TestWarnings(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"ed.example"}, NotBefore: now, NotAfter: now.Add(365 * day)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, data []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}))
	}
	ed := &manifests.Domain{Name: "ed.example", TLS: manifests.DomainTLS{Kind: manifests.TLSFiles, Files: manifests.CertificateFiles{Certificate: text("CERTIFICATE", der), Key: text("PRIVATE KEY", key)}}}
	if got := Warnings(&manifests.Manifest{Domains: []*manifests.Domain{ed}}, &state.Secrets{}, now); len(got) != 1 || !strings.Contains(got[0], "ed.example has an Ed25519 key") {
		t.Errorf("%q", got)
	}
	long, short := files(t, 365*day, "long.example"), files(t, 9*day, "short.example")
	m := &manifests.Manifest{Domains: []*manifests.Domain{{Name: "long.example", TLS: long}, {Name: "short.example", TLS: short}, {Name: "own.example", TLS: manifests.DomainTLS{Kind: manifests.TLSInternal}}}}
	for at, want := range map[time.Duration][]string{
		0:         nil,
		5 * day:   nil,
		7 * day:   {"short.example ends in 2 days"},
		8 * day:   {"short.example ends in 1 day,"},
		300 * day: {"short.example ended on 2030-01-10"},
		340 * day: {"long.example ends in 25 days", "short.example ended"},
	} {
		got := Warnings(m, &state.Secrets{}, now.Add(at))
		if len(got) != len(want) {
			t.Errorf("after %v: %q, want %q", at, got, want)
			continue
		}
		for i := range want {
			if !strings.Contains(got[i], want[i]) {
				t.Errorf("after %v: %q, want %q", at, got[i], want[i])
			}
		}
	}
}
