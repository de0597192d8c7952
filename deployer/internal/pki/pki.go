// Package pki makes the deployment's keys: its CA, the certificates of the bus,
// its agents and its deployer, and the values of a manifest's secrets. It is
// pure: clock and random source come in, values go out, nothing is kept.
//
// The random source gives passwords and serial numbers. Keys come from the
// operating system whatever is passed in: since Go 1.26 crypto's key generators
// ignore their source.
package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"time"
)

// backdate says how far a VM's clock may be behind the deployer's, as far as the
// certificate lives so long.
const backdate = 2 * time.Hour // a whole hour, as by a wrong time zone, and some

// Pair is a certificate with its key, both PEM; the key is PKCS #8.
type Pair struct {
	Certificate []byte
	PrivateKey  []byte
}

// CA signs certificates.
type CA struct {
	Certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewCA makes a self-signed CA, ECDSA P-256.
func NewCA(random io.Reader, name string, now time.Time, life time.Duration) (*CA, error) {
	key, err := newKey(random)
	if err != nil {
		return nil, err
	}
	template, err := newTemplate(random, name, now, life)
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.MaxPathLenZero = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(random, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("cannot sign CA %q: %w", name, err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("cannot read CA %q just signed: %w", name, err)
	}
	return &CA{Certificate: certificate, key: key}, nil
}

// ParseCA is the inverse of CA.Pair.
func ParseCA(pair Pair) (*CA, error) {
	certificate, err := ParseCertificate(pair.Certificate)
	if err != nil {
		return nil, fmt.Errorf("cannot read CA: %w", err)
	}
	if !certificate.IsCA {
		return nil, fmt.Errorf("certificate %q is not a CA's", certificate.Subject.CommonName)
	}
	der, err := decode(pair.PrivateKey, "PRIVATE KEY")
	if err != nil {
		return nil, fmt.Errorf("cannot read the key of CA %q: %w", certificate.Subject.CommonName, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("cannot read the key of CA %q: %w", certificate.Subject.CommonName, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the key of CA %q is %T, want ECDSA", certificate.Subject.CommonName, parsed)
	}
	if !key.PublicKey.Equal(certificate.PublicKey) {
		return nil, fmt.Errorf("the key given for CA %q belongs to another certificate", certificate.Subject.CommonName)
	}
	return &CA{Certificate: certificate, key: key}, nil
}

// Pair encodes the CA for storage.
func (ca *CA) Pair() (Pair, error) {
	return encodePair(ca.Certificate.Raw, ca.key)
}

// IssueServer makes a certificate with a fresh key for a server reached under
// these DNS names and addresses, at least one. The server may show it to others as a
// client, too. name is for people.
func (ca *CA) IssueServer(random io.Reader, name string, names []string, addresses []netip.Addr, now time.Time, life time.Duration) (Pair, error) {
	if len(names)+len(addresses) == 0 {
		return Pair{}, fmt.Errorf("cannot issue server certificate %q: neither name nor address", name)
	}
	template, err := newTemplate(random, name, now, life)
	if err != nil {
		return Pair{}, err
	}
	template.DNSNames = names
	for _, address := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.IP(address.AsSlice()))
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	return ca.issuePair(random, template)
}

// IssueClient makes a certificate for a public key that its owner made (PKIX
// DER); identity is its only URI SAN (api.AgentIdentity). The result is PEM.
func (ca *CA) IssueClient(random io.Reader, identity string, publicKey []byte, now time.Time, life time.Duration) ([]byte, error) {
	key, err := x509.ParsePKIXPublicKey(publicKey)
	if err != nil {
		return nil, fmt.Errorf("cannot read the public key of %s: %w", identity, err)
	}
	template, err := newClientTemplate(random, identity, now, life)
	if err != nil {
		return nil, err
	}
	der, err := ca.sign(random, template, key)
	if err != nil {
		return nil, err
	}
	return encodeCertificate(der), nil
}

// IssueClientPair is IssueClient with a fresh key.
func (ca *CA) IssueClientPair(random io.Reader, identity string, now time.Time, life time.Duration) (Pair, error) {
	template, err := newClientTemplate(random, identity, now, life)
	if err != nil {
		return Pair{}, err
	}
	return ca.issuePair(random, template)
}

// NeedsRenewal says whether less than a third of the certificate's life is left
// (or it is not valid yet).
func NeedsRenewal(certificatePEM []byte, now time.Time) (bool, error) {
	certificate, err := ParseCertificate(certificatePEM)
	if err != nil {
		return false, err
	}
	life := certificate.NotAfter.Sub(certificate.NotBefore)
	return now.Before(certificate.NotBefore) || certificate.NotAfter.Sub(now) < life/3, nil
}

// SignedBy tells whether the certificate is from this CA, by the names and keys
// that it says. The signature itself is not verified: these are certificates of
// our own, of which there may be thousands, and whoever relies on them does.
func SignedBy(certificatePEM []byte, ca *CA) bool {
	certificate, err := ParseCertificate(certificatePEM)
	return err == nil && len(certificate.AuthorityKeyId) > 0 &&
		bytes.Equal(certificate.RawIssuer, ca.Certificate.RawSubject) && bytes.Equal(certificate.AuthorityKeyId, ca.Certificate.SubjectKeyId)
}

// ParseCertificate reads the first certificate of a PEM text.
func ParseCertificate(text []byte) (*x509.Certificate, error) {
	der, err := decode(text, "CERTIFICATE")
	if err != nil {
		return nil, fmt.Errorf("cannot read certificate: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("cannot read certificate: %w", err)
	}
	return certificate, nil
}

func newClientTemplate(random io.Reader, identity string, now time.Time, life time.Duration) (*x509.Certificate, error) {
	uri, err := url.Parse(identity)
	if err != nil {
		return nil, fmt.Errorf("cannot read identity: %w", err)
	}
	if uri.Scheme == "" || uri.Host == "" {
		return nil, fmt.Errorf("identity %q is not a URI with scheme and host", identity)
	}
	template, err := newTemplate(random, identity, now, life)
	if err != nil {
		return nil, err
	}
	template.URIs = []*url.URL{uri}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return template, nil
}

// newTemplate returns what all certificates have in common. life counts from now.
func newTemplate(random io.Reader, name string, now time.Time, life time.Duration) (*x509.Certificate, error) {
	if life <= 0 {
		return nil, fmt.Errorf("cannot issue certificate %q for %v", name, life)
	}
	// 20 octets at the most, positive (RFC 5280, 4.1.2.2).
	serial := make([]byte, 16)
	if _, err := io.ReadFull(random, serial); err != nil {
		return nil, fmt.Errorf("cannot read randomness for a serial number: %w", err)
	}
	serial[0] = serial[0]&0x7f | 0x40
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-min(backdate, life)), // a third of it all is what renewal goes by
		NotAfter:     now.Add(life),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}, nil
}

func (ca *CA) issuePair(random io.Reader, template *x509.Certificate) (Pair, error) {
	key, err := newKey(random)
	if err != nil {
		return Pair{}, err
	}
	der, err := ca.sign(random, template, key.Public())
	if err != nil {
		return Pair{}, err
	}
	return encodePair(der, key)
}

// sign cuts the certificate's life to the CA's own: no verifier would accept
// the rest.
func (ca *CA) sign(random io.Reader, template *x509.Certificate, key crypto.PublicKey) ([]byte, error) {
	if end := ca.Certificate.NotAfter; template.NotAfter.After(end) {
		template.NotAfter = end
	}
	if start := ca.Certificate.NotBefore; template.NotBefore.Before(start) {
		template.NotBefore = start
	}
	if !template.NotBefore.Before(template.NotAfter) {
		return nil, fmt.Errorf("cannot issue certificate %q: CA %q is not valid now (until %s)",
			template.Subject.CommonName, ca.Certificate.Subject.CommonName, ca.Certificate.NotAfter.Format(time.RFC3339))
	}
	der, err := x509.CreateCertificate(random, template, ca.Certificate, key, ca.key)
	if err != nil {
		return nil, fmt.Errorf("cannot sign certificate %q: %w", template.Subject.CommonName, err)
	}
	return der, nil
}

func newKey(random io.Reader) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, fmt.Errorf("cannot make an ECDSA key: %w", err)
	}
	return key, nil
}

func encodePair(der []byte, key crypto.PrivateKey) (Pair, error) {
	private, err := encodeKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{Certificate: encodeCertificate(der), PrivateKey: private}, nil
}

func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot encode a private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// decode finds the first PEM block, which must be of this kind.
func decode(text []byte, kind string) ([]byte, error) {
	block, _ := pem.Decode(bytes.TrimSpace(text))
	if block == nil {
		return nil, errors.New("no PEM block found")
	}
	if block.Type != kind {
		return nil, fmt.Errorf("PEM block is %q, want %q", block.Type, kind)
	}
	return block.Bytes, nil
}
