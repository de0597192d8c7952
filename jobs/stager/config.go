package stager

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/confine"
	"github.com/clusterworks/deploy/jobs/confine/network"
	"github.com/clusterworks/deploy/jobs/confine/warden"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Config is the stager's file: the original's keys, without those of its Ruby
// plugins, and our own.
type Config struct {
	component.Config `yaml:",inline"`

	// Queues are the subjects of requests; on each one stager of all takes one.
	Queues []string `yaml:"queues"`
	// MaxStagingDuration bounds a staging, in seconds; fractions are allowed.
	MaxStagingDuration float64 `yaml:"max_staging_duration"`
	// MaxActiveTasks is the number of apps that are staged side by side; others wait.
	MaxActiveTasks int `yaml:"max_active_tasks"`
	// Isolation is the level that plugins must have at least (jobs/confine); they get
	// the best that the machine offers.
	Isolation string `yaml:"isolation"`
	// Warden is the program that is the parent of a plugin; "": the one beside this
	// program.
	Warden string `yaml:"warden"`
	// MaxMemoryMB holds what a staging may use of memory, Processes how many processes
	// it may have, threads included.
	MaxMemoryMB int64 `yaml:"max_memory_mb"`
	Processes   int   `yaml:"processes"`
	Dirs        Dirs  `yaml:"dirs"`

	// Plugins are programs by the framework that they stage; see README.md.
	Plugins map[string]string `yaml:"plugins"`
	// StaticServer is the program that goes into the droplets of static apps; "":
	// the one beside this program.
	StaticServer string `yaml:"static_server"`
	// Tomcat is a Tomcat's home; "": Debian's, if it is there.
	Tomcat string `yaml:"tomcat"`
	// FetchDependencies allows plugins to fetch modules that an app does not bring.
	FetchDependencies bool `yaml:"fetch_dependencies"`
	// AllowHosts are the hosts that plugins may fetch from then, see network.CheckName;
	// Networks private ones in which these may be.
	AllowHosts []string `yaml:"allow_hosts"`
	Networks   []string `yaml:"networks"`
	// Network is warden.NetworkOwn or NetworkShared.
	Network string `yaml:"network"`
	// MaxAppMB bounds an app as it is fetched, MaxDropletMB what it unpacks to and
	// the files of its droplet.
	MaxAppMB     int64 `yaml:"max_app_mb"`
	MaxDropletMB int64 `yaml:"max_droplet_mb"`
}

// Dirs are the stager's folders.
type Dirs struct {
	// Tmp is the place where apps are staged; "": the system's folder for temporary files.
	Tmp string `yaml:"tmp"`
}

// usualHosts are the hosts where npm, bundler, pip and Maven fetch from if nobody tells them
// otherwise. job.hcl's default is the same.
var usualHosts = []string{
	"registry.npmjs.org", "rubygems.org", "*.rubygems.org", "pypi.org", "files.pythonhosted.org", "repo.maven.apache.org", "repo1.maven.org",
	"github.com", "codeload.github.com",
}

// tomcats is the place where Debian has one, the newest first.
var tomcats = []string{"/usr/share/tomcat11", "/usr/share/tomcat10", "/usr/share/tomcat9"}

func defaults() Config {
	return Config{
		Queues:             []string{wire.SubjectStaging},
		MaxStagingDuration: wire.StagingTimeout.Seconds(),
		MaxActiveTasks:     4,
		Isolation:          confine.LevelSafe,
		Network:            warden.NetworkOwn,
		AllowHosts:         slices.Clone(usualHosts),
		MaxMemoryMB:        1024,
		Processes:          512,
		MaxAppMB:           512, // what the original controller takes
		MaxDropletMB:       1024,
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
	case len(cfg.Queues) == 0 || slices.Contains(cfg.Queues, ""):
		err = errors.New("queues must name at least one subject")
	case !(cfg.MaxStagingDuration > 0 && cfg.MaxStagingDuration <= 24*3600):
		err = errors.New("max_staging_duration must be a number of seconds, within a day")
	case cfg.MaxActiveTasks < 1 || cfg.MaxActiveTasks > 1000:
		err = errors.New("max_active_tasks is not within 1 and 1000")
	case cfg.MaxAppMB < 1 || cfg.MaxDropletMB < 1 || cfg.MaxDropletMB > 1<<20:
		err = errors.New("max_app_mb and max_droplet_mb must be at least 1")
	case cfg.MaxMemoryMB < 1 || cfg.Processes < 1:
		err = errors.New("max_memory_mb and processes must be at least 1")
	case !slices.Contains(confine.Levels(), cfg.Isolation):
		err = fmt.Errorf("isolation %q is none of %s", cfg.Isolation, strings.Join(confine.Levels(), ", "))
	}
	if err == nil && cfg.Network != warden.NetworkOwn && cfg.Network != warden.NetworkShared {
		err = fmt.Errorf("network %q is neither %s nor %s", cfg.Network, warden.NetworkOwn, warden.NetworkShared)
	}
	if err == nil {
		err = cfg.network().Validate()
	}
	for framework, program := range cfg.Plugins {
		if err == nil && !filepath.IsAbs(program) {
			err = fmt.Errorf("the plugin of %s must be an absolute path, not %q", framework, program)
		}
	}
	if err != nil {
		return Config{}, nil, fmt.Errorf("cannot use the configuration %s: %w", file, err)
	}
	if cfg.Tomcat == "" {
		for _, folder := range tomcats {
			if _, err := os.Stat(filepath.Join(folder, "bin", "catalina.sh")); err == nil {
				cfg.Tomcat = folder
				break
			}
		}
	}
	self, err := os.Executable()
	if err != nil {
		return Config{}, nil, fmt.Errorf("cannot find the stager's own program: %w", err)
	}
	if cfg.Warden == "" {
		cfg.Warden = filepath.Join(filepath.Dir(self), "warden")
	}
	if cfg.StaticServer == "" {
		if beside := filepath.Join(filepath.Dir(self), "static_server"); fileExists(beside) {
			cfg.StaticServer = beside
		}
	}
	if cfg.Dirs.Tmp == "" {
		cfg.Dirs.Tmp = os.TempDir()
	}
	return cfg, raw, nil
}

// network returns what plugins may reach: nothing, unless they fetch dependencies.
func (c Config) network() *network.Policy {
	p := &network.Policy{Address: "127.0.0.1", ByName: true}
	if c.FetchDependencies {
		p.Names, p.Allow = c.AllowHosts, c.Networks
	}
	return p
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (c Config) stagingTime() time.Duration {
	return time.Duration(c.MaxStagingDuration * float64(time.Second))
}
