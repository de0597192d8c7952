// Package install turns specs into what is on the VM's disk and running:
// packages, generations, links, hooks, and the order in which processes are
// drained, stopped and started. The files of package agent ask for one
// operation at a time; each is an ordered list of small steps that may be
// repeated after a crash.
package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// Supervisor starts and stops processes. Its calls are idempotent.
type Supervisor interface {
	Start(ctx context.Context, job string, p api.Process, generation string) error
	Stop(ctx context.Context, job, name string) error
	Drain(ctx context.Context, job, name string, timeout time.Duration) error
	Reload(ctx context.Context, job string, p api.Process) error
	Forget(ctx context.Context, job, name string) error
	Statuses() []api.ProcessStatus
	Expect(jobs []api.Job)
	WaitHealthy(ctx context.Context, minHealthy time.Duration) error
	LogTail(job, name string, lines int) []string
}

// Fetch writes the archive of the package with this digest to w. The caller
// verifies the digest.
type Fetch func(ctx context.Context, digest string, w io.Writer) error

// Report hears of an operation's progress and may end it.
type Report interface {
	// Proceed is asked before each step; an error ends the operation.
	Proceed() error
	// Event tells of one step. It may be called from several goroutines.
	Event(step, message string)
	// Output tells what an errand or a post_deploy hook said.
	Output(stream api.Stream, data []byte)
	// ID is the operation's, by which what its hooks have started is found.
	ID() string
}

// Config says where an installer works and with what.
type Config struct {
	Dir        string // the agent's folder
	Supervisor Supervisor
	// Withdraw takes processes (job and name) off the deployment's routers before
	// they are drained, and reports whether any was there. Rejoin undoes it for one
	// that runs on. Both may be nil.
	Withdraw func(ctx context.Context, processes [][2]string) bool
	Rejoin   func(job, name string)
	Fetch    Fetch
	// Guard makes the VM's firewall that of the generation that becomes active; nil: it
	// has none. It may itself be nil.
	Guard func(ctx context.Context, f *api.Firewall) error
	// Env is the environment of hooks, before their own variables.
	Env []string
	// ManagePackages lets the installer call the VM's package manager.
	ManagePackages bool
	// Damaged is told of a file that was set aside. It may be nil.
	Damaged func(string)
	Log     *slog.Logger
}

// Installer owns store/, incoming/, generations/, records/ and jobs/ of an
// agent's folder.
// One operation runs at a time; reads may come at any moment.
type Installer struct {
	Config

	mu    sync.Mutex
	state state
	// lost is why the spec of what is active could not be read when the agent began;
	// "" since an update has made it whole.
	lost string
	// census caches the answer of HasCensus.
	census censusJobs

	counting chan struct{} // held by the census in progress
	counted  atomic.Int64  // censuses so far

	// swapping is held while what is active becomes something else on disk.
	swapping sync.RWMutex
	records  *records
	packages packages
	hooks    hooks
}

// Open reads what is there.
func Open(c Config) (*Installer, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r := &records{dir: c.Dir, log: c.Log, all: map[string]*record{}}
	i := &Installer{Config: c, records: r, packages: packages{r, c.Fetch}, hooks: hooks{c.Dir, c.Env}, counting: make(chan struct{}, 1)}
	for _, name := range []string{"store", "incoming", "generations", "records", "jobs", "data", "log"} {
		if err := os.MkdirAll(i.path(name), 0o755); err != nil {
			return nil, fmt.Errorf("cannot make the agent's folder: %w", err)
		}
	}
	if err := i.load(); err != nil {
		return nil, err
	}
	return i, nil
}

func (i *Installer) path(parts ...string) string {
	return filepath.Join(append([]string{i.Dir}, parts...)...)
}

// Resume brings back what should run after the agent, or the VM, was started
// anew. What an interrupted update or a stop left stopped stays so until the
// next update.
func (i *Installer) Resume(ctx context.Context) error {
	s := i.snapshot()
	if s.Active == "" {
		i.Supervisor.Expect(nil)
		return nil
	}
	if s.Stopped {
		i.Supervisor.Expect(nil)
		return nil
	}
	spec, err := i.Spec(s.Active)
	if err != nil {
		i.lose(err.Error())
		return err
	}
	jobs := runnable(spec)
	i.Supervisor.Expect(jobs)
	if s.Pending != nil {
		return nil
	}
	there := byProcess(i.Supervisor.Statuses())
	var problems []error
	for _, job := range jobs {
		for _, p := range job.Processes {
			if status, ok := there[ref{job.Name, p.Name}]; ok && status.State != api.ProcessStopped {
				continue
			}
			if err := i.Supervisor.Start(ctx, job.Name, p, spec.Generation); err != nil {
				problems = append(problems, err)
			}
		}
	}
	return errors.Join(problems...)
}

// Lost returns why it is not known what should run, "" if it is.
func (i *Installer) Lost() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.lost
}

func (i *Installer) lose(why string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.lost = why
}

// ref names one process of an instance.
type ref struct{ job, name string }

func (r ref) String() string { return r.job + "/" + r.name }

func byProcess(statuses []api.ProcessStatus) map[ref]api.ProcessStatus {
	m := make(map[ref]api.ProcessStatus, len(statuses))
	for _, s := range statuses {
		m[ref{s.Job, s.Name}] = s
	}
	return m
}

// runnable returns the spec's jobs with processes that know where they run.
func runnable(spec api.Spec) []api.Job {
	jobs := slices.Clone(spec.Jobs)
	for n := range jobs {
		jobs[n].Processes = slices.Clone(jobs[n].Processes)
		for m := range jobs[n].Processes {
			p := &jobs[n].Processes[m]
			env := map[string]string{"DEPLOY_INSTANCE": spec.Instance, "DEPLOY_ADDRESS": spec.Address}
			for k, v := range p.Env {
				env[k] = v
			}
			p.Env = env
		}
	}
	return jobs
}

// step is one idempotent piece of an operation.
type step struct {
	name string
	run  func(context.Context) error
}

// runSteps runs the steps in order and says in which one an operation ended.
func runSteps(ctx context.Context, report Report, steps []step) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := report.Proceed(); err != nil {
			return err
		}
		if err := s.run(ctx); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			var known *api.Error
			if errors.As(err, &known) {
				return err
			}
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}
