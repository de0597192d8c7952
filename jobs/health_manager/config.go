package healthmanager

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Config is the health manager's file: the original's keys and our own.
type Config struct {
	component.Config `yaml:",inline"`

	// Partition is the cloud controllers', as theirs and the DEAs' cc_partition.
	Partition string    `yaml:"cc_partition"`
	BulkAPI   BulkAPI   `yaml:"bulk_api"`
	Intervals Intervals `yaml:"intervals"`
	// DequeueingRate is the number of starts that leave the queue a second, as the
	// original's first version has it; nil: see Intervals, 0: nothing is queued.
	DequeueingRate *int `yaml:"dequeueing_rate"`
}

// BulkAPI describes where the wanted state is read.
type BulkAPI struct {
	// Host is the API's URL. Addresses, host:port each, are those of the cloud
	// controllers; they are asked for Host directly, so that neither DNS nor a
	// router is needed. None: the controller that answers on the bus says where it
	// is, and if it does not (the original's) Host is looked up.
	Host      string   `yaml:"host"`
	Addresses []string `yaml:"addresses"`
	BatchSize int      `yaml:"batch_size"` // apps in an answer
}

// Intervals are the health manager's times and numbers, with the original's
// names and defaults.
type Intervals struct {
	DesiredStateUpdate  component.Seconds  `yaml:"desired_state_update"`  // between two readings of all apps
	ExpectedStateUpdate *component.Seconds `yaml:"expected_state_update"` // its earlier name
	DesiredStateLost    component.Seconds  `yaml:"desired_state_lost"`    // an older reading is not acted on
	DropletLost         component.Seconds  `yaml:"droplet_lost"`          // an instance not heard of for longer is gone
	DropletsAnalysis    component.Seconds  `yaml:"droplets_analysis"`     // between two analyses
	RestartTimeout      component.Seconds  `yaml:"restart_timeout"`       // between two requests for the same
	FlappingDeath       int                `yaml:"flapping_death"`        // an index with more crashes flaps
	FlappingTimeout     component.Seconds  `yaml:"flapping_timeout"`      // after so long without one, crashes are forgotten
	MinRestartDelay     component.Seconds  `yaml:"min_restart_delay"`     // of a flapping index, doubled each time
	MaxRestartDelay     component.Seconds  `yaml:"max_restart_delay"`
	DelayTimeNoise      component.Seconds  `yaml:"delay_time_noise"`    // added or taken away at random
	GiveupCrashNumber   int                `yaml:"giveup_crash_number"` // an index with more crashes is not started again; -1: always
	QueueBatchSize      int                `yaml:"queue_batch_size"`    // starts that leave the queue together
	RequestQueue        component.Seconds  `yaml:"request_queue"`       // between two batches
	Presence            component.Seconds  `yaml:"presence"`            // between two words to other health managers; ours
}

// Settings describe what the judgement depends on.
type Settings struct {
	Partition          string
	DesiredStateUpdate time.Duration
	DesiredStateLost   time.Duration
	DropletLost        time.Duration
	RestartTimeout     time.Duration
	FlappingDeath      int
	FlappingTimeout    time.Duration
	MinRestartDelay    time.Duration
	MaxRestartDelay    time.Duration
	DelayTimeNoise     time.Duration
	GiveupCrashNumber  int
}

// defaults are the values of the keys that a file leaves out: the original's,
// of its second version; restart_timeout is the first one's, which the second
// has not.
func defaults() Config {
	return Config{
		Partition: wire.DefaultPartition,
		BulkAPI:   BulkAPI{BatchSize: 200},
		Intervals: Intervals{
			DesiredStateUpdate: 60,
			DesiredStateLost:   180,
			DropletLost:        30,
			DropletsAnalysis:   20,
			RestartTimeout:     20,
			FlappingDeath:      1,
			FlappingTimeout:    500,
			MinRestartDelay:    60,
			MaxRestartDelay:    480,
			DelayTimeNoise:     5,
			GiveupCrashNumber:  4,
			QueueBatchSize:     40,
			RequestQueue:       1,
			Presence:           1,
		},
	}
}

// settings are the judgement's.
func (c Config) settings() Settings {
	i := c.Intervals
	return Settings{
		Partition:          c.Partition,
		DesiredStateUpdate: i.DesiredStateUpdate.Duration(),
		DesiredStateLost:   i.DesiredStateLost.Duration(),
		DropletLost:        i.DropletLost.Duration(),
		RestartTimeout:     i.RestartTimeout.Duration(),
		FlappingDeath:      i.FlappingDeath,
		FlappingTimeout:    i.FlappingTimeout.Duration(),
		MinRestartDelay:    i.MinRestartDelay.Duration(),
		MaxRestartDelay:    i.MaxRestartDelay.Duration(),
		DelayTimeNoise:     i.DelayTimeNoise.Duration(),
		GiveupCrashNumber:  i.GiveupCrashNumber,
	}
}

// load reads a configuration file, with it as it stands.
func load(file string) (Config, map[string]any, error) {
	cfg := defaults()
	raw, err := component.Load(file, &cfg)
	if err != nil {
		return Config{}, nil, err
	}
	if cfg.Intervals.ExpectedStateUpdate != nil {
		cfg.Intervals.DesiredStateUpdate = *cfg.Intervals.ExpectedStateUpdate
	}
	if rate := cfg.DequeueingRate; rate != nil {
		cfg.Intervals.QueueBatchSize, cfg.Intervals.RequestQueue = *rate, 1
	}
	if err := cfg.check(); err != nil {
		return Config{}, nil, fmt.Errorf("cannot use the configuration %s: %w", file, err)
	}
	return cfg, raw, nil
}

// maxSeconds bounds every interval: thirty years.
const maxSeconds = 1e9

func (c Config) check() error {
	u, err := url.Parse(c.BulkAPI.Host)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("bulk_api.host %q is not the URL of the cloud controller, as \"http://api.example.com\"", c.BulkAPI.Host)
	}
	i := c.Intervals
	for _, n := range []struct {
		name  string
		value component.Seconds
		least component.Seconds // above 0: must be above it
	}{
		{"desired_state_update", i.DesiredStateUpdate, 0.01},
		{"desired_state_lost", i.DesiredStateLost, 0.01},
		{"droplet_lost", i.DropletLost, 0.01},
		{"droplets_analysis", i.DropletsAnalysis, 0.01},
		{"restart_timeout", i.RestartTimeout, 0.01},
		{"flapping_timeout", i.FlappingTimeout, 0},
		{"min_restart_delay", i.MinRestartDelay, 0},
		{"max_restart_delay", i.MaxRestartDelay, 0},
		{"delay_time_noise", i.DelayTimeNoise, 0},
		{"request_queue", i.RequestQueue, 0.01},
		{"presence", i.Presence, 0.01},
	} {
		if !(n.value >= n.least && n.value <= maxSeconds) {
			return fmt.Errorf("intervals.%s is %g seconds, not within %g and %g", n.name, float64(n.value), float64(n.least), float64(maxSeconds))
		}
	}
	switch {
	case c.BulkAPI.BatchSize < 1:
		return errors.New("bulk_api.batch_size is below 1")
	case i.FlappingDeath < 0:
		return errors.New("intervals.flapping_death is below 0")
	case i.GiveupCrashNumber < -1:
		return errors.New("intervals.giveup_crash_number is below -1")
	case i.QueueBatchSize < 0:
		return errors.New("intervals.queue_batch_size (or dequeueing_rate) is below 0")
	}
	return nil
}
