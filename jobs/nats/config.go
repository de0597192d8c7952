package nats

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/goccy/go-yaml"
)

// Config is the job's file nats.yml. What may change while the server runs (the
// password, the certificates) stands in files of its own, named here.
type Config struct {
	Name         string `yaml:"name"`          // of this server, unique among its peers
	DeploymentID string `yaml:"deployment_id"` // which identities are admitted
	Address      string `yaml:"address"`       // IP address to listen on
	Port         int    `yaml:"port"`          // -1: any free one
	Store        string `yaml:"store"`         // folder of JetStream
	User         string `yaml:"user"`          // that components without one of their own share
	SharedUser   bool   `yaml:"shared_user"`   // it is admitted
	UsersFile    string `yaml:"users_file"`    // which jobs have users of their own; "": none
	PasswordFile string `yaml:"password_file"`
	// CAFile holds the CAs whose client certificates are admitted, PEM.
	CAFile          string `yaml:"ca_file"`
	CertificateFile string `yaml:"certificate_file"`
	KeyFile         string `yaml:"key_file"`
	// AllowPlaintext lets components connect without TLS.
	AllowPlaintext bool  `yaml:"allow_plaintext"`
	MaxPayload     int32 `yaml:"max_payload"`  // bytes of one message
	MaxStoreMB     int64 `yaml:"max_store_mb"` // of the account AGENTS, MiB
	MonitorPort    int   `yaml:"monitor_port"` // 0: none
	// Cluster is nil for a lone server.
	Cluster *Cluster `yaml:"cluster"`
	// Bridge is nil for one of several servers, which have Cluster.
	Bridge *Bridge `yaml:"bridge"`
}

// The server's fixed time limits.
const (
	// tlsTimeout leaves a small machine time for the handshakes of a thousand
	// agents that come back at once.
	tlsTimeout = 15 * time.Second
	// startTimeout bounds the recovery of JetStream's files.
	startTimeout = 60 * time.Second
	// pingInterval and maxPings notice a VM that vanished without a word
	// after a minute.
	pingInterval = 20 * time.Second
	maxPings     = 2
)

// ReadConfig reads a config file. Unknown keys are errors.
func ReadConfig(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("cannot read config: %w", err)
	}
	var cfg Config
	if err := yaml.UnmarshalWithOptions(text, &cfg, yaml.Strict()); err != nil {
		return Config{}, fmt.Errorf("cannot read config %s: %w", path, err)
	}
	return cfg, nil
}

// validate reports every problem at once.
func (c Config) validate() error {
	var problems []error
	for _, field := range []struct{ key, value string }{
		{"name", c.Name}, {"deployment_id", c.DeploymentID}, {"store", c.Store},
		{"user", c.User}, {"password_file", c.PasswordFile}, {"ca_file", c.CAFile},
		{"certificate_file", c.CertificateFile}, {"key_file", c.KeyFile},
	} {
		if field.value == "" {
			problems = append(problems, fmt.Errorf("%s is missing", field.key))
		}
	}
	if _, err := netip.ParseAddr(c.Address); err != nil {
		problems = append(problems, fmt.Errorf("address: %w", err))
	}
	if c.Port == 0 || c.Port < -1 || c.Port > 65535 {
		problems = append(problems, fmt.Errorf("port %d is none", c.Port))
	}
	if c.MonitorPort < 0 || c.MonitorPort > 65535 {
		problems = append(problems, fmt.Errorf("monitor_port %d is none", c.MonitorPort))
	}
	if c.MaxPayload <= 0 {
		problems = append(problems, errors.New("max_payload must be positive"))
	}
	if c.MaxStoreMB <= 0 {
		problems = append(problems, errors.New("max_store_mb must be positive"))
	}
	if c.Cluster != nil {
		problems = append(problems, c.Cluster.validate())
	}
	if c.Bridge != nil {
		problems = append(problems, c.Bridge.validate())
		if c.Cluster != nil { // its JetStream would be another
			problems = append(problems, errors.New("a server of a cluster has no bridge"))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("config is not usable: %w", err)
	}
	return nil
}
