package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/manifests"
)

var noon = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newCA(t testing.TB, life time.Duration) *CA {
	t.Helper()
	ca, err := NewCA(rand.Reader, "cf", noon, life)
	must(t, err)
	return ca
}

// verify checks a certificate as a peer would at this time.
func verify(ca *CA, certificate *x509.Certificate, name string, at time.Time, use x509.ExtKeyUsage) error {
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate)
	_, err := certificate.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{use}})
	return err
}

func TestCASurvivesStorage(t *testing.T) {
	ca := newCA(t, day)
	pair, err := ca.Pair()
	must(t, err)
	again, err := ParseCA(pair)
	must(t, err)
	issued, err := again.IssueServer(rand.Reader, "s", []string{"a.internal"}, nil, noon, time.Hour)
	must(t, err)
	certificate, err := ParseCertificate(issued.Certificate)
	must(t, err)
	must(t, verify(ca, certificate, "a.internal", noon, x509.ExtKeyUsageServerAuth))

	other, err := newCA(t, day).Pair()
	must(t, err)
	for name, bad := range map[string]Pair{
		"another's key":     {Certificate: pair.Certificate, PrivateKey: other.PrivateKey},
		"not a CA":          issued,
		"empty":             {},
		"key for both":      {Certificate: pair.PrivateKey, PrivateKey: pair.PrivateKey},
		"certificate twice": {Certificate: pair.Certificate, PrivateKey: pair.Certificate},
	} {
		if _, err := ParseCA(bad); err == nil {
			t.Errorf("%s was taken for a CA", name)
		}
	}
}

func TestIssueServer(t *testing.T) {
	ca := newCA(t, 100*day)
	pair, err := ca.IssueServer(rand.Reader, "nats/0", []string{"nats.cf.internal"}, []netip.Addr{netip.MustParseAddr("127.1.2.3"), netip.MustParseAddr("fd00::1")}, noon, day)
	must(t, err)
	_, err = tls.X509KeyPair(pair.Certificate, pair.PrivateKey)
	must(t, err)
	certificate, err := ParseCertificate(pair.Certificate)
	must(t, err)
	for _, c := range []struct {
		name string
		at   time.Time
		use  x509.ExtKeyUsage
		ok   bool
	}{
		{"nats.cf.internal", noon, x509.ExtKeyUsageServerAuth, true},
		{"127.1.2.3", noon, x509.ExtKeyUsageServerAuth, true},
		{"fd00::1", noon.Add(day), x509.ExtKeyUsageServerAuth, true},
		{"127.1.2.3", noon.Add(-backdate), x509.ExtKeyUsageServerAuth, true},
		{"127.1.2.3", noon.Add(-backdate - time.Second), x509.ExtKeyUsageServerAuth, false},
		{"127.1.2.3", noon.Add(day + time.Second), x509.ExtKeyUsageServerAuth, false},
		{"127.1.2.4", noon, x509.ExtKeyUsageServerAuth, false},
		{"cf.internal", noon, x509.ExtKeyUsageServerAuth, false},
		{"", noon, x509.ExtKeyUsageClientAuth, true},
		{"", noon, x509.ExtKeyUsageCodeSigning, false},
	} {
		if err := verify(ca, certificate, c.name, c.at, c.use); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if err := verify(newCA(t, day), certificate, "127.1.2.3", noon, x509.ExtKeyUsageServerAuth); err == nil {
		t.Error("verified by another CA")
	}
	if _, err := ca.IssueServer(rand.Reader, "s", nil, nil, noon, day); err == nil {
		t.Error("a certificate for nobody was issued")
	}
	own, err := ca.Pair()
	must(t, err)
	if !ForClients(pair.Certificate) || ForClients(own.Certificate) {
		t.Error("it is not known which certificates clients may show")
	}
}

func TestIssueClient(t *testing.T) {
	ca := newCA(t, 100*day)
	const identity = "deploy://0a1b/agent/router/0"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	text, err := ca.IssueClient(rand.Reader, identity, public, noon, day)
	must(t, err)
	certificate, err := ParseCertificate(text)
	must(t, err)
	must(t, verify(ca, certificate, "", noon, x509.ExtKeyUsageClientAuth))
	if err := verify(ca, certificate, "", noon, x509.ExtKeyUsageServerAuth); err == nil {
		t.Error("an agent's certificate serves as a server's")
	}
	if len(certificate.URIs) != 1 || certificate.URIs[0].String() != identity {
		t.Errorf("identity is %v", certificate.URIs)
	}
	if !key.PublicKey.Equal(certificate.PublicKey) {
		t.Error("certificate is for another key")
	}
	if _, err := ca.IssueClient(rand.Reader, identity, []byte("no key"), noon, day); err == nil {
		t.Error("issued without a key")
	}
	for _, bad := range []string{"", "router/0", "deploy:", "://"} {
		if _, err := ca.IssueClient(rand.Reader, bad, public, noon, day); err == nil {
			t.Errorf("issued for identity %q", bad)
		}
	}

	pair, err := ca.IssueClientPair(rand.Reader, "deploy://0a1b/deployer", noon, day)
	must(t, err)
	_, err = tls.X509KeyPair(pair.Certificate, pair.PrivateKey)
	must(t, err)
}

func TestIssuedLifeEndsWithCA(t *testing.T) {
	ca := newCA(t, day)
	pair, err := ca.IssueServer(rand.Reader, "s", []string{"a"}, nil, noon.Add(12*time.Hour), 30*day)
	must(t, err)
	certificate, err := ParseCertificate(pair.Certificate)
	must(t, err)
	if !certificate.NotAfter.Equal(ca.Certificate.NotAfter) {
		t.Errorf("ends %s, the CA %s", certificate.NotAfter, ca.Certificate.NotAfter)
	}
	if _, err := ca.IssueServer(rand.Reader, "s", []string{"a"}, nil, noon.Add(3*day), day); err == nil || !strings.Contains(err.Error(), "not valid now") {
		t.Errorf("an expired CA signed: %v", err)
	}
}

func TestNeedsRenewal(t *testing.T) {
	ca := newCA(t, 10_000*day)
	rapid.Check(t, func(t *rapid.T) {
		life := time.Duration(rapid.IntRange(1, 1000).Draw(t, "hours")) * time.Hour
		pair, err := ca.IssueServer(rand.Reader, "s", []string{"a"}, nil, noon.Add(day), life)
		if err != nil {
			t.Fatal(err)
		}
		total := life + backdate
		left := time.Duration(rapid.Int64Range(-int64(total), int64(total)).Draw(t, "left"))
		needs, err := NeedsRenewal(pair.Certificate, noon.Add(day).Add(life-left))
		if err != nil || needs != (left < total/3) {
			t.Fatalf("life %v, left %v: renewal %v, %v", total, left, needs, err)
		}
	})
	if _, err := NeedsRenewal([]byte("none"), noon); err == nil {
		t.Error("no certificate needs no renewal")
	}
}

func TestNewPassword(t *testing.T) {
	plain := regexp.MustCompile(`^[a-zA-Z0-9]*$`)
	rapid.Check(t, func(t *rapid.T) {
		length := rapid.IntRange(1, 200).Draw(t, "length")
		password, err := NewPassword(rand.Reader, length)
		if err != nil || len(password) != length || !plain.MatchString(password) {
			t.Fatalf("got %q, %v", password, err)
		}
	})
	// Every byte value once, many times: all letters must come out equally often.
	var all []byte
	for b := range 256 {
		all = append(all, byte(b))
	}
	password, err := NewPassword(bytes.NewReader(bytes.Repeat(all, 10)), 248*10)
	must(t, err)
	for _, letter := range passwordAlphabet {
		if n := strings.Count(password, string(letter)); n != 40 {
			t.Errorf("%c came %d times, want 40", letter, n)
		}
	}
	if password, err := NewPassword(rand.Reader, 0); err != nil || len(password) != 32 {
		t.Errorf("default: %q, %v", password, err)
	}
	if _, err := NewPassword(bytes.NewReader(make([]byte, 10)), 32); err == nil {
		t.Error("made a password without randomness")
	}
}

func TestNewSecret(t *testing.T) {
	make := func(secret manifests.Secret, ca map[string]string, attributes ...string) map[string]string {
		t.Helper()
		secret.Name = "s"
		value, err := NewSecret(rand.Reader, &secret, ca, noon)
		must(t, err)
		if len(value) != len(attributes) {
			t.Errorf("%s has %d attributes, want %v", secret.Type, len(value), attributes)
		}
		for _, attribute := range attributes {
			if value[attribute] == "" {
				t.Errorf("%s lacks %s", secret.Type, attribute)
			}
		}
		return value
	}

	if password := make(manifests.Secret{Type: manifests.SecretPassword, Length: 7}, nil, "value"); len(password["value"]) != 7 {
		t.Errorf("password is %q", password["value"])
	}

	ca := make(manifests.Secret{Type: manifests.SecretCA}, nil, "certificate", "private_key")
	leaf := make(manifests.Secret{Type: manifests.SecretCertificate, CA: "ca", CommonName: "db", Names: []string{"db.internal", "127.0.0.9"}}, ca, "certificate", "private_key", "ca")
	signer, err := ParseCA(Pair{Certificate: []byte(ca["certificate"]), PrivateKey: []byte(ca["private_key"])})
	must(t, err)
	certificate, err := ParseCertificate([]byte(leaf["certificate"]))
	must(t, err)
	for _, name := range []string{"db.internal", "127.0.0.9"} {
		must(t, verify(signer, certificate, name, noon, x509.ExtKeyUsageServerAuth))
	}
	must(t, verify(signer, certificate, "", noon, x509.ExtKeyUsageClientAuth))
	if certificate.Subject.CommonName != "db" || leaf["ca"] != ca["certificate"] {
		t.Errorf("certificate of %q, ca %q", certificate.Subject.CommonName, leaf["ca"])
	}
	if _, err := NewSecret(rand.Reader, &manifests.Secret{Type: manifests.SecretCertificate, CA: "ca"}, nil, noon); err == nil {
		t.Error("a certificate without CA was made")
	}

	key := make(manifests.Secret{Type: manifests.SecretSSH}, nil, "public_key", "private_key")
	public, comment, _, _, err := ssh.ParseAuthorizedKey([]byte(key["public_key"]))
	must(t, err)
	private, err := ssh.ParseRawPrivateKey([]byte(key["private_key"]))
	must(t, err)
	derived, err := ssh.NewPublicKey(private.(*ed25519.PrivateKey).Public())
	must(t, err)
	if !bytes.Equal(derived.Marshal(), public.Marshal()) || comment != "s" || strings.Contains(key["public_key"], "\n") {
		t.Errorf("public key %q does not fit", key["public_key"])
	}

	key = make(manifests.Secret{Type: manifests.SecretRSA}, nil, "public_key", "private_key")
	block, _ := pem.Decode([]byte(key["private_key"]))
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(t, err)
	block, _ = pem.Decode([]byte(key["public_key"]))
	parsedPublic, err := x509.ParsePKIXPublicKey(block.Bytes)
	must(t, err)
	if private := parsed.(*rsa.PrivateKey); private.N.BitLen() != 2048 || !private.PublicKey.Equal(parsedPublic) {
		t.Error("RSA keys do not fit")
	}

	if _, err := NewSecret(rand.Reader, &manifests.Secret{Name: "x", Type: "token"}, nil, noon); err == nil || !strings.Contains(err.Error(), `"x"`) {
		t.Errorf("unknown type: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	ca := newCA(f, day)
	pair, err := ca.Pair()
	must(f, err)
	f.Add(pair.Certificate, pair.PrivateKey)
	f.Add([]byte{}, []byte("-----BEGIN PRIVATE KEY-----\n\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"), pair.PrivateKey)
	f.Fuzz(func(t *testing.T, certificate, key []byte) {
		if _, err := ParseCA(Pair{Certificate: certificate, PrivateKey: key}); err == nil {
			if _, err := NeedsRenewal(certificate, noon); err != nil {
				t.Errorf("a CA's certificate cannot be read: %v", err)
			}
		}
	})
}
