// Package acme gets certificates from a CA that speaks ACME (RFC 8555): it keeps
// an account, proves that a name leads to the deployment, and fetches the
// certificate. When to do so is decided elsewhere.
//
// A name is proven by http-01 without anything being placed anywhere: the answer to
// a token is the token and the account's thumbprint, which load balancers know from
// their configuration. A "*." is proven by dns-01, with a command of the operator's
// that sets a record.
package acme

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
)

// LetsEncrypt is the directory of the CA that is asked without another one.
const LetsEncrypt = acme.LetsEncryptURL

// NewKey returns a key for an account, PEM.
func NewKey() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("cannot make a key for ACME: %w", err)
	}
	return encodeKey(key)
}

func encodeKey(key *ecdsa.PrivateKey) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("cannot encode a key: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

func parseKey(text string) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("the account's key is no PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read the account's key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the account's key is %T", parsed)
	}
	return key, nil
}

// Thumbprint returns what load balancers answer to a token, after the token and a
// dot.
func Thumbprint(key string) (string, error) {
	parsed, err := parseKey(key)
	if err != nil {
		return "", err
	}
	return acme.JWKThumbprint(parsed.Public())
}

// Settings say which CA is asked, and how.
type Settings struct {
	Directory string   // URL
	Email     string   // of the operator, whom the CA may warn; "": none
	Root      string   // PEM, that the CA's own server has its certificate from; "": a public one
	Hook      []string // command that sets DNS records for dns-01; nil: there is none
	Dir       string   // folder that the command runs in
	// Servers, host:port, take the records of dns-01 where there is no Hook: name
	// servers of the deployment, which Key admits to.
	Servers []string
	Key     string
}

// Client is an account at a CA.
type Client struct {
	settings Settings
	acme     *acme.Client
}

// Open returns the account with a key. It is made if the CA does not know it.
func Open(ctx context.Context, s Settings, key string) (*Client, error) {
	parsed, err := parseKey(key)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Timeout: 30 * time.Second}
	if s.Root != "" {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(s.Root)) {
			return nil, errors.New("the CA's root holds no certificate")
		}
		client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, Proxy: http.ProxyFromEnvironment}
	}
	c := &Client{settings: s, acme: &acme.Client{Key: parsed, DirectoryURL: s.Directory, HTTPClient: client, UserAgent: "deploy"}}
	account := &acme.Account{}
	if s.Email != "" {
		account.Contact = []string{"mailto:" + s.Email}
	}
	if _, err := c.acme.Register(ctx, account, acme.AcceptTOS); err != nil && !errors.Is(err, acme.ErrAccountAlreadyExists) {
		return nil, fmt.Errorf("cannot get an account at %s: %w", s.Directory, err)
	}
	return c, nil
}

// Obtain returns a new certificate for a name with its key, PEM: its own, then those
// that lead to a root.
func (c *Client) Obtain(ctx context.Context, name string) (certificate, key string, err error) {
	order, err := c.acme.AuthorizeOrder(ctx, acme.DomainIDs(name))
	if err != nil {
		return "", "", fmt.Errorf("cannot order: %w", err)
	}
	for _, url := range order.AuthzURLs {
		if err := c.authorize(ctx, name, url); err != nil {
			return "", "", err
		}
	}
	if order, err = c.acme.WaitOrder(ctx, order.URI); err != nil {
		return "", "", fmt.Errorf("cannot complete the order: %w", err)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("cannot make a key: %w", err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{}, DNSNames: []string{name}}, private)
	if err != nil {
		return "", "", fmt.Errorf("cannot make a request: %w", err)
	}
	// From the order: the answer of a CA that takes its time need not say again where the order is.
	chain, _, err := c.acme.CreateCertFromOrder(ctx, order, request, true)
	if err != nil {
		return "", "", fmt.Errorf("cannot fetch the certificate: %w", err)
	}
	var text strings.Builder
	for _, der := range chain {
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return "", "", err
		}
	}
	key, err = encodeKey(private)
	return text.String(), key, err
}

// authorize proves that a name is ours.
func (c *Client) authorize(ctx context.Context, name, url string) (err error) {
	authorization, err := c.acme.GetAuthorization(ctx, url)
	if err != nil {
		return fmt.Errorf("cannot read the authorization: %w", err)
	}
	if authorization.Status == acme.StatusValid {
		return nil
	}
	wanted := "http-01"
	if authorization.Wildcard || strings.HasPrefix(name, "*.") {
		wanted = "dns-01"
	}
	i := slices.IndexFunc(authorization.Challenges, func(c *acme.Challenge) bool { return c.Type == wanted })
	if i < 0 {
		return fmt.Errorf("the CA does not offer %s", wanted)
	}
	challenge := authorization.Challenges[i]
	if wanted == "dns-01" {
		record, err := c.acme.DNS01ChallengeRecord(challenge.Token)
		if err != nil {
			return err
		}
		host := "_acme-challenge." + strings.TrimPrefix(name, "*.")
		if err := c.set(ctx, "present", host, record); err != nil {
			return err
		}
		defer func() { // also when the CA has refused, or ctx has ended
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), hookPatience)
			defer cancel()
			err = errors.Join(err, c.set(clean, "cleanup", host, record))
		}()
	}
	if _, err := c.acme.Accept(ctx, challenge); err != nil {
		return fmt.Errorf("cannot ask for the proof: %w", err)
	}
	if _, err := c.acme.WaitAuthorization(ctx, url); err != nil {
		var refused *acme.AuthorizationError
		if errors.As(err, &refused) {
			return fmt.Errorf("the CA could not prove by %s that it leads here: %w", wanted, errors.Join(refused.Errors...))
		}
		return fmt.Errorf("cannot wait for the proof: %w", err)
	}
	return nil
}

// hookPatience bounds a hook: a provider's API, and the time until its servers know.
const hookPatience = 5 * time.Minute

// set sets a record or removes it. It returns once all servers of the zone have it.
func (c *Client) set(ctx context.Context, what, name, value string) error {
	switch {
	case len(c.settings.Hook) > 0:
		return c.hook(ctx, what, name, value)
	case len(c.settings.Servers) > 0:
		return c.update(ctx, what, name, value)
	}
	return errors.New("a \"*.\" needs dns-01: set dns_hook in the acme block, or deploy the job dns with an update_key")
}

// hook runs the operator's command: ARGS present|cleanup NAME VALUE.
func (c *Client) hook(ctx context.Context, what, name, value string) error {
	ctx, cancel := context.WithTimeout(ctx, hookPatience)
	defer cancel()
	args := append(slices.Clone(c.settings.Hook[1:]), what, name, value)
	cmd := exec.CommandContext(ctx, c.settings.Hook[0], args...)
	cmd.Dir, cmd.WaitDelay = c.settings.Dir, 5*time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &out, os.Environ()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("dns_hook %s %s: %w: %s", what, name, err, strings.TrimSpace(out.String()))
	}
	return nil
}
