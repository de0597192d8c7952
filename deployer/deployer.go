// Package deployer makes a cluster what its manifest says: it plans, drives the
// engine that makes VMs, puts agents on them, and rolls changes out. It prints
// nothing; it reports Events.
//
// Each file is a use case: its steps in order, with values passed from one to the
// next. What they do is in the packages below internal.
package deployer

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/deployer/internal/credentials"
	"github.com/clusterworks/deploy/deployer/internal/desired"
	"github.com/clusterworks/deploy/deployer/internal/execute"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/infra"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/source"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// Config configures a Deployer. All fields are required unless they say otherwise.
type Config struct {
	Manifest string            // file or folder
	StateDir string            // default: .deploy beside the manifest
	Vars     map[string]string // values of variables by name
	VarFiles []string
	// Values are values of variables that come last of all, before the defaults.
	Values    map[string]cty.Value
	Environ   []string // where DEPLOY_VAR_name is looked up
	Jobs      fs.FS    // built-in jobs
	Templates fs.FS    // built-in templates
	Packages  string   // folder of built packages
	// Executable is the deploy program: local VMs run it as their init.
	Executable string
	// Parallel is the number of VMs that are worked on side by side; default 16.
	Parallel int
	// Report receives events, concurrently; default: nobody.
	Report func(Event)
	// Passphrase asks for the passphrase of an encrypted state, a new one if
	// confirm; nil: there is nobody to ask.
	Passphrase func(confirm bool) (string, error)
	// Identity is a file of age identities that open an encrypted state; "" is none.
	Identity string
	// LockWait is the time to wait for another run on the same deployment.
	// Takeover takes the lock from a run that still holds it.
	LockWait time.Duration
	Takeover bool
	// AskBuild is asked before an engine is built, which takes minutes; nil: it is
	// built.
	AskBuild func() (bool, error)
	// Interrupt, once closed, ends a run gracefully: what is in flight finishes.
	Interrupt <-chan struct{}
	Log       *slog.Logger
}

// Deployer works on one deployment.
type Deployer struct {
	config   Config
	source   *source.Source
	counters session.Counters
	adopts   bool // the manifest takes the place of the one that the state is of

	confirmTime time.Duration // confirmTime, shorter in tests
}

// New checks the configuration and fills in defaults.
func New(c Config) (*Deployer, error) {
	if _, err := os.Stat(c.Manifest); err != nil {
		return nil, fmt.Errorf("cannot read the manifest: %w", err)
	}
	if c.StateDir == "" {
		dir := c.Manifest
		if info, err := os.Stat(dir); err == nil && !info.IsDir() {
			dir = filepath.Dir(dir)
		}
		c.StateDir = filepath.Join(dir, ".deploy")
	}
	abs, err := filepath.Abs(c.StateDir)
	if err != nil {
		return nil, fmt.Errorf("cannot find the state folder: %w", err)
	}
	c.StateDir = abs
	if c.Parallel == 0 {
		c.Parallel = 16
	}
	if c.Report == nil {
		c.Report = func(Event) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	d := &Deployer{config: c, confirmTime: confirmTime}
	d.source = source.New(source.Options{
		Manifest: c.Manifest, StateDir: c.StateDir, Vars: c.Vars, VarFiles: c.VarFiles, Values: c.Values, Environ: c.Environ,
		Jobs: c.Jobs, Packages: c.Packages, Keys: &state.Keys{Ask: c.Passphrase, IdentityFile: c.Identity},
		Warn: func(err error) {
			d.config.Report(Event{At: time.Now(), Phase: PhaseLoad, Message: err.Error()})
		},
	})
	return d, nil
}

// at returns a deployer to which a kept revision is the manifest. A revision is that of
// the manifest that has the state: what another one of the same name may not do, it may
// not do by a revision either.
func at(d *Deployer, number int) (*Deployer, error) {
	store, err := d.source.Store()
	if err != nil {
		return nil, err
	}
	if st, err := store.LoadState(); err != nil {
		return nil, err
	} else if st != nil && !d.adopts {
		if err := d.source.CheckOwner(st.Manifest, st.Deployment, store.Dir); err != nil {
			return nil, err
		}
	}
	revision, err := d.source.At(number)
	if err != nil {
		return nil, err
	}
	return &Deployer{config: d.config, source: revision, confirmTime: d.confirmTime}, nil
}

func (c Config) options(counters *session.Counters) session.Options {
	return session.Options{
		Report: c.Report, Log: c.Log, Interrupt: c.Interrupt, Parallel: c.Parallel,
		LockWait: c.LockWait, Takeover: c.Takeover, Counters: counters,
	}
}

// open reads manifest and state.
func (d *Deployer) open() (*session.Session, error) {
	m, store, err := d.source.Locate()
	if err != nil {
		return nil, err
	}
	x, err := session.Open(d.config.options(&d.counters), store, m)
	if err != nil {
		return nil, err
	}
	if id := d.source.Identity(); id.Path != "" {
		if !d.adopts {
			if err := d.source.CheckOwner(x.State.Manifest, x.State.Deployment, store.Dir); err != nil {
				return nil, err
			}
		}
		x.State.Manifest = id // written with the next change
	}
	return x, nil
}

// deployment is a deployment as a use case works on it.
type deployment struct {
	*session.Session
	credentials *credentials.Credentials
	packages    *source.Packages
	fleet       *fleet.Fleet
	infra       *infra.Infra
	desired     *desired.Renderer
	rollouts    *execute.Rollouts
	manifestDir string // that the manifest's files are in
}

// load is open, and brings the state's instances and secrets, in memory, to what
// the manifest wants. The caller closes the fleet.
func (d *Deployer) load() (*deployment, error) {
	s, err := d.open()
	if err != nil {
		return nil, err
	}
	x := &deployment{Session: s, credentials: credentials.Of(s), manifestDir: d.source.Dir()}
	if x.packages, err = d.source.Packages(s); err != nil {
		return nil, err
	}
	for _, m := range s.Manifest.Moves {
		if err := state.Move(s.State, s.Secrets, m.From, m.To); err != nil {
			return nil, err
		}
	}
	s.Assign()
	if err := x.credentials.Ensure(); err != nil {
		return nil, err
	}
	x.fleet = fleet.New(s, x.credentials, x.packages, fleet.Options{Environ: d.config.Environ, Dir: d.source.Dir()})
	x.infra = infra.New(s, x.credentials, x.fleet, infra.Options{
		Templates: d.config.Templates, Executable: d.config.Executable, Dir: d.source.Dir(), AskBuild: d.config.AskBuild,
	})
	x.desired = desired.New(s, x.credentials, x.packages)
	x.rollouts = &execute.Rollouts{
		Session: s, Credentials: x.credentials, Fleet: x.fleet, Infra: x.infra, Desired: x.desired, Manifest: d.config.Manifest,
	}
	return x, nil
}

// change holds the deployment's lock while f works on it; see session.Change.
func (d *Deployer) change(ctx context.Context, f func(*deployment) error) error {
	before, err := d.load()
	if err != nil {
		return err
	}
	var x *deployment
	reopen := func() (*session.Session, error) {
		if x, err = d.load(); err != nil {
			return nil, err
		}
		return x.Session, nil
	}
	return session.Change(ctx, before.Session, reopen, func(*session.Session) error {
		defer x.fleet.Close()
		return f(x)
	})
}

// changeState is change for what is in the state only.
func (d *Deployer) changeState(ctx context.Context, f func(*session.Session) error) error {
	s, err := d.open()
	if err != nil {
		return err
	}
	return session.Change(ctx, s, d.open, f)
}

// begin takes the lease of a change.
func (x *deployment) begin(what string) error { return x.Begin(what, x.fleet.HighestEpoch()) }
