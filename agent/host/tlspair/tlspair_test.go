package tlspair

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
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

	// made is one of a key of its own, signed by itself.
	made := func(key crypto.Signer, template *x509.Certificate) Pair {
		template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(1), now.Add(-year), now.Add(year)
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return Pair{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))}
	}
	// The tests' own key is as short as those that Go lets nobody make.
	block, _ := pem.Decode([]byte(shortKey))
	short, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sha1 := sign(t, between, &x509.Certificate{DNSNames: []string{"old.example"}, NotBefore: now.Add(-year), NotAfter: now.Add(year), SignatureAlgorithm: x509.ECDSAWithSHA1})

	for name, tc := range map[string]struct {
		pair  Pair
		names string
		roots *x509.CertPool
		want  []string
	}{
		"good":                   {Pair{leaf.pem() + between.pem(), leaf.keyPEM(t)}, "www.shop.example", roots, nil},
		"with its root":          {Pair{leaf.pem() + between.pem() + root.pem(), leaf.keyPEM(t)}, "a.shop.example", x509.NewCertPool(), nil},
		"wildcard":               {Pair{leaf.pem() + between.pem(), leaf.keyPEM(t)}, "*.shop.example www.shop.example", roots, nil},
		"incomplete":             {Pair{leaf.pem(), leaf.keyPEM(t)}, "www.shop.example", roots, []string{`incomplete: it ends with the certificate of "www.shop.example", which "between" has signed`}},
		"nobody asks":            {Pair{leaf.pem(), leaf.keyPEM(t)}, "www.shop.example", nil, nil},
		"unknown root":           {Pair{leaf.pem() + between.pem(), leaf.keyPEM(t)}, "www.shop.example", x509.NewCertPool(), []string{"not a root that clients trust"}},
		"another key":            {Pair{leaf.pem(), between.keyPEM(t)}, "www.shop.example", roots, []string{"private key does not match"}},
		"no PEM":                 {Pair{"x", "y"}, "www.shop.example", roots, []string{"as PEM"}},
		"out of order":           {Pair{leaf.pem() + root.pem() + between.pem(), leaf.keyPEM(t)}, "www.shop.example", roots, []string{"is not signed by the one that follows it", "is not signed by the one that follows it"}},
		"another's":              {Pair{leaf.pem() + stranger.pem(), leaf.keyPEM(t)}, "www.shop.example", roots, []string{`not signed by the one that follows it, of "stranger"`}},
		"signed by itself":       {Pair{alone.pem(), alone.keyPEM(t)}, "alone.example", roots, nil},
		"other names":            {Pair{leaf.pem() + between.pem(), leaf.keyPEM(t)}, "shop.example *.a.shop.example b.a.shop.example", roots, []string{"not for shop.example", "not for *.a.shop.example", "not for b.a.shop.example"}},
		"encrypted":              {Pair{leaf.pem(), strings.ReplaceAll(leaf.keyPEM(t), "PRIVATE KEY", "ENCRYPTED PRIVATE KEY")}, "www.shop.example", nil, []string{"the private key is encrypted"}},
		"encrypted, as of old":   {Pair{leaf.pem(), "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,0\n\nAAAA\n-----END EC PRIVATE KEY-----\n"}, "www.shop.example", nil, []string{"the private key is encrypted"}},
		"a common name only":     {made(leaf.key, &x509.Certificate{Subject: pkix.Name{CommonName: "www.shop.example"}}), "www.shop.example", nil, []string{`only the common name "www.shop.example"`}},
		"an address only":        {made(leaf.key, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)}}), "192.0.2.1", nil, nil},
		"an address, not a name": {made(leaf.key, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)}}), "www.shop.example", nil, []string{"not for www.shop.example"}},
		"a short key":            {made(short, &x509.Certificate{DNSNames: []string{"www.shop.example"}}), "www.shop.example", nil, []string{"a key of RSA with 1024 bits"}},
		"for clients only":       {made(leaf.key, &x509.Certificate{DNSNames: []string{"www.shop.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}), "www.shop.example", nil, []string{"is not for servers"}},
		"for servers, too":       {made(leaf.key, &x509.Certificate{DNSNames: []string{"www.shop.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}), "www.shop.example", nil, nil},
		"a broken hash":          {Pair{sha1.pem(), sha1.keyPEM(t)}, "old.example", nil, []string{"is signed by ECDSA-SHA1"}},
		"lines of Windows":       {Pair{strings.ReplaceAll(leaf.pem()+between.pem(), "\n", "\r\n"), strings.ReplaceAll(leaf.keyPEM(t), "\n", "\r\n")}, "www.shop.example", roots, nil},
		"words between":          {Pair{"subject=www\n" + leaf.pem() + "Bag Attributes\n    x: 1\n" + between.pem(), "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + leaf.keyPEM(t)}, "www.shop.example", roots, nil},
		"backwards":              {Pair{between.pem() + leaf.pem(), leaf.keyPEM(t)}, "www.shop.example", roots, []string{"private key does not match"}},
		"an exact is no star":    {Pair{leafOf(root, now.Add(-year), now.Add(year), "www.shop.example").pem(), ""}, "*.shop.example", roots, []string{"as PEM"}},
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

// shortKey is a key of RSA with 1024 bits.
const shortKey = `-----BEGIN RSA PRIVATE KEY-----
MIICXAIBAAKBgQC8mmfqbsRm0UosQNzTvdR8Iw1M/iaz7RFKbPIdGpLsZ3Fwc+wM
WCM1fQx8ss5Hi29aAWEQLGYUQhAVN8jPClH1hvid60wmAY+h7Hfom3utE9H1/pef
/Lgp3bVQnOyM6qgfHxuATrZaDrmQD5aPirfEc4Y+4JL6goKzT/suXI1sGwIDAQAB
AoGBALAIae9cvYG93D4buEEFkDrhOHvhR1xua9IMh5p0gCeYkT/FYs9OwGYfNjV5
aqFKWn8mhGLlHc3Qr1QuggYEeuNWdmQPv47mCWeIWvXsVJcybQroZ35UNX5UXVBV
oon5VUXNuSB4ZSNBP4bdgB9KpM5fseI5NS6xrjLVzewC3/DBAkEA4GKEza3YiOEa
vjNIAhpoL+h5zkNEKn1Tta20rWxjs2y6ys62Tfebo7QdqG9m3UoZhujDLgEetKYA
GVmr3AaN4QJBANctQRqfl9av0aGGPqlqS1GNkNcsDpk3ctKvFiqkJGUgBDSQfsgN
AubfZS6YYDTpv4vmZqeCzhxpx0w9XmxFYXsCQFbRJ4shIW/MkPlYhBr0Nq2aqE5L
Lnu2JAZeYFLdZjIM9rTziAvgquKLFRKPj+A9BGVzd9k767J/q/gi/uDR1GECQDou
CkRgknWB5HSAD8FO9D6AwIDtcKUM0QcWQDAXYZ/WIEz2JNGCcx5pmLoYiSrFaP0y
tt7kB0a3cyOyFC3CNLECQAbioSZJCEsxNZSzQt2Mxzkq8X892uPkRV8tEDD/W63l
4CnNQHV+/U4d6tu9dmAAGbK8M9rQ6DWsiP6m7EWucVE=
-----END RSA PRIVATE KEY-----
`
