package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/internal/health"
	"github.com/clusterworks/deploy/agent/internal/shim"
)

// Config says where processes live and what they are started with.
type Config struct {
	Dir  string   // the agent's folder, absolute
	Shim []string // command that runs the shim, an absolute path first; "--dir DIR" is appended
	Env  []string // environment of every process before its own, and of every shim
	Log  *slog.Logger
	// Changed is called after transitions, one call at a time; those that follow
	// each other quickly share one. It must not block. It may be nil.
	Changed func()
	// Damaged is told of each file that was set aside. It may be nil.
	Damaged func(string)
}

// Supervisor keeps the processes of an instance as they are wanted.
type Supervisor struct {
	config Config
	ctx    context.Context
	cancel context.CancelCauseFunc
	work   sync.WaitGroup // every goroutine

	changed chan struct{} // something to tell Config.Changed

	mu        sync.Mutex
	processes map[key]*process
	views     map[key]view
	expected  []expectation
	expectAt  time.Time       // when they were last told
	healthy   time.Time       // since when without a break; zero if not
	wake      chan struct{}   // closed at the next change of health
	samples   map[key]*sample // cpu and memory
}

// view describes what a process tells of itself. What is in it is not changed.
type view struct {
	status      api.ProcessStatus
	id          string         // of the start that runs, "" if none
	command     health.Command // of the start that runs
	crashed     bool
	crashes     crashes
	reloadError string
	log         logMark // where the words of the last start begin
}

var (
	errClosed     = errors.New("the supervisor is closed")
	errSuperseded = errors.New("the process got another command meanwhile")
)

// Open takes up what an earlier supervisor has left: what runs goes on running,
// what ended meanwhile is accounted for, and what is wanted and does not run is
// started again. It returns when all that is known; ctx bounds that alone, Close
// ends the supervisor.
func Open(ctx context.Context, c Config) (*Supervisor, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	all, err := loadWanted(c.Dir, c.Damaged)
	if err != nil {
		return nil, err
	}
	s := &Supervisor{
		config:    c,
		changed:   make(chan struct{}, 1),
		processes: make(map[key]*process),
		views:     make(map[key]view),
		wake:      make(chan struct{}),
		samples:   make(map[key]*sample),
	}
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	s.work.Go(s.tell)
	var adopted sync.WaitGroup
	s.mu.Lock()
	for k, w := range all {
		adopted.Add(1)
		s.add(k, w, adopted.Done)
	}
	s.mu.Unlock()
	known := make(chan struct{})
	s.work.Go(func() { adopted.Wait(); close(known) })
	select {
	case <-known:
		return s, nil
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("cannot find out what runs: %w", context.Cause(ctx)), s.Close())
	}
}

// Close lets go of the processes, which run on.
func (s *Supervisor) Close() error {
	s.mu.Lock() // nothing is added from here on
	s.cancel(errClosed)
	s.mu.Unlock()
	s.work.Wait()
	return nil
}

// tell calls Config.Changed.
func (s *Supervisor) tell() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.changed:
			if s.config.Changed != nil {
				s.config.Changed()
			}
		}
	}
}

// add begins to own a process. s.mu is held.
func (s *Supervisor) add(k key, w wanted, adopted func()) *process {
	p := newProcess(s, k, w)
	s.processes[k] = p
	s.work.Go(func() { p.loop(adopted) })
	return p
}

// find gives the process, nil if there is none and it shall not be added.
func (s *Supervisor) find(job, name string, add bool) (*process, error) {
	for _, n := range []string{job, name} {
		if err := checkName(n); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil, errClosed
	}
	k := key{job, name}
	p := s.processes[k]
	if p == nil && add {
		p = s.add(k, wanted{}, func() {})
	}
	return p, nil
}

// ask lets the process's loop do something and waits for its reply.
func (p *process) ask(ctx context.Context, do func(reply chan<- error)) error {
	reply := make(chan error, 1)
	select {
	case p.requests <- func() { do(reply) }:
	case <-ctx.Done():
		return fmt.Errorf("%s is busy: %w", p.key, context.Cause(ctx))
	case <-p.done:
		return errClosed
	}
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s takes too long: %w", p.key, context.Cause(ctx))
	case <-p.done:
		select {
		case err := <-reply: // its last deed
			return err
		default:
			return errClosed
		}
	}
}

// Start makes a process run, from this spec and from now on, also after a
// reboot. It returns when it was started; whether it stays up is Health's and
// WaitHealthy's matter. A process that runs with the same Digest is left alone,
// one with another is stopped first. When it could not be started the error is
// an *api.Error with the end of its log, and it is tried again by its restart
// policy until it is stopped.
func (s *Supervisor) Start(ctx context.Context, job string, wanted api.Process, generation string) error {
	p, err := s.find(job, wanted.Name, true)
	if err != nil {
		return err
	}
	err = p.ask(ctx, func(reply chan<- error) { p.start(startRequest{wanted, generation, reply}) })
	if err == nil || ctx.Err() != nil || errors.Is(err, errClosed) || errors.Is(err, errSuperseded) {
		return err
	}
	return &api.Error{
		Code: api.CodeFailed, Message: fmt.Sprintf("cannot start %s: %v", p.key, err),
		Process: &api.ProcessFailure{Job: job, Name: wanted.Name, Log: s.LogTail(job, wanted.Name, failureLines)},
	}
}

// Stop ends a process by its stop signal and, after the grace period, KILL, as
// its kill mode says. It stays stopped, also after a reboot. Stopping what does
// not run is no error.
func (s *Supervisor) Stop(ctx context.Context, job, name string) error {
	p, err := s.find(job, name, false)
	if p == nil {
		return err
	}
	if err := p.ask(ctx, p.end); err != nil {
		return fmt.Errorf("cannot stop %s: %w", p.key, err)
	}
	return nil
}

// Forget removes what is known of a stopped process, but for its log and data.
func (s *Supervisor) Forget(ctx context.Context, job, name string) error {
	p, err := s.find(job, name, false)
	if p == nil {
		return err
	}
	if err := p.ask(ctx, p.remove); err != nil {
		return err
	}
	<-p.done
	return nil
}

// Drain lets a process that serves the control contract end its work, within
// timeout. From then on an end of its own is no crash, and Stop or Start must
// follow. A process without control, or one that does not run, is drained.
func (s *Supervisor) Drain(ctx context.Context, job, name string, timeout time.Duration) error {
	p, err := s.find(job, name, false)
	if p == nil {
		return err
	}
	var control health.Control
	err = p.ask(ctx, func(reply chan<- error) {
		if p.conn != nil && p.wanted.Process.Control {
			control, p.draining = p.target.Control, true
		}
		reply <- nil
	})
	if err != nil || control == "" {
		return err
	}
	limited, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done within %s", timeout))
	defer cancel()
	err = control.Drain(limited)
	if err == nil || s.endsSoon(ctx, p.key) {
		return nil
	}
	return fmt.Errorf("cannot drain %s: %w", p.key, err)
}

// endsSoon tells whether a process that did not answer has ended: that is
// noticed a moment later.
func (s *Supervisor) endsSoon(ctx context.Context, k key) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for {
		s.mu.Lock()
		v, wake := s.views[k], s.wake
		s.mu.Unlock()
		if v.id == "" {
			return true
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return false
		case <-s.ctx.Done():
			return false
		}
	}
}

// defaultReload bounds a reload that does not say.
const defaultReload = 10 * time.Second

// Reload makes a running process take its changed files, as p says. When that
// and its verification have succeeded, p.ReloadDigest is what it has loaded;
// else the reload stays owed.
func (s *Supervisor) Reload(ctx context.Context, job string, wanted api.Process) error {
	k := key{job, wanted.Name}
	fail := func(err error) error { return fmt.Errorf("cannot reload %s: %w", k, err) }
	p, err := s.find(job, wanted.Name, false)
	if err != nil {
		return fail(err)
	}
	v := s.view(k)
	switch {
	case p == nil, v.id == "":
		return fail(errors.New("it does not run; start it"))
	case wanted.Reload == nil:
		return fail(errors.New("its job has no way to reload; restart it"))
	case v.status.Digest != wanted.Digest:
		return fail(errors.New("it runs from another spec; restart it"))
	}
	timeout := time.Duration(wanted.Reload.TimeoutMS) * time.Millisecond
	if timeout <= 0 {
		timeout = defaultReload
	}
	limited, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done within %s", timeout))
	defer cancel()
	if err := p.ask(ctx, func(reply chan<- error) { reply <- p.reloading(v.id) }); err != nil {
		return fail(err)
	}
	result := s.reload(limited, p, v, *wanted.Reload)
	err = p.ask(ctx, func(reply chan<- error) { reply <- p.reloaded(v.id, wanted.ReloadDigest, result) })
	if err != nil {
		return fail(err)
	}
	return nil
}

func (s *Supervisor) reload(ctx context.Context, p *process, v view, how api.Reload) error {
	run := func(args []string) error {
		command := v.command
		command.Args = args
		return command.Run(ctx)
	}
	var err error
	switch {
	case how.Control:
		err = health.Control(p.names.control()).Reload(ctx)
	case len(how.Command) > 0:
		err = run(how.Command)
	case how.Signal != "":
		err = shim.Signal(ctx, p.names.shim(), how.Signal)
	default:
		err = errors.New("its job names no signal, command or control for it")
	}
	if err != nil || len(how.Verify) == 0 {
		return err
	}
	if err := run(how.Verify); err != nil {
		return fmt.Errorf("its verification: %w", err)
	}
	return nil
}

// Expect tells what the health rule expects from now on: the processes of the
// active generation, none if the instance is to be stopped. To be told before
// those processes are started.
func (s *Supervisor) Expect(jobs []api.Job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expected = expectationsOf(jobs)
	s.expectAt = time.Now()
	s.assess(time.Now())
	s.notify()
}

func (s *Supervisor) view(k key) view {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.views[k]
}

// publish takes what a process tells of itself.
func (s *Supervisor) publish(k key, v view) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.views[k]
	s.views[k] = v
	s.assess(time.Now())
	if !sameStatus(was.status, v.status) || was.reloadError != v.reloadError {
		s.notify()
	}
}

// sameStatus tells whether nobody needs to hear of a change: reasons change
// with every answer of a check.
func sameStatus(a, b api.ProcessStatus) bool {
	return a.State == b.State && a.PID == b.PID && a.Restarts == b.Restarts &&
		a.Digest == b.Digest && a.ReloadDigest == b.ReloadDigest && a.LastExit == b.LastExit
}

// unpublish forgets a process.
func (s *Supervisor) unpublish(k key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.processes, k)
	delete(s.views, k)
	delete(s.samples, k)
	s.assess(time.Now())
	s.notify()
}

// notify wakes whoever waits, and Config.Changed. s.mu is held.
func (s *Supervisor) notify() {
	close(s.wake)
	s.wake = make(chan struct{})
	select {
	case s.changed <- struct{}{}:
	default: // a call is due, and will see the latest
	}
}

// Statuses tells how all known processes are, sorted by job and name.
func (s *Supervisor) Statuses() []api.ProcessStatus {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]api.ProcessStatus, 0, len(s.views))
	for k, v := range s.views {
		status := v.status
		if status.PID != 0 {
			if s.samples[k] == nil {
				s.samples[k] = &sample{}
			}
			s.samples[k].take(&status, now)
		}
		all = append(all, status)
	}
	slices.SortFunc(all, func(a, b api.ProcessStatus) int {
		return key{a.Job, a.Name}.compare(key{b.Job, b.Name})
	})
	return all
}
