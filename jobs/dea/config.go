package dea

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
	"github.com/clusterworks/deploy/jobs/runtimes"
	"github.com/clusterworks/deploy/jobs/wire"
)

// What an update of a DEA does when the other DEAs have no room for its apps.
const (
	WhenFullRefuse = "refuse" // it is refused before anything is touched
	WhenFullWarn   = "warn"   // it is said, and those apps are down meanwhile
)

// Config is the DEA's file: the original's keys and our own. Times are seconds,
// fractions allowed.
type Config struct {
	component.Config `yaml:",inline"`
	Droplets         `yaml:",inline"`
	Confinement      `yaml:",inline"`

	// BaseDir holds all that the DEA keeps: droplets, instances, records. A relative
	// path is one from the folder that the DEA is started in.
	BaseDir  string   `yaml:"base_dir"`
	Sessions Sessions `yaml:"sessions"`
	// FilerPort is the file server's, on the own address.
	FilerPort int `yaml:"filer_port"`
	// MaxMemory is the memory that instances may use together, MB.
	MaxMemory int `yaml:"max_memory"`
	// MultiTenant false lets one instance run at a time; MaxClients bounds them.
	MultiTenant bool `yaml:"multi_tenant"`
	MaxClients  int  `yaml:"max_clients"`
	// Runtimes are those that are advertised: names, or as in the older dialect a
	// map of names to descriptions. Which are really here is found out when one is
	// asked for.
	Runtimes Runtimes `yaml:"runtimes"`
	// Prod true: production apps only.
	Prod      *bool  `yaml:"prod"`
	Zone      string `yaml:"zone"` // that the DEA is in; "": none
	Partition string `yaml:"cc_partition"`

	Intervals Intervals `yaml:"intervals"`
	// EvacuationDelay is the original's place for the interval of that name.
	EvacuationDelay *component.Seconds `yaml:"evacuation_delay"`
	// WhenFull: see WhenFullRefuse and WhenFullWarn.
	WhenFull string `yaml:"when_others_are_full"`

	Output Output `yaml:"output"`

	// ExpandVariables has $NAME and quotes in the values of users' variables read as
	// the original's shell read them; without it values pass as they are.
	ExpandVariables bool `yaml:"expand_variables"`

	// DiskThreshold says how full the disk may be, percent, before nothing new is
	// taken.
	DiskThreshold float64 `yaml:"droplet_fs_percent_used_threshold"`
}

// Droplets says how droplets are fetched and kept.
type Droplets struct {
	// ForceHTTPSharing fetches droplets over HTTP although the start document names
	// a file on a shared folder.
	ForceHTTPSharing bool `yaml:"force_http_sharing"`
	// CacheMB is the room for droplets that were used and are kept, MaxDropletMB how large
	// one may be.
	CacheMB      int64 `yaml:"staged_cache_mb"`
	MaxDropletMB int64 `yaml:"max_droplet_mb"`
}

// Confinement says how apps are kept apart.
type Confinement struct {
	// Isolation is the level that apps must have at least; they get the best that
	// the machine offers.
	Isolation string `yaml:"isolation"`
	// Network is warden.NetworkOwn or NetworkShared; Networks are private ones that apps
	// with a network of their own may reach, see network.ParseDestination.
	Network  string   `yaml:"network"`
	Networks []string `yaml:"networks"`
	// Visible are folders of the machine that apps see, read only, beside the
	// system's.
	Visible []string `yaml:"visible"`
	// Ports are those that apps may be given, "first-last", outside of those that
	// the kernel gives to outgoing connections.
	Ports PortRange `yaml:"ports"`
	// Processes is the number of processes that an instance may have, threads included.
	Processes int `yaml:"processes"`
	// Warden is the program that is the parent of an app; "": the one beside this
	// program.
	Warden string `yaml:"warden"`
}

// Output bounds what is kept of what an instance prints, of each of its two streams.
type Output struct {
	FileMB int `yaml:"file_mb"` // how large a file gets before another one is begun
	Kept   int `yaml:"kept"`    // how many are kept beside it
}

// outputShare is the part of an instance's disk that one file of its output has at
// most, so that all of them together leave the app the most of it.
const outputShare = 32

// streams returns where an instance's output goes.
func (o Output) streams(spec warden.Spec) *warden.Streams {
	return &warden.Streams{
		Stdout:   filepath.Join(spec.Dir, "logs", "stdout.log"),
		Stderr:   filepath.Join(spec.Dir, "logs", "stderr.log"),
		MaxBytes: max(64<<10, min(int64(o.FileMB)<<20, spec.Limits.DiskBytes/outputShare)),
		Kept:     o.Kept,
	}
}

// Intervals are the DEA's times; those that are how often must be above 0.
type Intervals struct {
	Heartbeat component.Seconds `yaml:"heartbeat"`
	Advertise component.Seconds `yaml:"advertise"`
	Monitor   component.Seconds `yaml:"monitor"`        // usage, quotas, the disk
	Reap      component.Seconds `yaml:"crashes_reaper"` // what is left of crashed instances
	Probe     component.Seconds `yaml:"probe"`          // of an app that starts

	// CrashLifetime is the time that what is left of a crashed instance is kept.
	CrashLifetime component.Seconds `yaml:"crash_lifetime"`
	// PortTimeout is the time that an app may take to listen, StateFileTimeout to write
	// the state file that its droplet names.
	PortTimeout      component.Seconds `yaml:"port_timeout"`
	StateFileTimeout component.Seconds `yaml:"state_file_timeout"`
	// DownloadTimeout bounds the transfer of a droplet.
	DownloadTimeout component.Seconds `yaml:"download_timeout"`
	// An instance that is stopped is withdrawn from the routers; then its open
	// connections are awaited for ConnectionTimeout; then it gets TERM, and after
	// StopTimeout KILL.
	ConnectionTimeout component.Seconds `yaml:"connection_timeout"`
	StopTimeout       component.Seconds `yaml:"stop_timeout"`
	// EvacuationDelay is the time that a DEA that drains waits for its apps to run
	// elsewhere. SettleTime is what routers have to hear of a change.
	EvacuationDelay component.Seconds `yaml:"evacuation_delay"`
	SettleTime      component.Seconds `yaml:"settle_time"`
}

// Runtimes are runtimes by name.
type Runtimes map[string]wire.RuntimeInfo

// UnmarshalYAML reads a list of names or a map.
func (r *Runtimes) UnmarshalYAML(unmarshal func(any) error) error {
	*r = Runtimes{}
	var names []string
	if err := unmarshal(&names); err == nil {
		for _, name := range names {
			info, known := runtimes.Named(name)
			if !known {
				info = wire.RuntimeInfo{Name: name}
			}
			(*r)[name] = info
		}
		return nil
	}
	var described map[string]struct {
		Executable       string            `yaml:"executable"`
		Version          string            `yaml:"version"`
		VersionFlag      string            `yaml:"version_flag"`
		VersionOutput    string            `yaml:"version_output"`
		AdditionalChecks string            `yaml:"additional_checks"`
		Environment      map[string]string `yaml:"environment"`
	}
	if err := unmarshal(&described); err != nil {
		return errors.New("want a list of runtimes' names, or a map of them")
	}
	for name, d := range described {
		info := wire.RuntimeInfo{
			Name: name, Executable: d.Executable, Version: d.Version, VersionFlag: d.VersionFlag,
			VersionOutput: d.VersionOutput, AdditionalChecks: d.AdditionalChecks, Environment: d.Environment,
		}
		if info.VersionOutput == "" {
			info.VersionOutput = d.Version // the older dialect's name for it
		}
		(*r)[name] = info
	}
	return nil
}

// names in their order.
func (r Runtimes) names() []string {
	names := []string{}
	for name := range r {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// PortRange is "first-last".
type PortRange struct{ First, Last int }

// UnmarshalYAML reads "20000-29999".
func (p *PortRange) UnmarshalYAML(unmarshal func(any) error) error {
	var text string
	if err := unmarshal(&text); err != nil {
		return errors.New(`want a range of ports, as "20000-29999"`)
	}
	if _, err := fmt.Sscanf(text, "%d-%d", &p.First, &p.Last); err != nil || p.First < 1 || p.Last > 65535 || p.First > p.Last {
		return fmt.Errorf(`want a range of ports, as "20000-29999", have %q`, text)
	}
	return nil
}

// defaults are the values of the keys that a file leaves out; where the original
// has them, its own.
func defaults() Config {
	c := Config{
		FilerPort:     12345,
		Sessions:      Sessions{Port: 12346, Instance: 3, App: 6, All: 50, Idle: 15 * time.Minute, Longest: 12 * time.Hour},
		MaxMemory:     4096,
		MultiTenant:   true,
		MaxClients:    1024,
		Partition:     wire.DefaultPartition,
		WhenFull:      WhenFullRefuse,
		DiskThreshold: 95,
		Output:        Output{FileMB: 10, Kept: 2},
		Droplets:      Droplets{CacheMB: 1024, MaxDropletMB: 1024},
		Confinement:   Confinement{Isolation: confine.LevelSafe, Network: warden.NetworkOwn, Ports: PortRange{20000, 31999}, Processes: 512},
	}
	c.Intervals = Intervals{
		Heartbeat:         component.Seconds(wire.DEAHeartbeatInterval.Seconds()),
		Advertise:         component.Seconds(wire.DEAAdvertiseInterval.Seconds()),
		Monitor:           2,
		Reap:              30,
		Probe:             0.5,
		CrashLifetime:     3600,
		PortTimeout:       60,
		StateFileTimeout:  300,
		DownloadTimeout:   300,
		ConnectionTimeout: 10,
		StopTimeout:       5,
		EvacuationDelay:   30,
		SettleTime:        1,
	}
	c.Runtimes = Runtimes{}
	for _, r := range runtimes.Runtimes() {
		c.Runtimes[r.Name] = r
	}
	return c
}

// load reads a configuration file, with it as it stands.
func load(file string) (Config, map[string]any, error) {
	cfg := defaults()
	raw, err := component.Load(file, &cfg)
	if err != nil {
		return Config{}, nil, err
	}
	if cfg.EvacuationDelay != nil {
		cfg.Intervals.EvacuationDelay = *cfg.EvacuationDelay
	}
	if cfg.BaseDir != "" {
		if cfg.BaseDir, err = filepath.Abs(cfg.BaseDir); err != nil {
			return Config{}, nil, fmt.Errorf("cannot find base_dir: %w", err)
		}
	}
	if cfg.Warden == "" {
		self, err := os.Executable()
		if err != nil {
			return Config{}, nil, fmt.Errorf("cannot find the warden: %w", err)
		}
		cfg.Warden = filepath.Join(filepath.Dir(self), "warden")
	}
	if err := cfg.check(); err != nil {
		return Config{}, nil, fmt.Errorf("cannot use the configuration %s: %w", file, err)
	}
	return cfg, raw, nil
}

func (c Config) check() error {
	switch {
	case !filepath.IsAbs(c.BaseDir):
		return errors.New("base_dir is missing: where droplets and instances are kept")
	case c.FilerPort < 0 || c.FilerPort > 65535:
		return fmt.Errorf("filer_port %d is not within 0 and 65535", c.FilerPort)
	case c.Sessions.check() != nil:
		return c.Sessions.check()
	case c.MaxMemory < 1:
		return errors.New("max_memory is below 1 MB")
	case c.MaxClients < 1 || c.Processes < 1 || c.CacheMB < 0 || c.MaxDropletMB < 1:
		return errors.New("max_clients, processes and max_droplet_mb must be positive, staged_cache_mb not negative")
	case c.Output.FileMB < 1 || c.Output.Kept < 0 || c.Output.Kept > 20:
		return errors.New("output: file_mb must be 1 at least, kept within 0 and 20")
	case c.DiskThreshold <= 0 || c.DiskThreshold > 100:
		return fmt.Errorf("droplet_fs_percent_used_threshold %v is not a percentage", c.DiskThreshold)
	case !slices.Contains(confine.Levels(), c.Isolation):
		return fmt.Errorf("isolation %q is none of %s", c.Isolation, strings.Join(confine.Levels(), ", "))
	case c.Network != warden.NetworkOwn && c.Network != warden.NetworkShared:
		return fmt.Errorf("network %q is neither %s nor %s", c.Network, warden.NetworkOwn, warden.NetworkShared)
	case c.WhenFull != WhenFullRefuse && c.WhenFull != WhenFullWarn:
		return fmt.Errorf("when_others_are_full %q is neither %s nor %s", c.WhenFull, WhenFullRefuse, WhenFullWarn)
	case !filepath.IsAbs(c.Warden):
		return fmt.Errorf("warden %q is not the absolute path of a program", c.Warden)
	}
	for _, interval := range []component.Seconds{c.Intervals.Heartbeat, c.Intervals.Advertise, c.Intervals.Monitor, c.Intervals.Reap, c.Intervals.Probe} {
		if interval <= 0 {
			return errors.New("intervals: heartbeat, advertise, monitor, crashes_reaper and probe must be above 0")
		}
	}
	for _, text := range c.Networks {
		if _, err := network.ParseDestination(text); err != nil {
			return fmt.Errorf("networks: %w", err)
		}
	}
	for _, path := range c.Visible {
		if !filepath.IsAbs(path) || filepath.Clean(path) == "/" {
			return fmt.Errorf("visible: %q is not a folder that apps can see", path)
		}
	}
	return nil
}

// clients returns the number of instances that may start or run.
func (c Config) clients() int {
	if !c.MultiTenant {
		return 1
	}
	return c.MaxClients
}
