// Package tlspair says what is wrong with a certificate and its key: whether they
// belong together, are for the names that they are to serve, in time, and lead to
// a root. The deployer asks it before anything changes, the load balancer's check
// on each VM again.
package tlspair

import (
	"bytes"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Pair is a certificate with its key.
type Pair struct {
	Certificate string // PEM: its own, then those that lead to a root
	Key         string // PEM
}

// Chain returns the certificates: the pair's own, then those that lead to a root. It
// is an error if there is none, or if the key is another's.
func (p Pair) Chain() ([]*x509.Certificate, error) {
	if encrypted(p.Key) {
		return nil, errors.New("the private key is encrypted, and nobody is there to type its passphrase; decrypt it with `openssl pkey -in KEY -out DECRYPTED`")
	}
	pair, err := tls.X509KeyPair([]byte(p.Certificate), []byte(p.Key))
	if err != nil {
		return nil, fmt.Errorf("%w; give its certificate and the key that belongs to it, as PEM", err)
	}
	var chain []*x509.Certificate
	for _, der := range pair.Certificate {
		link, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		chain = append(chain, link)
	}
	return chain, nil
}

// encrypted reports whether a key in PEM needs a passphrase.
func encrypted(key string) bool {
	for rest := []byte(key); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return false
		}
		if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
			return true
		}
	}
}

// leastRSA is the shortest key, in bits, that OpenSSL serves with as Debian sets it,
// and that browsers take.
const leastRSA = 2048

// Problems returns all that is wrong with the pair for serving names, host names
// or "*." and a domain each, at that time. Unless roots is nil, the chain must
// also lead to one of them.
func (p Pair) Problems(names []string, roots *x509.CertPool, now time.Time) []error {
	chain, err := p.Chain()
	if err != nil {
		return []error{err}
	}
	var problems []error
	problem := func(format string, a ...any) { problems = append(problems, fmt.Errorf(format, a...)) }
	if len(chain[0].DNSNames)+len(chain[0].IPAddresses) == 0 {
		problem("the certificate has no subject alternative names, only the common name %q, which clients do not look at; have it issued with them", chain[0].Subject.CommonName)
		names = nil
	}
	if uses := chain[0].ExtKeyUsage; len(uses) > 0 && !slices.Contains(uses, x509.ExtKeyUsageServerAuth) && !slices.Contains(uses, x509.ExtKeyUsageAny) {
		problem("the certificate of %q is not for servers, as its extended key usage says, so clients refuse it; have it issued with serverAuth", chain[0].Subject.CommonName)
	}
	for _, name := range names {
		if !Covers(chain[0], name) {
			problem("the certificate is for %s, not for %s; give one that has this name", strings.Join(chain[0].DNSNames, ", "), name)
		}
	}
	for i, link := range chain {
		if now.After(link.NotAfter) {
			problem("the certificate of %q expired at %s; renew it", link.Subject.CommonName, link.NotAfter.Format(time.RFC3339))
		}
		if now.Before(link.NotBefore) {
			problem("the certificate of %q begins at %s; is the clock of this machine right?", link.Subject.CommonName, link.NotBefore.Format(time.RFC3339))
		}
		if key, ok := link.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < leastRSA {
			problem("the certificate of %q has a key of RSA with %d bits, which clients refuse; make one of at least %d", link.Subject.CommonName, key.N.BitLen(), leastRSA)
		}
		if slices.Contains(brokenHashes, link.SignatureAlgorithm) && !bytes.Equal(link.RawIssuer, link.RawSubject) {
			problem("the certificate of %q is signed by %s, which clients refuse; have it issued again", link.Subject.CommonName, link.SignatureAlgorithm)
		}
		if i > 0 {
			if err := chain[i-1].CheckSignatureFrom(link); err != nil {
				problem("the certificate of %q is not signed by the one that follows it, of %q: %w; put them in order, without others", chain[i-1].Subject.CommonName, link.Subject.CommonName, err)
			}
		}
	}
	if last := chain[len(chain)-1]; roots != nil && !rooted(last, roots) {
		problem("the chain is incomplete: it ends with the certificate of %q, which %q has signed, which is not a root that clients trust; add the missing certificates, or name the root that your clients trust", last.Subject.CommonName, last.Issuer.CommonName)
	}
	return problems
}

// brokenHashes are the signatures that clients no longer take; those of roots are not
// looked at.
var brokenHashes = []x509.SignatureAlgorithm{x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1}

// rooted reports whether the last certificate of a chain is a root, or signed by
// one. Whether it is in time is asked elsewhere.
func rooted(last *x509.Certificate, roots *x509.CertPool) bool {
	if bytes.Equal(last.RawIssuer, last.RawSubject) && last.CheckSignature(last.SignatureAlgorithm, last.RawTBSCertificate, last.Signature) == nil {
		return true // whoever trusts it needs nothing else
	}
	_, err := last.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: last.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

// Covers reports whether a certificate is good for a host, or for "*." and a
// domain, for which a browser asks with any label before it.
func Covers(leaf *x509.Certificate, name string) bool {
	if strings.HasPrefix(name, "*.") {
		for _, have := range leaf.DNSNames {
			if strings.EqualFold(have, name) {
				return true
			}
		}
		return false
	}
	return leaf.VerifyHostname(name) == nil
}
