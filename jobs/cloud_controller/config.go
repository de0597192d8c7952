package cloudcontroller

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Config is the controller's file: the original's keys and our own.
type Config struct {
	component.Config `yaml:",inline"`

	// ExternalURI is the API's host name, api.<domain>; apps get names in the same
	// domain. ExternalPort is where requests come in, on Inet ("": the own address).
	ExternalURI  string `yaml:"external_uri"`
	ExternalPort int    `yaml:"external_port"`
	Inet         string `yaml:"inet"`

	// What /info says.
	Name        string `yaml:"name"`
	Build       int    `yaml:"build"`
	Version     string `yaml:"version"`
	Support     string `yaml:"support_address"`
	Description string `yaml:"description"`

	AllowDebug        bool     `yaml:"allow_debug"`
	AllowRegistration bool     `yaml:"allow_registration"`
	Admins            []string `yaml:"admins"` // e-mail addresses
	// AdminPassword, if set, is that of the admins' accounts, which are made at the
	// start where they are missing. Without it admins register like anyone.
	AdminPassword string  `yaml:"admin_password"`
	AppURIs       AppURIs `yaml:"app_uris"`

	DefaultCapacity Capacity `yaml:"default_account_capacity"`
	AdminCapacity   Capacity `yaml:"admin_account_capacity"`

	Directories Directories `yaml:"directories"`
	// MaxDropletSizeMB bounds an app's files when unpacked, and its droplet.
	MaxDropletSizeMB int `yaml:"max_droplet_size_mb"`
	// ResourcePoolMB bounds the files kept for resource matching.
	ResourcePoolMB int `yaml:"resource_pool_mb"`
	// RuntimesFile and Directories.StagingManifests replace the usual runtimes and
	// frameworks.
	RuntimesFile string `yaml:"runtimes_file"`

	Keys            Keys                      `yaml:"keys"`
	Staging         Staging                   `yaml:"staging"`
	BulkAPI         BulkAPI                   `yaml:"bulk_api"`
	BuiltinServices map[string]BuiltinService `yaml:"builtin_services"`

	DatabaseEnvironment map[string]Database `yaml:"database_environment"`
	RailsEnvironment    string              `yaml:"rails_environment"`

	NewInitialPlacement bool   `yaml:"new_initial_placement"`
	CCPartition         string `yaml:"cc_partition"`

	// Peers are the other controllers, host:port. Packages and droplets are copied
	// to them; none where Directories are shared.
	Peers []string `yaml:"peers"`

	Timeouts Timeouts `yaml:"timeouts"`
	// PeerKeepalive and DrainTimeout are those of component.Server. A drain waits
	// for stagings in progress.
	PeerKeepalive time.Duration `yaml:"peer_keepalive"`
	DrainTimeout  time.Duration `yaml:"drain_timeout"`
}

// AppURIs says which host names apps may have.
type AppURIs struct {
	AllowExternal  bool     `yaml:"allow_external"`  // outside of the controller's domain
	ReservedList   []string `yaml:"reserved_list"`   // first labels that nobody gets
	ReservedLength int      `yaml:"reserved_length"` // first labels up to this length nobody gets
}

// Capacity is what an account may have.
type Capacity struct {
	Memory   int `yaml:"memory" json:"memory"` // MB, of all instances of started apps
	AppURIs  int `yaml:"app_uris" json:"app_uris"`
	Services int `yaml:"services" json:"services"`
	Apps     int `yaml:"apps" json:"apps"`
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

// Staging says how stagers are asked. Without Auth the credentials follow from
// Keys.
type Staging struct {
	Queue             string      `yaml:"queue"`
	MaxStagingRuntime int         `yaml:"max_staging_runtime"` // seconds
	Auth              Credentials `yaml:"auth"`
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

// Database is one entry of database_environment, as ActiveRecord has it.
type Database struct {
	Adapter  string `yaml:"adapter"` // sqlite3, postgresql
	Database string `yaml:"database"`
	Host     string `yaml:"host"`
	Port     int    `yaml:"port"`
	Username string `yaml:"username"`
	Password string `yaml:"password"`
	// SSLMode is libpq's, prefer if absent; SSLRootCert a PEM file.
	SSLMode     string `yaml:"sslmode"`
	SSLRootCert string `yaml:"sslrootcert"`
}

// Timeouts are how long answers on the bus are waited for.
type Timeouts struct {
	Discover time.Duration `yaml:"discover"` // the first DEA
	Find     time.Duration `yaml:"find"`     // the instances of an app
	Status   time.Duration `yaml:"status"`   // the health manager, of one app
	Health   time.Duration `yaml:"health"`   // the health manager, of many
	Gateway  time.Duration `yaml:"gateway"`  // a service gateway, unless its offering says
}

// defaults are the values of the keys that a file leaves out, the original's
// where it had them.
func defaults() Config {
	return Config{
		ExternalPort:      9022,
		Name:              "vcap",
		Build:             2222,
		Version:           "0.999",
		Support:           "http://localhost/",
		Description:       "Cloud Foundry of the first generation",
		AllowRegistration: true,
		DefaultCapacity:   Capacity{Memory: 2048, AppURIs: 4, Services: 16, Apps: 20},
		AdminCapacity:     Capacity{Memory: 32768, AppURIs: 16, Services: 32, Apps: 200},
		MaxDropletSizeMB:  512,
		ResourcePoolMB:    2048,
		Keys:              Keys{TokenExpiration: 604800},
		Staging:           Staging{Queue: wire.SubjectStaging, MaxStagingRuntime: int(wire.StagingTimeout / time.Second)},
		RailsEnvironment:  "production",
		CCPartition:       wire.DefaultPartition,
		Timeouts:          Timeouts{Discover: 2 * time.Second, Find: 2 * time.Second, Status: 2 * time.Second, Health: time.Second, Gateway: 10 * time.Second},
		PeerKeepalive:     3 * time.Second,
		DrainTimeout:      35 * time.Second,
	}
}

// load reads a configuration file, with it as it stands.
func load(file string) (Config, map[string]any, error) {
	cfg := defaults()
	raw, err := component.Load(file, &cfg)
	if err != nil {
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
	case !validHost(c.ExternalURI) || c.domain() == "":
		return errors.New("external_uri must be the API's host name, as \"api.example.com\"")
	case c.ExternalPort < 0 || c.ExternalPort > 65535:
		return fmt.Errorf("external_port %d is not within 0 and 65535", c.ExternalPort)
	case len(c.Keys.Token) < 8:
		return errors.New("keys.token must be a secret of at least 8 characters; all controllers have the same")
	case c.Keys.TokenExpiration <= 0 || c.Staging.MaxStagingRuntime <= 0:
		return errors.New("keys.token_expiration and staging.max_staging_runtime must be positive numbers of seconds")
	case d.Droplets == "" || d.Resources == "":
		return errors.New("directories.droplets and directories.resources are missing: where apps are kept")
	case c.MaxDropletSizeMB < 1 || c.ResourcePoolMB < 0:
		return errors.New("max_droplet_size_mb must be positive, resource_pool_mb not negative")
	case c.PeerKeepalive < 0 || c.DrainTimeout <= 0:
		return errors.New("peer_keepalive and drain_timeout must be positive durations, as \"2s\"")
	case c.Timeouts.Discover <= 0 || c.Timeouts.Find <= 0 || c.Timeouts.Status <= 0 || c.Timeouts.Health <= 0 || c.Timeouts.Gateway <= 0:
		return errors.New("timeouts must be positive durations, as \"2s\"")
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
	for i, email := range c.Admins {
		c.Admins[i] = strings.ToLower(email)
	}
	for _, auth := range []struct {
		name string
		*Credentials
	}{{"staging", &c.Staging.Auth}, {"bulk_api", &c.BulkAPI.Auth}} {
		if auth.User == "" {
			auth.User = auth.name
		}
		if auth.Password == "" {
			auth.Password = c.Keys.derive(auth.name + " password")
		}
	}
	if _, err := c.databaseURI(); err != nil {
		return err
	}
	return nil
}

// derive makes a secret for one purpose, the same on all controllers.
func (k Keys) derive(purpose string) string {
	mac := hmac.New(sha256.New, []byte(k.Token))
	mac.Write([]byte(purpose))
	return hex.EncodeToString(mac.Sum(nil))
}

// domain is what follows the first label of the API's host name.
func (c *Config) domain() string {
	_, domain, _ := strings.Cut(c.ExternalURI, ".")
	return domain
}

func (c *Config) isAdmin(email string) bool { return slices.Contains(c.Admins, email) }

func (c *Config) capacity(admin bool) Capacity {
	if admin {
		return c.AdminCapacity
	}
	return c.DefaultCapacity
}

// databaseURI is what internal/store opens.
func (c *Config) databaseURI() (string, error) {
	db, ok := c.DatabaseEnvironment[c.RailsEnvironment]
	if !ok {
		return "", fmt.Errorf("database_environment has no entry %q", c.RailsEnvironment)
	}
	switch db.Adapter {
	case "sqlite3", "sqlite":
		file, err := filepath.Abs(db.Database)
		if err != nil || db.Database == "" {
			return "", fmt.Errorf("the sqlite3 database %q is no file", db.Database)
		}
		if len(c.Peers) > 0 {
			return "", errors.New("several controllers need PostgreSQL: SQLite serves a single one")
		}
		return "sqlite://" + file, nil
	case "postgresql", "postgres":
		u := url.URL{Scheme: "postgres", User: url.UserPassword(db.Username, db.Password), Path: "/" + db.Database}
		if strings.HasPrefix(db.Host, "/") { // the folder of a unix socket
			u.RawQuery = url.Values{"host": {db.Host}, "port": {strconv.Itoa(db.Port)}}.Encode()
			return u.String(), nil
		}
		u.Host = net.JoinHostPort(db.Host, strconv.Itoa(db.Port))
		query := url.Values{}
		for name, value := range map[string]string{"sslmode": db.SSLMode, "sslrootcert": db.SSLRootCert} {
			if value != "" {
				query.Set(name, value)
			}
		}
		u.RawQuery = query.Encode()
		return u.String(), nil
	}
	return "", fmt.Errorf("the database's adapter %q is neither postgresql nor sqlite3", db.Adapter)
}
