package uaa

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"time"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/sqldb"
	"github.com/clusterworks/deploy/jobs/uaa/internal/keyring"
)

// Config is the user component's file.
type Config struct {
	component.Config `yaml:",inline"`
	// URL is the place where browsers and clients find the component, without a path: the issuer
	// of all tokens. Its host is registered with the routers.
	URL  string `yaml:"url"`
	Port int    `yaml:"port"`
	// InternalPort is for the cloud controllers: with internal_tls over TLS, else in
	// plain text if InternalPlaintext allows that.
	InternalPort      int  `yaml:"internal_port"`
	InternalPlaintext bool `yaml:"internal_plaintext"`
	// ControllerSecret holds what the cloud controllers prove themselves with.
	ControllerSecret string `yaml:"controller_secret"`
	// Secret encrypts the signing keys in the database, among others.
	Secret        string         `yaml:"secret"`
	TrustedFronts []netip.Prefix `yaml:"trusted_fronts"`
	Database      sqldb.Config   `yaml:"database"`
	// Clients by their ids, beside vmc.
	Clients map[string]Client `yaml:"clients"`
	// Lives of what is handed out.
	AccessToken  time.Duration `yaml:"access_token"`
	RefreshToken time.Duration `yaml:"refresh_token"`
	// RotateKeys is the age of a signing key at which the next one signs; a higher
	// KeyEpoch has it sign at once.
	RotateKeys time.Duration `yaml:"rotate_keys"`
	KeyEpoch   int64         `yaml:"key_epoch"`
	// PeerKeepalive and DrainTimeout are those of component.Server.
	PeerKeepalive time.Duration `yaml:"peer_keepalive"`
	DrainTimeout  time.Duration `yaml:"drain_timeout"`
}

// Client is a program that asks for tokens.
type Client struct {
	// Secret holds what it proves itself with; "": it is public, such as a program on its
	// user's machine, and must use PKCE.
	Secret       string   `yaml:"secret"`
	RedirectURIs []string `yaml:"redirect_uris"`
	Grants       []string `yaml:"grants"`
	Scopes       []string `yaml:"scopes"`
}

// controllerScope holds what the cloud controllers want of a token.
const controllerScope = "cloud_controller"

// vmcClient is the client that is there always. Its redirect URI is of the user's own
// machine, with any port.
const vmcClient = "vmc"

func builtinClients() map[string]Client {
	return map[string]Client{vmcClient: {
		RedirectURIs: []string{"http://127.0.0.1/callback"},
		Grants:       []string{grantPassword, grantCode, grantRefresh},
		Scopes:       []string{"openid", "email", "offline_access", controllerScope},
	}}
}

// The grants of a client.
const (
	grantPassword    = "password"
	grantCode        = "authorization_code"
	grantRefresh     = "refresh_token"
	grantCredentials = "client_credentials"
)

// accessTokenMost is the longest life of an access token: it cannot be taken back
// everywhere before.
const accessTokenMost = 24 * time.Hour

func load(file string) (Config, map[string]any, error) {
	cfg := Config{
		Port: 9107, InternalPort: 9108, AccessToken: 10 * time.Minute, RefreshToken: 7 * 24 * time.Hour,
		RotateKeys: 30 * 24 * time.Hour, PeerKeepalive: 3 * time.Second, DrainTimeout: 15 * time.Second,
	}
	raw, err := component.Load(file, &cfg)
	if err != nil {
		return Config{}, nil, err
	}
	for _, secret := range []string{"clients", "secret", "controller_secret", "database"} {
		delete(raw, secret) // varz shows the rest
	}
	if err := cfg.check(); err != nil {
		return Config{}, nil, fmt.Errorf("cannot use the configuration %s: %w", file, err)
	}
	all := builtinClients()
	maps.Copy(all, cfg.Clients)
	cfg.Clients = all
	return cfg, raw, nil
}

func (c Config) check() error {
	at, err := url.Parse(c.URL)
	switch {
	case err != nil || at.Scheme != "https" && at.Scheme != "http" || at.Hostname() == "" || at.User != nil || at.Path != "" || at.RawQuery != "" || at.Fragment != "":
		return errors.New("url must be where users find the component, as \"https://uaa.example.com\", without a path")
	case len(c.Secret) < 16 || len(c.ControllerSecret) < 16:
		return errors.New("secret and controller_secret must have at least 16 characters")
	case !c.Secure() && !c.InternalPlaintext:
		return errors.New("there is no internal_tls: the cloud controllers would send passwords in plain text")
	case c.AccessToken < time.Second || c.AccessToken > accessTokenMost:
		return fmt.Errorf("access_token must be within 1s and %v", accessTokenMost)
	case c.RefreshToken < c.AccessToken:
		return errors.New("refresh_token must not be shorter than access_token")
	case c.RotateKeys < time.Minute:
		return errors.New("rotate_keys must be at least 1m")
	}
	if _, err := c.Database.URI(); err != nil {
		return err
	}
	var problems []error
	for _, id := range slices.Sorted(maps.Keys(c.Clients)) {
		if err := c.Clients[id].check(id); err != nil {
			problems = append(problems, fmt.Errorf("client %s: %w", id, err))
		}
	}
	return errors.Join(problems...)
}

var clientName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,63}$`)

func (c Client) check(id string) error {
	switch {
	case !clientName.MatchString(id):
		return errors.New("its id must be lower-case letters, digits, - and _")
	case id == vmcClient:
		return errors.New("vmc is there always; choose another id")
	case c.Secret != "" && len(c.Secret) < 16:
		return errors.New("its secret must have at least 16 characters; none makes it a public client")
	case len(c.Grants) == 0:
		return errors.New("it has no grants")
	case slices.Contains(c.Grants, grantCode) != (len(c.RedirectURIs) > 0):
		return errors.New("redirect_uris and the grant authorization_code belong together")
	}
	for _, grant := range c.Grants {
		if !slices.Contains([]string{grantPassword, grantCode, grantRefresh, grantCredentials}, grant) {
			return fmt.Errorf("its grant %q is none of password, authorization_code, refresh_token, client_credentials", grant)
		}
		if grant == grantCredentials && c.Secret == "" {
			return errors.New("client_credentials need a secret")
		}
		if grant == grantPassword && c.Secret == "" {
			return errors.New("the grant password is for clients with a secret, and vmc")
		}
	}
	for _, text := range c.RedirectURIs {
		u, err := url.Parse(text)
		if err != nil || u.Scheme == "" || u.Host == "" || u.User != nil || u.Fragment != "" {
			return fmt.Errorf("its redirect URI %q has no scheme or host, or has a user or a fragment", text)
		}
		if u.Scheme != "https" && !isLoopback(u) {
			return fmt.Errorf("its redirect URI %q must be https, or http to 127.0.0.1 or [::1]", text)
		}
	}
	return nil
}

// isLoopback reports whether a URI leads to the user's own machine in plain text. A
// name, even localhost, may lead elsewhere.
func isLoopback(u *url.URL) bool {
	address, err := netip.ParseAddr(u.Hostname())
	return u.Scheme == "http" && err == nil && address.IsLoopback()
}

// redirects reports whether a client may have its answer at a URI: it is registered,
// byte for byte; or it is a registered one of the user's own machine with a port, which
// programs there cannot choose before.
func (c Client) redirects(uri string) bool {
	if slices.Contains(c.RedirectURIs, uri) {
		return true
	}
	u, err := url.Parse(uri)
	if err != nil || !isLoopback(u) || u.Port() == "" {
		return false
	}
	port := u.Port()
	u.Host = u.Hostname()
	if address, err := netip.ParseAddr(u.Host); err == nil && address.Is6() {
		u.Host = "[" + u.Host + "]"
	}
	without := u.String()
	u.Host += ":" + port
	// What is written in two ways is not the same, byte for byte.
	return u.String() == uri && slices.Contains(c.RedirectURIs, without)
}

// host returns the name under which routers lead to the component.
func (c Config) host() string {
	u, _ := url.Parse(c.URL) // checked
	return u.Hostname()
}

// https reports whether browsers speak TLS on their way.
func (c Config) https() bool {
	u, _ := url.Parse(c.URL) // checked
	return u.Scheme == "https"
}

// derive returns the secret for one purpose, the same on all instances.
func (c Config) derive(purpose string) string {
	mac := hmac.New(sha256.New, []byte(c.Secret))
	mac.Write([]byte(purpose))
	return hex.EncodeToString(mac.Sum(nil))
}

// frontKey returns what routers show with requests, to be believed about clients.
func (c Config) frontKey() string { return c.derive("routers' key") }

func (c Config) keyRules() keyring.Rules {
	return keyring.Rules{RotateAfter: c.RotateKeys, Epoch: c.KeyEpoch, Longest: accessTokenMost}
}
