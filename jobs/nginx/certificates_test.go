package nginx

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// issuer is a CA, or a certificate that it signed.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (i *issuer) issue(t *testing.T, names []string, ca bool, until time.Time) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: until.AddDate(-1, 0, 0), NotAfter: until, IsCA: ca, BasicConstraintsValid: true,
	}
	parent, signer := template, key
	if i != nil {
		parent, signer = i.cert, i.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{cert, key}
}

func (i *issuer) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.cert.Raw}))
}

func (i *issuer) keyPEM(t *testing.T) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// TestCheck: what would make browsers warn is found before it is served, all of
// it at once.
func TestCheck(t *testing.T) {
	good, over := now.AddDate(0, 6, 0), now.AddDate(0, 0, -1)
	root := (*issuer)(nil).issue(t, []string{"root"}, true, good)
	middle := root.issue(t, []string{"middle"}, true, good)
	other := (*issuer)(nil).issue(t, []string{"other"}, true, good)
	leaf := middle.issue(t, []string{"www.shop.test", "*.shop.test"}, false, good)
	expired := middle.issue(t, []string{"www.shop.test"}, false, over)
	for _, tc := range []struct {
		name, certificate, key, domains string
		problems                        []string
	}{
		{"good", leaf.pem() + middle.pem(), leaf.keyPEM(t), "www.shop.test *.shop.test a.shop.test WWW.shop.test", nil},
		{"alone", leaf.pem(), leaf.keyPEM(t), "www.shop.test", nil},
		{"another's key", leaf.pem(), other.keyPEM(t), "www.shop.test", []string{"private key does not match"}},
		{"nothing", "", "", "www.shop.test", []string{"failed to find any PEM data"}},
		{"another's name", leaf.pem(), leaf.keyPEM(t), "www.else.test *.else.test a.b.shop.test shop.test", []string{
			"not for www.else.test", "not for *.else.test", "not for a.b.shop.test", "not for shop.test"}},
		{"expired, another's name", expired.pem(), expired.keyPEM(t), "*.shop.test", []string{"expired at 2026-05-31", "not for *.shop.test"}},
		{"not yet", root.issue(t, []string{"a.test"}, false, now.AddDate(3, 0, 0)).pem(), "", "a.test", []string{"cannot serve a.test"}},
		{"a foreign chain", leaf.pem() + other.pem(), leaf.keyPEM(t), "www.shop.test", []string{`"www.shop.test" is not signed by the one that follows it, of "other"`}},
	} {
		err := Certificate{tc.domains, tc.certificate, tc.key}.Check(now)
		if (err != nil) != (len(tc.problems) > 0) {
			t.Errorf("%s: %v", tc.name, err)
		}
		for _, problem := range tc.problems {
			if err != nil && !strings.Contains(err.Error(), problem) {
				t.Errorf("%s: %v, want %q", tc.name, err, problem)
			}
		}
	}
}

// TestStore: certificates are for their owner only; one that nobody names any
// more stays as long as a rollback may return to it.
func TestStore(t *testing.T) {
	root := (*issuer)(nil).issue(t, []string{"a.test"}, true, time.Now().AddDate(0, 6, 0))
	one, two := Certificate{"a.test", root.pem(), root.keyPEM(t)}, Certificate{"a.test", root.pem() + "\n", root.keyPEM(t)}
	folder := filepath.Join(t.TempDir(), "certificates")
	names := func() (list []string) {
		entries, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			list = append(list, e.Name())
		}
		return list
	}
	file := filepath.Join(t.TempDir(), "certificates.json")
	text, err := json.Marshal([]Certificate{one})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Prepare(file, folder, time.Now()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(folder, one.File()))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	clock := time.Now()
	for _, step := range []struct {
		after time.Duration
		list  []Certificate
		want  int
	}{{0, []Certificate{two}, 2}, {time.Hour, []Certificate{two}, 2}, {keepFor + time.Hour, []Certificate{two}, 1}} {
		if err := Store(folder, step.list, clock.Add(step.after), keepFor); err != nil {
			t.Fatal(err)
		}
		if got := names(); len(got) != step.want {
			t.Errorf("after %v: %v", step.after, got)
		}
	}
	if Prepare(file+".none", folder, time.Now()) == nil || Main([]string{"proof", folder}, t.Output()) != 1 || Main(nil, t.Output()) != 2 {
		t.Error("a missing file, or none, is fine")
	}
}
