package pki

import (
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/clusterworks/deploy/manifests"
)

// CheckSecret tells what is wrong with a value for a secret that was not made
// by NewSecret: a missing attribute, or attributes that do not belong together.
func CheckSecret(secret *manifests.Secret, value map[string]string) error {
	attributes := secret.Type.Attributes()
	for name := range value {
		if !slices.Contains(attributes, name) {
			return fmt.Errorf("a secret of type %s has no attribute %q, only %s", secret.Type, name, strings.Join(attributes, ", "))
		}
	}
	for _, name := range attributes {
		if value[name] == "" {
			return fmt.Errorf("the attribute %s is missing or empty", name)
		}
	}
	switch secret.Type {
	case manifests.SecretCA:
		_, err := ParseCA(Pair{Certificate: []byte(value["certificate"]), PrivateKey: []byte(value["private_key"])})
		return err
	case manifests.SecretCertificate:
		return checkCertificate(value)
	case manifests.SecretSSH:
		return checkSSH(value)
	case manifests.SecretRSA:
		return checkRSA(value)
	}
	return nil
}

func checkCertificate(value map[string]string) error {
	pair, err := tls.X509KeyPair([]byte(value["certificate"]), []byte(value["private_key"]))
	if err != nil {
		return fmt.Errorf("certificate and private_key: %w", err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(value["ca"])) {
		return errors.New("ca holds no certificate")
	}
	for _, der := range pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Errorf("the certificate does not lead to ca: %w", err)
	}
	return nil
}

func checkSSH(value map[string]string) error {
	key, err := ssh.ParsePrivateKey([]byte(value["private_key"]))
	if err != nil {
		return fmt.Errorf("cannot read private_key: %w", err)
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(value["public_key"]))
	if err != nil {
		return fmt.Errorf("cannot read public_key: %w", err)
	}
	if string(public.Marshal()) != string(key.PublicKey().Marshal()) {
		return errors.New("public_key and private_key do not belong together")
	}
	return nil
}

func checkRSA(value map[string]string) error {
	private, err := decode([]byte(value["private_key"]), "PRIVATE KEY")
	if err != nil {
		return fmt.Errorf("cannot read private_key: %w", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(private)
	if err != nil {
		return fmt.Errorf("cannot read private_key: %w", err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return fmt.Errorf("private_key is %T, want RSA", parsed)
	}
	public, err := decode([]byte(value["public_key"]), "PUBLIC KEY")
	if err != nil {
		return fmt.Errorf("cannot read public_key: %w", err)
	}
	other, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		return fmt.Errorf("cannot read public_key: %w", err)
	}
	if !key.PublicKey.Equal(other) {
		return errors.New("public_key and private_key do not belong together")
	}
	return nil
}

// ForClients reports whether a certificate (PEM) may be shown by a client.
func ForClients(text []byte) bool {
	certificate, err := ParseCertificate(text)
	return err == nil && slices.Contains(certificate.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
}
