// Package config reads the controller's file: the original's keys and our own.
package config

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Config is the controller's file, by subject.
type Config struct {
	component.Config `yaml:",inline"`
	Serving          `yaml:",inline"`
	Info             `yaml:",inline"`
	Accounts         `yaml:",inline"`
	Apps             `yaml:",inline"`
	Components       `yaml:",inline"`
	Databases        `yaml:",inline"`
}

// Live is the configuration of a running controller.
type Live struct {
	Start Config // as it was when the controller started; most keys need a restart
	now   atomic.Pointer[Config]
}

// NewLive returns the configuration of a controller that starts.
func NewLive(c Config) *Live {
	l := &Live{Start: c}
	l.Set(c)
	return l
}

// Set takes what may change while requests are served.
func (l *Live) Set(c Config) { l.now.Store(&c) }

// Now returns the configuration as it was last read.
func (l *Live) Now() *Config { return l.now.Load() }

// Serving says where requests come in.
type Serving struct {
	// ExternalURI is the API's host name, api.<domain>; apps get names in the same
	// domain.
	ExternalURI  string `yaml:"external_uri"`
	ExternalPort int    `yaml:"external_port"`
	// InternalPort is the port on which other components ask for packages, droplets, the bulk
	// API and copies: nothing that users need, and not behind the routers.
	InternalPort int `yaml:"internal_port"`
	// InternalTLSPort is the same over TLS, for components with a certificate of the
	// deployment's CA; there is none without internal_tls. InternalPlaintext false
	// leaves InternalPort closed.
	InternalTLSPort   int    `yaml:"internal_tls_port"`
	InternalPlaintext bool   `yaml:"internal_plaintext"`
	Inet              string `yaml:"inet"` // address to listen on; "": the own address
	// TrustedFronts are networks of routers that do not show FrontKey, whose word on
	// a request's client counts all the same: those of others.
	TrustedFronts []netip.Prefix `yaml:"trusted_fronts"`
	// Peers are the other controllers, host:port of their InternalPort. Packages and droplets are copied
	// to them; none where Directories are shared.
	Peers []string `yaml:"peers"`
	// PeerKeepalive and DrainTimeout are those of component.Server. A drain waits
	// for stagings in progress.
	PeerKeepalive time.Duration `yaml:"peer_keepalive"`
	DrainTimeout  time.Duration `yaml:"drain_timeout"`
}

// Info describes what /info says.
type Info struct {
	Name        string `yaml:"name"`
	Build       int    `yaml:"build"`
	Version     string `yaml:"version"`
	Support     string `yaml:"support_address"`
	Description string `yaml:"description"`
}

// Accounts says who may have an account and what an account may have.
type Accounts struct {
	// AllowRegistration lets anyone register; without it admins make the accounts.
	AllowRegistration bool `yaml:"allow_registration"`
	// MinPasswordLength is in bytes. Passwords from before it was raised go on.
	MinPasswordLength int      `yaml:"min_password_length"`
	Admins            []string `yaml:"admins"` // e-mail addresses
	// AdminPassword is the password with which the admins' accounts are made at the
	// start if they are missing. Nobody can register as an admin.
	AdminPassword   string   `yaml:"admin_password"`
	DefaultCapacity Capacity `yaml:"default_account_capacity"`
	AdminCapacity   Capacity `yaml:"admin_account_capacity"`
	Keys            Keys     `yaml:"keys"`
	// AccountsIn says where the passwords of accounts are: "controller", or "uaa", the
	// user component, at UAA. If they are elsewhere at the start, they move.
	AccountsIn string `yaml:"accounts_in"`
	UAA        UAA    `yaml:"uaa"`
}

// UAA says where the user component is.
type UAA struct {
	URL       string   `yaml:"url"`       // as users find it: the issuer of its tokens
	Addresses []string `yaml:"addresses"` // host:port for us, of each instance
	Secret    string   `yaml:"secret"`    // what it knows us by
}

// Known reports whether there is a user component.
func (u UAA) Known() bool { return len(u.Addresses) > 0 }

// Apps says what apps may be and where their files are kept.
type Apps struct {
	AllowDebug bool      `yaml:"allow_debug"`
	AppURIs    AppURIs   `yaml:"app_uris"`
	AppLimits  AppLimits `yaml:"app_limits"`
	// ReservedHosts are names that no app gets: whole ones, or first labels within
	// the apps' domain.
	ReservedHosts []string `yaml:"reserved_hosts"`
	// Domains are those that the load balancers serve, beside all below the API's.
	Domains     []Domain    `yaml:"domains"`
	Directories Directories `yaml:"directories"`
	// MaxDropletSizeMB bounds an app's files when unpacked, and its droplet.
	MaxDropletSizeMB int `yaml:"max_droplet_size_mb"`
	// ResourcePoolMB bounds the files kept for resource matching.
	ResourcePoolMB int `yaml:"resource_pool_mb"`
	// RuntimesFile and Directories.StagingManifests replace the usual runtimes and
	// frameworks.
	RuntimesFile string `yaml:"runtimes_file"`
}

// MaxResources bounds the text that lists resources.
const MaxResources = 32 << 20

// MaxUpload returns the size of the largest body: files, packed or not, and what
// is around them.
func (a Apps) MaxUpload() int64 { return int64(a.MaxDropletSizeMB)<<20 + MaxResources + 1<<20 }

// Components says how the other components are spoken to.
type Components struct {
	Staging             Staging                   `yaml:"staging"`
	BulkAPI             BulkAPI                   `yaml:"bulk_api"`
	BuiltinServices     map[string]BuiltinService `yaml:"builtin_services"`
	NewInitialPlacement bool                      `yaml:"new_initial_placement"`
	CCPartition         string                    `yaml:"cc_partition"`
	Timeouts            Timeouts                  `yaml:"timeouts"`
	Update              Update                    `yaml:"update"`
}

// Ways of an update.
const (
	Rolling = "rolling" // a new instance beside each old one, which stops when the new one serves
	Now     = "now"     // the original's: all are stopped, then started
)

// Update says how apps get from one version to the next.
type Update struct {
	Strategy string `yaml:"strategy"` // of requests that do not say
	// MaxInFlight is the number of instances of an app that change at once.
	MaxInFlight int `yaml:"max_in_flight"`
	// MinHealthyTime is the time that a new instance must run and pass its check before it
	// gets requests.
	MinHealthyTime time.Duration `yaml:"min_healthy_time"`
	// WatchTime is the time that a version is watched after its update: one that crashes
	// then is taken back. 0: it is not.
	WatchTime time.Duration `yaml:"watch_time"`
	// RebalanceEvery is the time between two apps whose instances are spread over the
	// DEAs anew. 0: none is.
	RebalanceEvery time.Duration `yaml:"rebalance_every"`
}

// AppURIs says which host names apps may have.
type AppURIs struct {
	AllowExternal  bool     `yaml:"allow_external"`  // outside of the controller's domain
	ReservedList   []string `yaml:"reserved_list"`   // first labels that nobody gets
	ReservedLength int      `yaml:"reserved_length"` // first labels up to this length nobody gets
}

// Domain is a host name, or "*." and all names below a domain, that the load
// balancers serve.
type Domain struct {
	Name  string   `yaml:"name"`
	Apps  bool     `yaml:"apps"`  // apps may be mapped to it
	Users []string `yaml:"users"` // only those of these accounts, and admins'; empty: everybody's
}

// For reports whether an account may map its apps to the domain.
func (d Domain) For(email string, admin bool) bool {
	return d.Apps && (admin || len(d.Users) == 0 || slices.Contains(d.Users, email))
}

// DomainOf returns the most specific of the domains that serve a host name in
// lower case: its own, or else the longest "*." that it is below.
func (a Apps) DomainOf(host string) (Domain, bool) {
	var best Domain
	for _, d := range a.Domains {
		if d.Name == host {
			return d, true
		}
		if below, ok := strings.CutPrefix(d.Name, "*"); ok && len(host) > len(below) && strings.HasSuffix(host, below) && len(d.Name) > len(best.Name) {
			best = d
		}
	}
	return best, best.Name != ""
}

// ClaimedIn returns the domain in which an account claims a host name in lower
// case: names below that domain which are above or below each other belong to one
// account. It is that of the manifest's blocks, else the apps', else what the public
// can register names in, such as "co.uk". A name that a block names itself is
// claimed in nothing but itself: the operator says whose it is.
func (c *Config) ClaimedIn(host string) string {
	if d, served := c.DomainOf(host); served {
		return strings.TrimPrefix(d.Name, "*.")
	}
	if domain := c.Domain(); strings.HasSuffix(host, "."+domain) {
		return domain
	}
	public, _ := publicsuffix.PublicSuffix(host)
	return public
}

// Capacity describes what an account may have.
type Capacity struct {
	Memory   int `yaml:"memory" json:"memory"` // MB, of all instances of started apps
	AppURIs  int `yaml:"app_uris" json:"app_uris"`
	Services int `yaml:"services" json:"services"`
	Apps     int `yaml:"apps" json:"apps"`
	// Instances are those of all started apps together.
	Instances int `yaml:"instances" json:"instances"`
	// StartsPerMinute bounds the instances that are started in a minute: by a start, an
	// update or a change of their number, not after a crash.
	StartsPerMinute int `yaml:"starts_per_minute" json:"starts_per_minute"`
}

// AppLimits bound one app, whatever its account may have.
type AppLimits struct {
	Instances int `yaml:"instances"`
	MemoryMin int `yaml:"memory_min"` // MB, of one instance
	Disk      int `yaml:"disk"`       // MB, of one instance
	FDs       int `yaml:"fds"`        // open files of one instance
}

// Directories are folders. A relative path is one from the folder that the
// controller is started in, as is a database file's.
type Directories struct {
	Droplets         string `yaml:"droplets"`
	Resources        string `yaml:"resources"`
	Tmpdir           string `yaml:"tmpdir"`
	StagingManifests string `yaml:"staging_manifests"`
}

// Keys are secrets that all controllers share.
type Keys struct {
	Token           string `yaml:"token"`
	TokenExpiration int    `yaml:"token_expiration"` // seconds
}

// Staging says how stagers are asked.
type Staging struct {
	Queue             string `yaml:"queue"`
	MaxStagingRuntime int    `yaml:"max_staging_runtime"` // seconds
}

// BulkAPI is for the health manager, which asks for the credentials on the bus.
type BulkAPI struct {
	Auth Credentials `yaml:"auth"`
}

// Credentials are a user and a password.
type Credentials struct {
	User     string `yaml:"user"`
	Password string `yaml:"password"`
}

// BuiltinService is a service whose gateway may offer it.
type BuiltinService struct {
	Token string `yaml:"token"`
}

// Timeouts says how long answers on the bus are waited for.
type Timeouts struct {
	Discover time.Duration `yaml:"discover"` // the first DEA
	Find     time.Duration `yaml:"find"`     // the instances of an app
	Status   time.Duration `yaml:"status"`   // the health manager, of one app
	Health   time.Duration `yaml:"health"`   // the health manager, of many
	Gateway  time.Duration `yaml:"gateway"`  // a service gateway, unless its offering says
	// TunnelIdle is after how long a connection of a user to a service is ended on which
	// nothing is sent.
	TunnelIdle time.Duration `yaml:"tunnel_idle"`
	// Standing is the interval at which the account of an open session or tunnel is looked at: both
	// end with the account, its password, the app or the service.
	Standing time.Duration `yaml:"standing"`
}

// Defaults returns the values of keys that a file does not set: the original's
// where it had them.
func Defaults() Config {
	return Config{
		Serving: Serving{ExternalPort: 9022, InternalPort: 9023, InternalTLSPort: 9024, InternalPlaintext: true, PeerKeepalive: 3 * time.Second, DrainTimeout: 35 * time.Second},
		Info:    Info{Name: "vcap", Build: 2222, Version: "0.999", Description: "Cloud Foundry of the first generation"},
		Accounts: Accounts{
			AccountsIn:        "controller",
			MinPasswordLength: 8,
			DefaultCapacity:   Capacity{Memory: 2048, AppURIs: 4, Services: 16, Apps: 20, Instances: 200, StartsPerMinute: 300},
			AdminCapacity:     Capacity{Memory: 32768, AppURIs: 16, Services: 32, Apps: 200, Instances: 2000, StartsPerMinute: 3000},
			Keys:              Keys{TokenExpiration: 604800},
		},
		Apps: Apps{MaxDropletSizeMB: 512, ResourcePoolMB: 2048, AppLimits: AppLimits{Instances: 100, MemoryMin: 16, Disk: 2048, FDs: 4096}},
		Components: Components{
			Staging:     Staging{Queue: wire.SubjectStaging, MaxStagingRuntime: int(wire.StagingTimeout / time.Second)},
			CCPartition: wire.DefaultPartition,
			Update:      Update{Strategy: Rolling, MaxInFlight: 3, MinHealthyTime: 6 * time.Second, WatchTime: time.Minute},
			Timeouts:    Timeouts{Discover: 2 * time.Second, Find: 2 * time.Second, Status: 2 * time.Second, Health: time.Second, Gateway: 10 * time.Second, TunnelIdle: 10 * time.Minute, Standing: 10 * time.Second},
		},
		Databases: Databases{RailsEnvironment: "production"},
	}
}

// Load reads a configuration file. raw is the file as it stands.
func Load(file string) (cfg Config, raw map[string]any, err error) {
	cfg = Defaults()
	if raw, err = component.Load(file, &cfg); err != nil {
		return Config{}, nil, err
	}
	if err := cfg.complete(); err != nil {
		return Config{}, nil, fmt.Errorf("cannot use the configuration %s: %w", file, err)
	}
	return cfg, raw, nil
}

// complete checks the values and fills in those that follow from others.
func (c *Config) complete() error {
	c.ExternalURI = strings.ToLower(c.ExternalURI)
	d := c.Directories
	switch {
	case !ValidHost(c.ExternalURI) || c.Domain() == "":
		return errors.New("external_uri must be the API's host name, as \"api.example.com\"")
	case c.ExternalPort < 0 || c.ExternalPort > 65535 || c.InternalPort < 0 || c.InternalPort > 65535:
		return fmt.Errorf("external_port %d or internal_port %d is not within 0 and 65535", c.ExternalPort, c.InternalPort)
	case c.ExternalPort == c.InternalPort && c.ExternalPort != 0:
		return fmt.Errorf("external_port and internal_port are both %d: choose two", c.ExternalPort)
	case c.InternalTLSPort < 0 || c.InternalTLSPort > 65535 || c.InternalTLSPort != 0 && (c.InternalTLSPort == c.InternalPort || c.InternalTLSPort == c.ExternalPort):
		return fmt.Errorf("internal_tls_port %d is not within 0 and 65535, or another port too", c.InternalTLSPort)
	case !c.InternalPlaintext && !c.Secure():
		return errors.New("internal_plaintext is false, but there is no internal_tls: components could not reach the controller")
	case len(c.Keys.Token) < 8:
		return errors.New("keys.token must be a secret of at least 8 characters; all controllers have the same")
	case c.Keys.TokenExpiration <= 0 || c.Staging.MaxStagingRuntime <= 0:
		return errors.New("keys.token_expiration and staging.max_staging_runtime must be positive numbers of seconds")
	case d.Droplets == "" || d.Resources == "":
		return errors.New("directories.droplets and directories.resources are missing: where apps are kept")
	case c.MaxDropletSizeMB < 1 || c.ResourcePoolMB < 0:
		return errors.New("max_droplet_size_mb must be positive, resource_pool_mb not negative")
	case c.AppLimits.Instances < 1 || c.AppLimits.MemoryMin < 1 || c.AppLimits.Disk < 1 || c.AppLimits.FDs < 1:
		return errors.New("app_limits must be positive numbers")
	case c.AccountsIn != "controller" && c.AccountsIn != "uaa":
		return fmt.Errorf("accounts_in %q is neither \"controller\" nor \"uaa\"", c.AccountsIn)
	case c.AccountsIn == "uaa" && !c.UAA.Known():
		return errors.New("accounts_in is \"uaa\", but uaa.addresses are missing")
	case c.UAA.Known() && (c.UAA.URL == "" || len(c.UAA.Secret) < 16):
		return errors.New("uaa needs its url and a secret of at least 16 characters")
	case c.MinPasswordLength < 1:
		return errors.New("min_password_length must be positive")
	case c.AdminPassword != "" && len(c.AdminPassword) < c.MinPasswordLength:
		return fmt.Errorf("admin_password is shorter than min_password_length, %d", c.MinPasswordLength)
	case c.PeerKeepalive < 0 || c.DrainTimeout <= 0:
		return errors.New("peer_keepalive and drain_timeout must be positive durations, as \"2s\"")
	case c.Timeouts.Discover <= 0 || c.Timeouts.Find <= 0 || c.Timeouts.Status <= 0 || c.Timeouts.Health <= 0 || c.Timeouts.Gateway <= 0 || c.Timeouts.TunnelIdle <= 0 || c.Timeouts.Standing <= 0:
		return errors.New("timeouts must be positive durations, as \"2s\"")
	case c.Update.Strategy != Rolling && c.Update.Strategy != Now:
		return fmt.Errorf("update.strategy %q is neither %q nor %q", c.Update.Strategy, Rolling, Now)
	case c.Update.MaxInFlight < 1 || c.Update.MinHealthyTime < 0 || c.Update.MinHealthyTime > time.Hour:
		return errors.New("update.max_in_flight must be positive, and update.min_healthy_time a duration of at most an hour, as \"6s\"")
	case c.Update.WatchTime < 0 || c.Update.WatchTime > time.Hour:
		return errors.New("update.watch_time must be a duration of at most an hour, as \"1m\"; 0s: none")
	case c.Update.RebalanceEvery < 0:
		return errors.New("update.rebalance_every must be a duration, as \"1m\"; 0s: never")
	case c.CCPartition == "" || strings.ContainsAny(c.CCPartition, " .*>"):
		return fmt.Errorf("cc_partition %q must be a word", c.CCPartition)
	}
	if d.Tmpdir == "" {
		c.Directories.Tmpdir = filepath.Join(d.Droplets, ".tmp")
	}
	for _, folder := range []*string{&c.Directories.Droplets, &c.Directories.Resources, &c.Directories.Tmpdir} {
		var err error
		if *folder, err = filepath.Abs(*folder); err != nil {
			return fmt.Errorf("cannot find a folder of directories: %w", err)
		}
	}
	for _, list := range [][]string{c.Admins, c.ReservedHosts} {
		for i, text := range list {
			list[i] = strings.ToLower(text)
		}
	}
	for i := range c.Domains {
		d := &c.Domains[i]
		if d.Name = strings.ToLower(d.Name); !ValidHost(strings.TrimPrefix(d.Name, "*.")) {
			return fmt.Errorf("domains: %q is neither a host name nor \"*.\" and one", d.Name)
		}
		for j := range d.Users {
			d.Users[j] = strings.ToLower(d.Users[j])
		}
	}
	c.BulkAPI.Auth.User = cmp.Or(c.BulkAPI.Auth.User, "bulk_api")
	c.BulkAPI.Auth.Password = cmp.Or(c.BulkAPI.Auth.Password, c.Keys.Derive("bulk_api password"))
	if _, err := c.DatabaseURI(); err != nil {
		return err
	}
	return nil
}

// Derive returns the secret for one purpose, the same on all controllers.
func (k Keys) Derive(purpose string) string {
	mac := hmac.New(sha256.New, []byte(k.Token))
	mac.Write([]byte(purpose))
	return hex.EncodeToString(mac.Sum(nil))
}

// FrontKeyHeader is the header in which routers show FrontKey.
const FrontKeyHeader = wire.HeaderFrontKey

// FrontKey returns what routers show with requests to the API, the same at all
// controllers. They learn it on the bus, where only routers and controllers hear it.
func (c *Config) FrontKey() string { return c.Keys.Derive("routers' key") }

// Domain returns what follows the first label of the API's host name.
func (c *Config) Domain() string {
	_, domain, _ := strings.Cut(c.ExternalURI, ".")
	return domain
}

// IsAdmin reports whether the account with an e-mail address, in lower case, is
// an admin's.
func (c *Config) IsAdmin(email string) bool { return slices.Contains(c.Admins, email) }

// Capacity returns what an account may have.
func (c *Config) Capacity(admin bool) Capacity {
	if admin {
		return c.AdminCapacity
	}
	return c.DefaultCapacity
}

var hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?)*$`)

// ValidHost reports whether a host name, in lower case, can be one.
func ValidHost(host string) bool { return len(host) <= 253 && hostName.MatchString(host) }
