package tlspair

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// sign makes a certificate, by itself if by is nil.
func sign(t *testing.T, by *authority, template *x509.Certificate) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func (a *authority) keyPEM(t *testing.T) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func TestProblems(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	year := 365 * 24 * time.Hour
	ca := func(name string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-year), NotAfter: now.Add(year), IsCA: true, BasicConstraintsValid: true}
	}
	root := sign(t, nil, ca("root"))
	stranger := sign(t, nil, ca("stranger"))
	between := sign(t, root, ca("between"))
	leafOf := func(by *authority, from, to time.Time, names ...string) *authority {
		return sign(t, by, &x509.Certificate{Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotBefore: from, NotAfter: to})
	}
	leaf := leafOf(between, now.Add(-year/2), now.Add(year/2), "www.shop.example", "*.shop.example")
	alone := leafOf(nil, now.Add(-year), now.Add(year), "alone.example")
	roots := x509.NewCertPool()
	roots.AddCert(root.cert)

	for name, tc := range map[string]struct {
		pair  Pair
		names string
		roots *x509.CertPool
		want  []string
	}{
		"good":                {Pair{leaf.pem() + between.pem(), leaf.keyPEM(t)}, "www.shop.example", roots, nil},
		"with its root":       {Pair{leaf.pem() + between.pem() + root.pem(), leaf.keyPEM(t)}, "a.shop.example", x509.NewCertPool(), nil},
		"wildcard":            {Pair{leaf.pem() + between.pem(), leaf.keyPEM(t)}, "*.shop.example www.shop.example", roots, nil},
		"incomplete":          {Pair{leaf.pem(), leaf.keyPEM(t)}, "www.shop.example", roots, []string{`incomplete: it ends with the certificate of "www.shop.example", which "between" has signed`}},
		"nobody asks":         {Pair{leaf.pem(), leaf.keyPEM(t)}, "www.shop.example", nil, nil},
		"unknown root":        {Pair{leaf.pem() + between.pem(), leaf.keyPEM(t)}, "www.shop.example", x509.NewCertPool(), []string{"not a root that clients trust"}},
		"another key":         {Pair{leaf.pem(), between.keyPEM(t)}, "www.shop.example", roots, []string{"private key does not match"}},
		"no PEM":              {Pair{"x", "y"}, "www.shop.example", roots, []string{"as PEM"}},
		"out of order":        {Pair{leaf.pem() + root.pem() + between.pem(), leaf.keyPEM(t)}, "www.shop.example", roots, []string{"is not signed by the one that follows it", "is not signed by the one that follows it"}},
		"another's":           {Pair{leaf.pem() + stranger.pem(), leaf.keyPEM(t)}, "www.shop.example", roots, []string{`not signed by the one that follows it, of "stranger"`}},
		"signed by itself":    {Pair{alone.pem(), alone.keyPEM(t)}, "alone.example", roots, nil},
		"other names":         {Pair{leaf.pem() + between.pem(), leaf.keyPEM(t)}, "shop.example *.a.shop.example b.a.shop.example", roots, []string{"not for shop.example", "not for *.a.shop.example", "not for b.a.shop.example"}},
		"an exact is no star": {Pair{leafOf(root, now.Add(-year), now.Add(year), "www.shop.example").pem(), ""}, "*.shop.example", roots, []string{"as PEM"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := tc.pair.Problems(strings.Fields(tc.names), tc.roots, now)
			if len(got) != len(tc.want) {
				t.Fatalf("%v, want %q", got, tc.want)
			}
			for i := range got {
				if !strings.Contains(got[i].Error(), tc.want[i]) {
					t.Errorf("%v, want %q", got[i], tc.want[i])
				}
			}
		})
	}
	whole := Pair{leaf.pem() + between.pem(), leaf.keyPEM(t)}
	for at, want := range map[time.Time]string{now.Add(-year * 3 / 4): "begins at", now.Add(year * 3 / 4): "expired at", now: ""} {
		got := whole.Problems([]string{"www.shop.example"}, roots, at)
		if want == "" && len(got) != 0 || want != "" && (len(got) != 1 || !strings.Contains(got[0].Error(), want)) {
			t.Errorf("at %s: %v, want %q", at, got, want)
		}
	}
}
