package node

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Config is a node's file, without the keys of its service.
type Config struct {
	component.Config `yaml:",inline"`

	// NodeID is the node's name on the bus: <service>_node_<plan>_<index>.
	NodeID string `yaml:"node_id"`
	// Plan holds what its instances are, Capacity how many it takes.
	Plan     string `yaml:"plan"`
	Capacity int    `yaml:"capacity"`
	// BaseDir is the folder of the node's data.
	BaseDir string `yaml:"base_dir"`
	// SupportedVersions are announced; empty: the version of the server that is
	// found. DefaultVersion is taken when a request names none.
	SupportedVersions []string `yaml:"supported_versions"`
	DefaultVersion    string   `yaml:"default_version"`
	// OpTimeLimit bounds an operation, 6 s unless set.
	OpTimeLimit component.Seconds `yaml:"op_time_limit"`
	// AnnounceInterval is the time between two announces, 30 s unless set.
	AnnounceInterval component.Seconds `yaml:"announce_interval"`
	// Disabled nodes take no new instance and announce nothing; those that they have
	// are served. A file of the name DisabledFile does the same, while it is there.
	Disabled     bool   `yaml:"disabled"`
	DisabledFile string `yaml:"disabled_file"`
	// MigrationNFS is a folder that all nodes of the service share, through which
	// instances move; "": none move.
	MigrationNFS string `yaml:"migration_nfs"`
	// Snapshots is the place where snapshots of instances are kept, and how many.
	Snapshots SnapshotConfig `yaml:"snapshots"`
	// Ports are for the instances of a service that has a server for each.
	Ports PortRange `yaml:"ports"`
}

// SnapshotConfig describes what a node's file says of snapshots.
type SnapshotConfig struct {
	// Folder has them, below it one folder for each node; "": there are no snapshots. It
	// is an absolute path, best on a disk of its own.
	Folder string `yaml:"folder"`
	// Max is the number of snapshots that an instance's owner may have, 5 unless set; MaxMB bounds each, 1024
	// unless set.
	Max   int `yaml:"max"`
	MaxMB int `yaml:"max_mb"`
	// TimeLimit bounds a job, 1800 s unless set.
	TimeLimit component.Seconds `yaml:"time_limit"`
	// Every is the time between two scheduled snapshots of an instance; 0: there are none.
	// Keep is how many of them stay, 7 unless set.
	Every component.Seconds `yaml:"every"`
	Keep  int               `yaml:"keep"`
}

func (s SnapshotConfig) check() error {
	switch {
	case s.Folder != "" && !filepath.IsAbs(s.Folder):
		return fmt.Errorf("snapshots.folder must be an absolute path, not %q", s.Folder)
	case s.Max < 0 || s.Max > 1000:
		return errors.New("snapshots.max is not within 0 and 1000")
	case s.MaxMB < 1 || s.MaxMB > 1<<20:
		return errors.New("snapshots.max_mb is not within 1 and 1048576")
	case s.TimeLimit <= 0 || s.TimeLimit.Duration() > 24*time.Hour:
		return errors.New("snapshots.time_limit must be a number of seconds, at most a day")
	case s.Every != 0 && (s.Every.Duration() < time.Minute || s.Every.Duration() > 366*24*time.Hour):
		return errors.New("snapshots.every must be 0, for no schedule, or between a minute and a year, in seconds")
	case s.Every != 0 && s.Folder == "":
		return errors.New("snapshots.every asks for snapshots, but snapshots.folder is empty")
	case s.Keep < 1 || s.Keep > 1000:
		return errors.New("snapshots.keep is not within 1 and 1000")
	}
	return nil
}

// PortRange is a range of ports, both ends in it. The zero value is empty.
type PortRange struct{ Low, High int }

// UnmarshalYAML reads "6400-6599".
func (r *PortRange) UnmarshalYAML(unmarshal func(any) error) error {
	var text string
	if err := unmarshal(&text); err != nil {
		return errors.New(`want a range of ports, as "6400-6599"`)
	}
	if _, err := fmt.Sscanf(text+"\n", "%d-%d\n", &r.Low, &r.High); err != nil || r.Low < 1 || r.High > 65535 || r.Low > r.High {
		return fmt.Errorf(`%q is no range of ports, as "6400-6599"`, text)
	}
	return nil
}

// maxOperation bounds op_time_limit.
const maxOperation = 600 * time.Second

// load reads a configuration file, with it as it stands.
func load(file string, own any) (Config, map[string]any, error) {
	cfg := Config{Capacity: 200, Plan: "free", OpTimeLimit: 6, AnnounceInterval: component.Seconds(wire.ServiceAnnounceInterval.Seconds()),
		Snapshots: SnapshotConfig{Max: 5, MaxMB: 1024, TimeLimit: 1800, Keep: 7},
	}
	raw, err := component.Load(file, &cfg)
	if err != nil {
		return Config{}, nil, err
	}
	if own != nil {
		if _, err := component.Load(file, own); err != nil {
			return Config{}, nil, err
		}
	}
	switch {
	case !wire.ValidServiceNode(cfg.NodeID):
		err = fmt.Errorf("node_id %q must be letters, digits, '_' and '-', at most 128", cfg.NodeID)
	case cfg.Plan == "":
		err = errors.New("plan is empty")
	case cfg.Capacity < 0 || cfg.Capacity > 1_000_000:
		err = errors.New("capacity is not within 0 and 1000000")
	case !filepath.IsAbs(cfg.BaseDir):
		err = fmt.Errorf("base_dir must be an absolute path, not %q", cfg.BaseDir)
	case cfg.MigrationNFS != "" && !filepath.IsAbs(cfg.MigrationNFS):
		err = fmt.Errorf("migration_nfs must be an absolute path, not %q", cfg.MigrationNFS)
	case cfg.OpTimeLimit <= 0 || cfg.OpTimeLimit.Duration() > maxOperation:
		err = errors.New("op_time_limit must be a number of seconds, at most 600")
	case cfg.AnnounceInterval <= 0 || cfg.AnnounceInterval.Duration() >= wire.ServiceNodeLost:
		err = errors.New("announce_interval must be a number of seconds below 300, after which gateways forget a silent node")
	}
	if err == nil {
		err = cfg.Snapshots.check()
	}
	if err != nil {
		return Config{}, nil, fmt.Errorf("cannot use the configuration %s: %w", file, err)
	}
	return cfg, raw, nil
}
