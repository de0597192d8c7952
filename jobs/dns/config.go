package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/miekg/dns"

	"github.com/clusterworks/deploy/jobs/component"
)

// Config is the server's file.
type Config struct {
	component.Config `yaml:",inline"`

	Port int `yaml:"port"` // on the own address, UDP and TCP
	// Internal is the zone in which instances and groups have names: "cf.internal".
	Internal string `yaml:"internal"`
	// Domains are the zones in which all names lead to LoadBalancers.
	Domains       []string `yaml:"domains"`
	LoadBalancers []string `yaml:"load_balancers"`
	// NameServers are the names in the NS records; none: "ns0." of each zone, and so
	// on, which lead to Servers.
	NameServers []string `yaml:"name_servers"`
	Servers     []string `yaml:"servers"`
	TTL         uint32   `yaml:"ttl_s"` // seconds
	// UpdateKey admits who sets the records of dns-01; "": nobody.
	UpdateKey string     `yaml:"update_key"`
	Instances []Instance `yaml:"instances"`

	loadBalancers, servers []netip.Addr
}

// Instance is one instance of the deployment.
type Instance struct {
	ID      string `yaml:"id"` // "router/0"
	Address string `yaml:"address"`

	address netip.Addr
}

// instanceID is "router/0". Groups' names hold no dot, so that they are labels.
var instanceID = regexp.MustCompile(`^[a-z][a-z0-9_-]*/(0|[1-9][0-9]{0,8})$`)

// load reads a configuration file, with it as it stands.
func load(file string) (Config, map[string]any, error) {
	cfg := Config{Port: 53, TTL: 5}
	raw, err := component.Load(file, &cfg)
	if err != nil {
		return Config{}, nil, err
	}
	if err := cfg.check(); err != nil {
		return Config{}, nil, fmt.Errorf("cannot use the configuration %s: %w", file, err)
	}
	return cfg, raw, nil
}

func (c *Config) check() error {
	var problems []error
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Port < 0 || c.Port > 65535 {
		wrong("port %d is not within 0 and 65535", c.Port)
	}
	addresses := func(key string, texts []string) (list []netip.Addr) {
		for _, text := range texts {
			a, err := netip.ParseAddr(text)
			if err != nil {
				wrong("%s: %q is no IP address", key, text)
			}
			list = append(list, a)
		}
		return list
	}
	c.loadBalancers, c.servers = addresses("load_balancers", c.LoadBalancers), addresses("servers", c.Servers)
	for n := range c.Instances {
		in := &c.Instances[n]
		if !instanceID.MatchString(in.ID) {
			wrong("instances: %q is not an instance such as \"router/0\"", in.ID)
		}
		if list := addresses("instances", []string{in.Address}); len(list) > 0 {
			in.address = list[0]
		}
	}
	if c.Internal == "" && len(c.Domains) == 0 {
		wrong("neither internal nor domains name a zone")
	}
	for _, zone := range append([]string{c.Internal}, c.Domains...) {
		if _, ok := dns.IsDomainName(zone); !ok || strings.Trim(zone, ".") != zone {
			wrong("%q is no zone such as \"cf.example.com\"", zone)
		}
	}
	return errors.Join(problems...)
}
