package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"time"

	"github.com/clusterworks/deploy/jobs/component"
)

// Config is a gateway's file: the original's keys, and CloudControllers.
type Config struct {
	component.Config `yaml:",inline"`

	Host string `yaml:"host"` // "": the own address
	Port int    `yaml:"port"`
	// CloudControllerURI is the place where the controllers' API is; CloudControllers, if there
	// are any, are the host:port of each, which are connected to instead.
	CloudControllerURI string   `yaml:"cloud_controller_uri"`
	CloudControllers   []string `yaml:"cloud_controllers"`
	// Token holds what the gateway and the controller prove themselves with to each
	// other: builtin_services.<name>.token of the controller.
	Token   string  `yaml:"token"`
	Service Service `yaml:"service"`
	// NodeTimeout is the time in which a node must answer: more than the
	// op_time_limit of the nodes, or what they finish late is nobody's.
	NodeTimeout       component.Seconds `yaml:"node_timeout"`
	HeartbeatInterval component.Seconds `yaml:"heartbeat_interval"`
	// CheckOrphanInterval is the time between two checks by itself; negative: none.
	CheckOrphanInterval component.Seconds `yaml:"check_orphan_interval"`
	// DoubleCheckOrphanInterval is the time between the two steps of a check.
	DoubleCheckOrphanInterval component.Seconds `yaml:"double_check_orphan_interval"`
	PlanManagement            PlanManagement    `yaml:"plan_management"`
}

// Service describes what is offered.
type Service struct {
	Name              string            `yaml:"name"`
	Version           string            `yaml:"version"`
	Provider          string            `yaml:"provider"`
	Description       string            `yaml:"description"`
	InfoURL           string            `yaml:"info_url"`
	Plans             []string          `yaml:"plans"`
	DefaultPlan       string            `yaml:"default_plan"`
	Tags              []string          `yaml:"tags"`
	SupportedVersions []string          `yaml:"supported_versions"`
	VersionAliases    map[string]string `yaml:"version_aliases"`
	// Timeout is the time, in seconds, in which the controller waits for the gateway.
	Timeout int `yaml:"timeout"`
	// ACLs, PlanOptions and BindingOptions pass to the controller as they are.
	ACLs           map[string]any `yaml:"acls"`
	PlanOptions    any            `yaml:"plan_options"`
	BindingOptions any            `yaml:"binding_options"`
}

// PlanManagement describes what differs between plans.
type PlanManagement struct {
	Plans map[string]PlanPolicy `yaml:"plans"`
}

// PlanPolicy describes how a plan's nodes are filled. The marks are for varz.
type PlanPolicy struct {
	AllowOverProvisioning bool `yaml:"allow_over_provisioning"`
	LowWater              int  `yaml:"low_water"`
	HighWater             int  `yaml:"high_water"`
}

var (
	serviceName    = regexp.MustCompile(`^[a-z0-9_]{1,64}$`)
	serviceVersion = regexp.MustCompile(`^[A-Za-z0-9_.]{1,64}$`)
)

func defaults() Config {
	return Config{
		Port: 0, NodeTimeout: 8, HeartbeatInterval: 60, CheckOrphanInterval: 3600, DoubleCheckOrphanInterval: 300,
		Service: Service{Timeout: 15},
	}
}

// load reads a configuration file, with it as it stands.
func load(file string) (Config, map[string]any, error) {
	cfg := defaults()
	raw, err := component.Load(file, &cfg)
	if err != nil {
		return Config{}, nil, err
	}
	s := &cfg.Service
	if len(s.SupportedVersions) == 0 {
		s.SupportedVersions = []string{s.Version}
	}
	if s.DefaultPlan == "" && len(s.Plans) > 0 {
		s.DefaultPlan = s.Plans[0]
	}
	if err := cfg.check(); err != nil {
		return Config{}, nil, fmt.Errorf("cannot use the configuration %s: %w", file, err)
	}
	return cfg, raw, nil
}

func (c Config) check() error {
	at, err := url.Parse(c.CloudControllerURI)
	s := c.Service
	switch {
	case err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Host == "":
		return errors.New("cloud_controller_uri is no http URL")
	case c.Token == "":
		return errors.New("token is empty")
	case c.Port < 0 || c.Port > 65535:
		return errors.New("port is not within 0 and 65535")
	case !serviceName.MatchString(s.Name):
		return fmt.Errorf("service.name %q must be lower-case letters, digits and '_'", s.Name)
	case !serviceVersion.MatchString(s.Version):
		return fmt.Errorf("service.version %q must be letters, digits, '_' and '.'", s.Version)
	case !slices.Contains(s.SupportedVersions, s.Version):
		return errors.New("service.supported_versions lack service.version")
	case len(s.Plans) == 0 || slices.Contains(s.Plans, ""):
		return errors.New("service.plans must name at least one plan")
	case !slices.Contains(s.Plans, s.DefaultPlan):
		return errors.New("service.default_plan is none of service.plans")
	case s.Timeout < 1 || s.Timeout > 600:
		return errors.New("service.timeout is not within 1 and 600 seconds")
	case c.NodeTimeout <= 0 || c.NodeTimeout.Duration() >= time.Duration(s.Timeout)*time.Second:
		return errors.New("node_timeout must be above 0 and below service.timeout, in which the controller waits")
	case c.HeartbeatInterval <= 0:
		return errors.New("heartbeat_interval must be above 0")
	case c.CheckOrphanInterval == 0:
		return errors.New("check_orphan_interval must be above 0, or below for no checks")
	case c.DoubleCheckOrphanInterval < c.NodeTimeout:
		return errors.New("double_check_orphan_interval must be at least node_timeout: an instance that is just being made is no orphan")
	}
	for plan := range c.PlanManagement.Plans {
		if !slices.Contains(s.Plans, plan) {
			return fmt.Errorf("plan_management has the plan %q, which is none of service.plans", plan)
		}
	}
	return nil
}

// label is the offering's name for the controller.
func (s Service) label() string { return s.Name + "-" + s.Version }

// offering returns what the controller is told.
func (c Config) offering(at string, active bool) ([]byte, error) {
	s := c.Service
	doc := map[string]any{
		"label": s.label(), "url": at, "plans": s.Plans, "description": s.Description, "info_url": s.InfoURL, "tags": append([]string{}, s.Tags...),
		"active": active, "timeout": s.Timeout, "default_plan": s.DefaultPlan, "supported_versions": s.SupportedVersions,
		"version_aliases": maps.Clone(s.VersionAliases),
	}
	for name, value := range map[string]any{"acls": s.ACLs, "plan_options": s.PlanOptions, "binding_options": s.BindingOptions} {
		if m, is := value.(map[string]any); value != nil && (!is || m != nil) {
			doc[name] = value
		}
	}
	if s.Provider != "" {
		doc["provider"] = s.Provider
	}
	return json.Marshal(doc)
}
