package router

import (
	"errors"
	"fmt"
	"time"

	"github.com/clusterworks/deploy/jobs/component"
)

// Config is the router's file: the original's keys and our own.
type Config struct {
	component.Config `yaml:",inline"`

	// Inet and Port are where requests come in; Inet "": the own address.
	Inet string `yaml:"inet"`
	Port int    `yaml:"port"`
	// TraceKey is the value of X-Vcap-Trace that asks for trace headers.
	TraceKey string `yaml:"trace_key"`
	// NotFoundRedirect, if set, is where requests for unknown hosts are sent.
	NotFoundRedirect string `yaml:"404_redirect"`

	// EnableNonprodApps makes the router tell on the bus, every FlushAppsInterval
	// seconds, which apps were asked for.
	EnableNonprodApps bool    `yaml:"enable_nonprod_apps"`
	FlushAppsInterval float64 `yaml:"flush_apps_interval"`

	// MaxBodyMB bounds a request's body in MiB; 0: no bound.
	MaxBodyMB int `yaml:"max_body_mb"`
	// BackendKeepalive is how long an idle connection to a backend is kept: less
	// than any backend keeps it.
	BackendKeepalive time.Duration `yaml:"backend_keepalive"`
	// PeerKeepalive is how long those in front of the router keep an idle
	// connection to it, and DrainTimeout how long a drain waits for requests in
	// progress; see component.Server.
	PeerKeepalive time.Duration `yaml:"peer_keepalive"`
	DrainTimeout  time.Duration `yaml:"drain_timeout"`
}

// defaults are the values of the keys that a file leaves out.
func defaults() Config {
	return Config{
		Port:              8081,
		TraceKey:          "22",
		FlushAppsInterval: 30,
		MaxBodyMB:         256,
		BackendKeepalive:  2 * time.Second,
		PeerKeepalive:     3 * time.Second,
		DrainTimeout:      30 * time.Second,
	}
}

// load reads a configuration file, with it as it stands.
func load(file string) (Config, map[string]any, error) {
	cfg := defaults()
	raw, err := component.Load(file, &cfg)
	if err != nil {
		return Config{}, nil, err
	}
	switch {
	case cfg.Port < 0 || cfg.Port > 65535:
		err = fmt.Errorf("port %d is not within 0 and 65535", cfg.Port)
	case !(cfg.FlushAppsInterval >= 0.01 && cfg.FlushAppsInterval <= 1e9):
		err = fmt.Errorf("flush_apps_interval %g is no number of seconds", cfg.FlushAppsInterval)
	case cfg.MaxBodyMB < 0:
		err = errors.New("max_body_mb is below 0")
	case cfg.BackendKeepalive <= 0 || cfg.PeerKeepalive < 0 || cfg.DrainTimeout <= 0:
		err = errors.New("backend_keepalive, peer_keepalive and drain_timeout must be positive durations, as \"2s\"")
	}
	if err != nil {
		return Config{}, nil, fmt.Errorf("cannot use the configuration %s: %w", file, err)
	}
	return cfg, raw, nil
}
