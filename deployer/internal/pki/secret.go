package pki

import (
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/clusterworks/deploy/manifests"
)

// How long the certificates of a manifest's secrets are good.
const (
	caLife          = 10 * 365 * 24 * time.Hour
	certificateLife = 2 * 365 * 24 * time.Hour
)

// passwordAlphabet needs quoting nowhere: URIs, YAML, shells.
const passwordAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

const (
	defaultPasswordLength = 32
	rsaBits               = 2048
)

// NewSecret makes the value of a secret: the attributes that
// manifests.SecretType documents for its type. ca is the value of the ca secret
// that a certificate names, nil for other types.
func NewSecret(random io.Reader, secret *manifests.Secret, ca map[string]string, now time.Time) (map[string]string, error) {
	value, err := newSecret(random, secret, ca, now)
	if err != nil {
		return nil, fmt.Errorf("cannot make secret %q: %w", secret.Name, err)
	}
	return value, nil
}

func newSecret(random io.Reader, secret *manifests.Secret, ca map[string]string, now time.Time) (map[string]string, error) {
	switch secret.Type {
	case manifests.SecretPassword:
		password, err := NewPassword(random, secret.Length)
		if err != nil {
			return nil, err
		}
		return map[string]string{"value": password}, nil
	case manifests.SecretCA:
		return newCASecret(random, secret, now)
	case manifests.SecretCertificate:
		return newCertificateSecret(random, secret, ca, now)
	case manifests.SecretSSH:
		return newSSHSecret(random, secret.Name)
	case manifests.SecretRSA:
		return newRSASecret(random)
	default:
		return nil, fmt.Errorf("type %q is unknown", secret.Type)
	}
}

// NewPassword makes a password of letters and digits, each as likely as any
// other; length 0 is 32.
func NewPassword(random io.Reader, length int) (string, error) {
	if length == 0 {
		length = defaultPasswordLength
	}
	if length < 0 {
		return "", fmt.Errorf("password length %d is negative", length)
	}
	// Bytes from fair on would favour the first letters.
	const fair = 256 - 256%len(passwordAlphabet)
	password := make([]byte, 0, length)
	buffer := make([]byte, 64)
	for len(password) < length {
		if _, err := io.ReadFull(random, buffer); err != nil {
			return "", fmt.Errorf("cannot read randomness for a password: %w", err)
		}
		for _, b := range buffer {
			if int(b) < fair && len(password) < length {
				password = append(password, passwordAlphabet[int(b)%len(passwordAlphabet)])
			}
		}
	}
	return string(password), nil
}

func newCASecret(random io.Reader, secret *manifests.Secret, now time.Time) (map[string]string, error) {
	ca, err := NewCA(random, commonName(secret), now, caLife)
	if err != nil {
		return nil, err
	}
	pair, err := ca.Pair()
	if err != nil {
		return nil, err
	}
	return map[string]string{"certificate": string(pair.Certificate), "private_key": string(pair.PrivateKey)}, nil
}

// newCertificateSecret makes a certificate for servers and clients alike: a
// manifest does not say which. Names that are addresses become such.
func newCertificateSecret(random io.Reader, secret *manifests.Secret, caValue map[string]string, now time.Time) (map[string]string, error) {
	ca, err := ParseCA(Pair{Certificate: []byte(caValue["certificate"]), PrivateKey: []byte(caValue["private_key"])})
	if err != nil {
		return nil, fmt.Errorf("ca secret %q: %w", secret.CA, err)
	}
	template, err := newTemplate(random, commonName(secret), now, certificateLife)
	if err != nil {
		return nil, err
	}
	for _, name := range secret.Names {
		if address, err := netip.ParseAddr(name); err == nil {
			template.IPAddresses = append(template.IPAddresses, address.AsSlice())
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	pair, err := ca.issuePair(random, template)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		"certificate": string(pair.Certificate),
		"private_key": string(pair.PrivateKey),
		"ca":          caValue["certificate"],
	}, nil
}

func commonName(secret *manifests.Secret) string {
	if secret.CommonName != "" {
		return secret.CommonName
	}
	return secret.Name
}

// newSSHSecret makes an Ed25519 key: an authorized_keys line and OpenSSH PEM.
func newSSHSecret(random io.Reader, comment string) (map[string]string, error) {
	public, private, err := ed25519.GenerateKey(random)
	if err != nil {
		return nil, fmt.Errorf("cannot make an Ed25519 key: %w", err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("cannot encode an SSH public key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, fmt.Errorf("cannot encode an SSH private key: %w", err)
	}
	return map[string]string{
		"public_key":  strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " " + comment,
		"private_key": string(pem.EncodeToMemory(block)),
	}, nil
}

// newRSASecret makes an RSA key: PKIX and PKCS #8, PEM.
func newRSASecret(random io.Reader) (map[string]string, error) {
	key, err := rsa.GenerateKey(random, rsaBits)
	if err != nil {
		return nil, fmt.Errorf("cannot make an RSA key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("cannot encode an RSA public key: %w", err)
	}
	private, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		"public_key":  string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
		"private_key": string(private),
	}, nil
}
