package component

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"
)

// Config are the keys that every component's file has. Components embed it with
// `yaml:",inline"`.
type Config struct {
	// Mbus is the place where the message bus is: one URI, or a list for a cluster.
	Mbus Servers `yaml:"mbus"`
	// NATSURI holds what stagers' files call Mbus.
	NATSURI Servers `yaml:"nats_uri"`
	// CA is the PEM file that the bus's certificate is verified with. If it is
	// set, the connection is TLS, whatever the URI's scheme says; without it tls://
	// is verified with the system's authorities.
	CA string `yaml:"ca"`
	// LocalRoute is the address on which the component is reached and from which
	// it connects; or, as in the original, any address: then the own address on
	// the way there is taken. Absent, or 127.0.0.1 as in a fresh devbox: the
	// address that the agent tells (DEPLOY_ADDRESS), so that clones of one image
	// can have the same file.
	LocalRoute string `yaml:"local_route"`
	// Index is the instance's number within its group; nil: it has none.
	Index *int `yaml:"index"`
	// PID is the file that the process's id is written to; "": none.
	PID string `yaml:"pid"`
	// PIDFilename holds what stagers' files call PID.
	PIDFilename string  `yaml:"pid_filename"`
	Logging     Logging `yaml:"logging"`
	Status      Status  `yaml:"status"`
	// Internal says how the components' own requests to each other are secured.
	Internal InternalTLS `yaml:"internal_tls"`
}

// Logging says what is logged and where.
type Logging struct {
	Level string `yaml:"level"` // off, fatal, error, warn, info (default), debug, debug1, debug2
	File  string `yaml:"file"`  // "": standard error
}

// Status is the status HTTP server. Port 0 takes a free one; an absent user or
// password is made up at the start and announced on the bus.
type Status struct {
	Port     int    `yaml:"port"`
	User     string `yaml:"user"`
	Password string `yaml:"password"`
	// ExposeAllApps is the router's: varz has the request rates of all apps.
	ExposeAllApps bool `yaml:"expose_all_apps"`
}

// Servers is a list of URIs that may be written as a single string.
type Servers []string

// UnmarshalYAML reads a string (URIs separated by commas) or a list of strings.
func (s *Servers) UnmarshalYAML(unmarshal func(any) error) error {
	var list []string
	if err := unmarshal(&list); err != nil {
		var one string
		if err := unmarshal(&one); err != nil {
			return errors.New("want a URI or a list of URIs")
		}
		list = strings.Split(one, ",")
	}
	*s = nil
	for _, uri := range list {
		if uri = strings.TrimSpace(uri); uri != "" {
			*s = append(*s, uri)
		}
	}
	return nil
}

// Load reads a YAML file into a component's configuration, and once more as it
// stands, for varz. Unknown keys are no error: the original's files have many.
func Load(file string, into any) (raw map[string]any, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	raw = map[string]any{}
	for _, target := range []any{into, &raw} {
		if err := ParseYAML(data, target); err != nil {
			// Without the excerpt of the file, which may hold a password.
			return nil, fmt.Errorf("cannot read the configuration %s: %s", file, yaml.FormatError(err, false, false))
		}
	}
	return raw, nil
}

// ParseYAML is yaml.Unmarshal without its panics: it has them for some texts that
// are no YAML, such as a tag without a value.
func ParseYAML(data []byte, into any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it is no YAML: %v", p)
		}
	}()
	return yaml.Unmarshal(data, into)
}

// servers are the bus's, whatever the file calls them.
func (c Config) servers() Servers {
	if len(c.Mbus) == 0 {
		return c.NATSURI
	}
	return c.Mbus
}

// ownUser is the name of a user of the bus that one instance of a job has alone.
var ownUser = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[0-9]+\.[A-Za-z0-9_-]+$`)

// busUser returns the user of the bus if it is the instance's own, "" if it is
// shared.
func (c Config) busUser() string {
	for _, uri := range c.servers() {
		if u, err := url.Parse(uri); err == nil && u.User != nil && ownUser.MatchString(u.User.Username()) {
			return u.User.Username()
		}
	}
	return ""
}

// pidFile returns where the process's id goes, "": nowhere.
func (c Config) pidFile() string {
	if c.PID == "" {
		return c.PIDFilename
	}
	return c.PID
}

// route is the local_route where the agent has told the instance's address.
func (c Config) route(told string) string {
	if told != "" && (c.LocalRoute == "" || c.LocalRoute == "127.0.0.1") {
		return told
	}
	return c.LocalRoute
}

// validate checks what would otherwise fail late or without saying why.
func (c Config) validate() error {
	if len(c.servers()) == 0 {
		return errors.New("cannot use the configuration: mbus is missing; use nats://user:password@address:port")
	}
	for _, uri := range c.servers() {
		u, err := url.Parse(uri)
		if err != nil || u.Host == "" {
			return errors.New("cannot use the configuration: an mbus entry is not a URI; use nats://user:password@address:port")
		}
	}
	if _, err := c.Logging.level(); err != nil {
		return err
	}
	return c.validateTLS()
}

// levelOff is above every level that is logged.
const levelOff = slog.Level(100)

// level maps the original's names onto slog's levels.
func (l Logging) level() (slog.Level, error) {
	switch strings.ToLower(l.Level) {
	case "off":
		return levelOff, nil
	case "fatal", "error":
		return slog.LevelError, nil
	case "warn":
		return slog.LevelWarn, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "debug", "debug1", "debug2":
		return slog.LevelDebug, nil
	}
	return 0, fmt.Errorf("cannot use the configuration: logging.level %q is none of off, fatal, error, warn, info, debug", l.Level)
}

// redact returns the configuration without the keys that varz has never shown,
// nats_uri, which is the stagers' mbus, and secrets of ours, at every depth of maps.
func redact(raw map[string]any) map[string]any {
	shown := maps.Clone(raw)
	for key, value := range raw {
		switch key {
		case "mbus", "service_mbus", "nats_uri", "keys", "database_environment", "password", "pass", "front_key", "trace_key":
			delete(shown, key)
			continue
		}
		if nested, ok := value.(map[string]any); ok {
			shown[key] = redact(nested)
		}
	}
	return shown
}
