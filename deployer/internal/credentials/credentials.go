// Package credentials makes and keeps what proves who somebody is: the
// manifest's secrets, the deployment's CA, the certificates of jobs, agents and
// the deployer itself, the SSH key. It also tells what the manifest's expressions
// may refer to, of which secrets and certificates are a part.
package credentials

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/clusterworks/deploy/deployer/internal/acme"
	"github.com/clusterworks/deploy/deployer/internal/pki"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// Credentials are those of a session's deployment.
type Credentials struct {
	s       *session.Session
	issuing sync.Mutex // one Issue at a time

	mu       sync.Mutex
	parsedCA *pki.CA       // needed for every agent
	parsedOf state.KeyPair // what parsedCA was read from
}

// Of returns the credentials of a session's deployment.
func Of(s *session.Session) *Credentials { return &Credentials{s: s} }

// Ensure makes, in memory, what the manifest wants and the state does not have.
// It never replaces anything.
func (c *Credentials) Ensure() error {
	secrets := c.s.Secrets
	if len(secrets.DigestKey) == 0 {
		secrets.DigestKey = make([]byte, 32)
		rand.Read(secrets.DigestKey)
	}
	if secrets.CA.Certificate == "" {
		var err error
		if secrets.CA, err = c.newCA(); err != nil {
			return err
		}
	}
	if secrets.SSH.PrivateKey == "" {
		pair, err := pki.NewSecret(rand.Reader, &manifests.Secret{Name: "ssh", Type: manifests.SecretSSH}, nil, c.s.Now)
		if err != nil {
			return fmt.Errorf("cannot make the SSH key: %w", err)
		}
		secrets.SSH = state.SSHKey{PrivateKey: pair["private_key"], PublicKey: pair["public_key"]}
	}
	if err := c.ensureACME(); err != nil {
		return err
	}
	if secrets.Values == nil {
		secrets.Values = map[string]map[string]string{}
	}
	var errs []error
	ensure := func(wanted *manifests.Secret, ca map[string]string) {
		if _, there := secrets.Values[wanted.Name]; there {
			return
		}
		value, err := pki.NewSecret(rand.Reader, wanted, ca, c.s.Now)
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot make secret %q: %w", wanted.Name, err))
			return
		}
		secrets.Values[wanted.Name] = value
	}
	names := slices.Sorted(maps.Keys(c.s.Manifest.Secrets))
	for _, name := range names { // CAs first: they sign the others
		if wanted := c.s.Manifest.Secrets[name]; wanted.Type == manifests.SecretCA {
			ensure(wanted, nil)
		}
	}
	for _, name := range names {
		wanted := c.s.Manifest.Secrets[name]
		ensure(wanted, secrets.Values[wanted.CA])
	}
	return errors.Join(errs...)
}

// ensureACME makes the key of an account where a domain needs one. The CA learns of
// it with the first order.
func (c *Credentials) ensureACME() error {
	secrets := c.s.Secrets
	if secrets.ACME == nil {
		if !slices.ContainsFunc(c.s.Manifest.Domains, func(d *manifests.Domain) bool { return d.TLS.Kind == manifests.TLSACME }) {
			return nil
		}
		key, err := acme.NewKey()
		if err != nil {
			return err
		}
		secrets.ACME = &state.ACME{Key: key}
	}
	if _, err := acme.Thumbprint(secrets.ACME.Key); err != nil {
		return fmt.Errorf("cannot use the account for ACME in %s: %w", c.s.Store.Dir, err)
	}
	return nil
}

func keyPair(p pki.Pair) state.KeyPair {
	return state.KeyPair{Certificate: string(p.Certificate), PrivateKey: string(p.PrivateKey)}
}

// newCA makes an authority for the deployment. Its name differs from that of an
// earlier one.
func (c *Credentials) newCA() (state.KeyPair, error) {
	name := fmt.Sprintf("deploy %s, %s", c.s.Manifest.Deployment.Name, c.s.Now.UTC().Format(time.RFC3339))
	ca, err := pki.NewCA(rand.Reader, name, c.s.Now, c.s.Manifest.PKI.CALife)
	if err != nil {
		return state.KeyPair{}, fmt.Errorf("cannot make the deployment's CA: %w", err)
	}
	pair, err := ca.Pair()
	return keyPair(pair), err
}

// Trusted returns the CAs that everybody in the deployment trusts now, PEM: both
// the old and the new one during a rotation. The order stays when the new
// one starts to sign, so that this changes no file.
func (c *Credentials) Trusted() string {
	text := c.s.Secrets.OldCA + c.s.Secrets.CA.Certificate
	if c.s.Secrets.NextCA != nil {
		text += c.s.Secrets.NextCA.Certificate
	}
	return text
}

// CA returns the authority that signs.
func (c *Credentials) CA() (*pki.CA, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pair := c.s.Secrets.CA
	if c.parsedCA != nil && c.parsedOf == pair {
		return c.parsedCA, nil
	}
	ca, err := pki.ParseCA(pki.Pair{Certificate: []byte(pair.Certificate), PrivateKey: []byte(pair.PrivateKey)})
	if err != nil {
		return nil, fmt.Errorf("cannot use the deployment's CA in %s: %w", c.s.Store.Dir, err)
	}
	c.parsedCA, c.parsedOf = ca, pair
	return ca, nil
}

// SSHPublicKey returns the SSH public key in authorized_keys form, checked.
func (c *Credentials) SSHPublicKey() (string, error) {
	key := c.s.Secrets.SSH.PublicKey
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key)); err != nil {
		return "", fmt.Errorf("cannot use the deployment's SSH key in %s: %w", c.s.Store.Dir, err)
	}
	return strings.TrimSpace(key), nil
}
