package router

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/clusterworks/deploy/jobs/component"
)

// Config is the router's file: the original's keys and our own.
type Config struct {
	component.Config `yaml:",inline"`
	Fronts           `yaml:",inline"`

	// Inet and Port are where requests come in; Inet "": the own address.
	Inet string `yaml:"inet"`
	Port int    `yaml:"port"`
	// TraceKey is the value of X-Vcap-Trace that asks for trace headers; "": none does.
	TraceKey string `yaml:"trace_key"`
	// AccessLog says whether each request is logged.
	AccessLog bool `yaml:"access_log"`
	// MaxRoutes bounds the routes of all; registrations beyond it are ignored.
	MaxRoutes int `yaml:"max_routes"`
	// NotFoundRedirect, if set, is where requests for unknown hosts are sent.
	NotFoundRedirect string `yaml:"404_redirect"`

	// EnableNonprodApps makes the router tell on the bus, every FlushAppsInterval
	// seconds, which apps were asked for.
	EnableNonprodApps bool    `yaml:"enable_nonprod_apps"`
	FlushAppsInterval float64 `yaml:"flush_apps_interval"`

	// MaxBodyMB bounds a request's body in MiB; 0: no bound.
	MaxBodyMB int `yaml:"max_body_mb"`
	// AnswerTimeout is the time that an app may take for the head of its answer, and
	// pause while it takes the request or sends the answer. Less than those in
	// front of the router wait, so that the router says who was late.
	AnswerTimeout time.Duration `yaml:"answer_timeout"`
	// BodyTimeout is the time that a client may pause within its request's body.
	BodyTimeout time.Duration `yaml:"body_timeout"`
	// InstanceRequests bounds the requests, WebSockets included, that an instance
	// has at once, InstanceUploads those whose body is still on its way.
	InstanceRequests int `yaml:"instance_requests"`
	InstanceUploads  int `yaml:"instance_uploads"`
	// BackendKeepalive is the time that an idle connection to a backend is kept: less
	// than any backend keeps it.
	BackendKeepalive time.Duration `yaml:"backend_keepalive"`
	// PeerKeepalive is the time that those in front of the router keep an idle
	// connection to it, and DrainTimeout how long a drain waits for requests in
	// progress; see component.Server.
	PeerKeepalive time.Duration `yaml:"peer_keepalive"`
	DrainTimeout  time.Duration `yaml:"drain_timeout"`
}

// Fronts say whose word on a request is believed.
type Fronts struct {
	// TrustedFronts are the networks of those in front of the router, whose word
	// on a request's client, scheme and id is believed. nil: nobody's, unless
	// TrustEveryone says otherwise.
	TrustedFronts []string `yaml:"trusted_fronts"`
	// TrustEveryone makes up for missing TrustedFronts and FrontKey: the word of
	// everybody who reaches the port is believed.
	TrustEveryone bool `yaml:"trust_everyone"`
	// FrontKey holds what those in front show in wire.HeaderFrontKey to be believed.
	FrontKey string `yaml:"front_key"`

	fronts []netip.Prefix // TrustedFronts, parsed
}

// maxBody returns MaxBodyMB in bytes.
func (c *Config) maxBody() int64 { return int64(c.MaxBodyMB) << 20 }

// defaults are the values of the keys that a file leaves out.
func defaults() Config {
	return Config{
		Port:              8081,
		MaxRoutes:         250_000,
		FlushAppsInterval: 30,
		MaxBodyMB:         1024,
		AnswerTimeout:     150 * time.Second,
		BodyTimeout:       60 * time.Second,
		InstanceRequests:  1000,
		InstanceUploads:   100,
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
	if cfg.TrustedFronts == nil && cfg.FrontKey == "" && cfg.TrustEveryone {
		cfg.TrustedFronts = []string{"0.0.0.0/0", "::/0"}
	}
	for _, front := range cfg.TrustedFronts {
		prefix, err := netip.ParsePrefix(front)
		if err != nil {
			return Config{}, nil, fmt.Errorf("cannot use the configuration %s: trusted_fronts: %q is not a network such as \"10.0.0.0/8\"", file, front)
		}
		cfg.fronts = append(cfg.fronts, prefix.Masked())
	}
	switch {
	case cfg.MaxRoutes < 1:
		err = errors.New("max_routes must be 1 or more")
	case cfg.Port < 0 || cfg.Port > 65535:
		err = fmt.Errorf("port %d is not within 0 and 65535", cfg.Port)
	case !(cfg.FlushAppsInterval >= 0.01 && cfg.FlushAppsInterval <= 1e9):
		err = fmt.Errorf("flush_apps_interval %g is not a number of seconds", cfg.FlushAppsInterval)
	case cfg.MaxBodyMB < 0:
		err = errors.New("max_body_mb is below 0")
	case cfg.AnswerTimeout <= 0 || cfg.BodyTimeout <= 0:
		err = errors.New("answer_timeout and body_timeout must be positive durations, as \"60s\"")
	case cfg.InstanceRequests < 1 || cfg.InstanceUploads < 1 || max(cfg.InstanceRequests, cfg.InstanceUploads) > math.MaxInt32:
		err = errors.New("instance_requests and instance_uploads must be 1 or more")
	case cfg.BackendKeepalive <= 0 || cfg.PeerKeepalive < 0 || cfg.DrainTimeout <= 0:
		err = errors.New("backend_keepalive, peer_keepalive and drain_timeout must be positive durations, as \"2s\"")
	}
	if err != nil {
		return Config{}, nil, fmt.Errorf("cannot use the configuration %s: %w", file, err)
	}
	return cfg, raw, nil
}
