package servicebroker

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Config is the broker's file.
type Config struct {
	component.Config `yaml:",inline"`

	Port int `yaml:"port"`
	// ExternalURI is the host name under which routers lead to the broker.
	ExternalURI        string   `yaml:"external_uri"`
	CloudControllerURI string   `yaml:"cloud_controller_uri"`
	CloudControllers   []string `yaml:"cloud_controllers"`
	// Offerings by the service's name.
	Offerings map[string]Offering `yaml:"offerings"`
}

// Offering is a service that lives elsewhere.
type Offering struct {
	Token       string `yaml:"token"` // as the controller has it in builtin_services
	Version     string `yaml:"version"`
	Description string `yaml:"description"`
	// Plans are the credentials that every app with an instance of a plan gets.
	Plans map[string]map[string]string `yaml:"plans"`
	// URL, instead of plans, is a broker that speaks the gateway API, URLToken what it
	// is asked with, and URLPlans what it has.
	URL      string   `yaml:"url"`
	URLToken string   `yaml:"url_token"`
	URLPlans []string `yaml:"url_plans"`
}

var planName = regexp.MustCompile(`^[a-z0-9_]{1,64}$`)

func load(file string) (Config, map[string]any, error) {
	var cfg Config
	raw, err := component.Load(file, &cfg)
	if err != nil {
		return Config{}, nil, err
	}
	delete(raw, "offerings") // varz shows the rest
	if err := cfg.check(); err != nil {
		return Config{}, nil, fmt.Errorf("cannot use the configuration %s: %w", file, err)
	}
	return cfg, raw, nil
}

func (c Config) check() error {
	if c.ExternalURI == "" || len(c.Offerings) == 0 {
		return errors.New("external_uri or offerings is missing")
	}
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(c.Offerings)) {
		if err := c.Offerings[name].check(); err != nil {
			problems = append(problems, fmt.Errorf("offering %s: %w", name, err))
		}
	}
	return errors.Join(problems...)
}

func (o Offering) check() error {
	if len(o.Token) < 8 {
		return errors.New("its token has fewer than 8 characters")
	}
	if (len(o.Plans) == 0) == (o.URL == "") {
		return errors.New("it needs either plans, with their credentials, or the url of a broker")
	}
	for _, plan := range o.planNames() {
		if !planName.MatchString(plan) {
			return fmt.Errorf("its plan %q must be lower-case letters, digits and '_'", plan)
		}
	}
	if o.URL == "" {
		return nil
	}
	at, err := url.Parse(o.URL)
	if err != nil || at.Scheme != "https" && at.Scheme != "http" || at.Host == "" || at.User != nil || at.RawQuery != "" {
		return errors.New("its url is none with http or https, a host, and no more than a path")
	}
	if len(o.URLPlans) == 0 {
		return errors.New("its url_plans are missing")
	}
	return nil
}

func (o Offering) planNames() []string {
	if o.URL != "" {
		return o.URLPlans
	}
	return slices.Sorted(maps.Keys(o.Plans))
}

// credentials are a plan's as apps find them: its port is a number.
func (o Offering) credentials(plan string) wire.Credentials {
	c := wire.Credentials{}
	for key, value := range o.Plans[plan] {
		c[key] = value
		if n, err := strconv.Atoi(value); key == "port" && err == nil {
			c[key] = n
		}
	}
	return c
}
