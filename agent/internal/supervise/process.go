package supervise

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"reflect"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/host/parent"
	"github.com/clusterworks/deploy/agent/host/proc"
	"github.com/clusterworks/deploy/agent/internal/health"
	"github.com/clusterworks/deploy/agent/internal/shim"
)

const (
	// shimTimeout bounds the start of a shim, and how long one is asked whether it
	// lives; stopTimeout its answer to a stop, which it has at once.
	shimTimeout = 10 * time.Second
	stopTimeout = 4 * time.Second
	// overdueAfter is the time that after the grace period a stop may take before the shim
	// is killed, and the process with it.
	overdueAfter = 5 * time.Second
	// sweepTimeout bounds the end of what a dead shim has left behind.
	sweepTimeout = 10 * time.Second
)

// process keeps one process as it is wanted. Its loop owns all fields; others
// send it functions through requests.
type process struct {
	*Supervisor
	key
	names names
	log   *slog.Logger

	requests chan func()
	gone     chan *shim.Conn // its shim has ended
	answers  chan answer
	done     chan struct{} // closed when the loop has ended
	forget   bool          // the loop shall end

	state  api.ProcessState
	wanted wanted
	record
	run
	checking
	pending

	pause   *time.Timer // eventRetry
	overdue *time.Timer // the stop takes too long
}

// record describes how a process did so far.
type record struct {
	history     history
	policy      restarts
	reason      string
	crashed     bool // ended by itself and not ready since
	crashes     crashes
	pauseLength time.Duration // before the next start
}

// run is a run of a process, from its launch to its end.
type run struct {
	conn        *shim.Conn    // nil when nothing runs
	running     shim.Spec     // of conn
	target      health.Target // of conn
	launched    error         // why the last launch failed
	draining    bool          // an end is as asked for
	reloadError string        // of the last reload
}

// checking describes how the checks of a start go.
type checking struct {
	checks    *checklist // nil when no checks run
	endChecks context.CancelFunc
	settled   *time.Timer // eventReady for a process without checks
}

// pending describes what somebody waits for.
type pending struct {
	stopped []chan<- error // whom to tell of the end
	then    *startRequest  // what to start after the end
}

// crashes counts unexpected ends that this supervisor has seen.
type crashes struct {
	last   time.Time // monotonic
	stable time.Duration
}

// startRequest is a wish to start.
type startRequest struct {
	process    api.Process
	generation string
	reply      chan<- error
}

func newProcess(s *Supervisor, k key, w wanted) *process {
	return &process{
		Supervisor: s, key: k, wanted: w,
		names:    names{s.config.Dir, k.job, k.name},
		log:      s.config.Log.With("job", k.job, "process", k.name),
		requests: make(chan func()),
		gone:     make(chan *shim.Conn),
		answers:  make(chan answer),
		done:     make(chan struct{}),
		state:    api.ProcessStopped,
		checking: checking{settled: idleTimer()}, pause: idleTimer(), overdue: idleTimer(),
	}
}

// idleTimer is a timer that waits for its Reset.
func idleTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// loop lives until the supervisor is closed or the process forgotten. adopted
// is called once it is known what runs.
func (p *process) loop(adopted func()) {
	defer close(p.done)
	p.adopt()
	adopted()
	for !p.forget {
		select {
		case <-p.ctx.Done():
			p.letGo()
			return
		case request := <-p.requests:
			request()
		case conn := <-p.gone:
			if conn == p.conn {
				p.ended()
			}
		case <-p.settled.C:
			p.apply(eventReady)
		case <-p.pause.C:
			p.apply(eventRetry)
		case <-p.overdue.C:
			p.killShim()
		case a := <-p.answers:
			p.answered(a)
		}
	}
}

// letGo ends everything but the process.
func (p *process) letGo() {
	p.unwatch()
	for _, timer := range []*time.Timer{p.pause, p.overdue} {
		timer.Stop()
	}
	if p.conn != nil {
		_ = p.conn.Close() // ends the goroutine that awaits its end
	}
}

// apply does what an event asks for and tells the supervisor.
func (p *process) apply(e event) {
	state, actions := next(p.state, e)
	if state != p.state {
		p.log.Info("process is "+string(state), "was", p.state, "reason", p.reason)
	}
	if state == api.ProcessRunning {
		p.reason, p.crashed = "", false
	}
	p.state = state
	p.publish()
	for _, a := range actions {
		switch a {
		case actLaunch:
			p.launch()
		case actStop:
			p.stop()
		case actPause:
			p.pause.Reset(p.pauseLength)
		case actEndPause:
			p.pause.Stop()
		case actEndChecks:
			p.unwatch()
		}
	}
}

// adopt finds out what an earlier supervisor has left.
func (p *process) adopt() {
	var err error
	if p.history, err = loadHistory(p.names); err != nil {
		p.log.Warn("resetting the count of restarts", "err", err)
	}
	p.policy = newRestarts(p.wanted.Process.Restart, p.history.Row)
	spec, err := shim.ReadSpec(p.names.shim())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.log.Warn("the record of the last start was lost", "err", err)
	}
	conn, err := p.connect()
	if err == nil {
		p.take(conn, spec)
		if !p.wanted.Run {
			p.apply(eventStop)
		}
		return
	}
	if !errors.Is(err, parent.ErrGone) {
		p.log.Warn("a shim does not answer; ending it", "err", err)
		p.killShim()
	}
	if spec.ID != "" && spec.ID != p.history.Counted {
		p.account(spec)
	}
	if p.wanted.Run {
		p.state = api.ProcessBackoff
		p.pause.Reset(p.pauseLength)
	}
	p.publish()
}

func (p *process) connect() (*shim.Conn, error) {
	ctx, cancel := context.WithTimeout(p.ctx, shimTimeout)
	defer cancel()
	return shim.Connect(ctx, p.names.shim())
}

// launch starts a shim from the pinned spec.
func (p *process) launch() {
	p.unwatch()
	p.draining, p.reloadError = false, ""
	spec, err := shimSpec(p.names, p.config.Env, p.wanted)
	var conn *shim.Conn
	if err == nil {
		// Not to be broken off by Close: nobody would know what came of it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), shimTimeout)
		conn, err = shim.Launch(ctx, p.config.Shim, p.config.Env, p.names.shim(), spec)
		cancel()
	}
	p.launched = err
	if err != nil {
		p.log.Warn("process could not be started", "err", err)
		p.note(spec.ID, api.Exit{Status: -1, At: time.Now().UTC()}, 0)
		p.reason = err.Error()
		p.apply(eventEnded)
		return
	}
	p.take(conn, spec)
}

// take begins to follow a start.
func (p *process) take(conn *shim.Conn, spec shim.Spec) {
	p.conn, p.running = conn, spec
	p.target = p.aim()
	p.state = api.ProcessStarting
	p.work.Go(func() {
		conn.Wait()
		select {
		case p.gone <- conn:
		case <-p.ctx.Done():
		}
	})
	p.watch()
	p.publish()
}

// watch begins the checks of what runs.
func (p *process) watch() {
	p.unwatch()
	checks := checksOf(p.wanted.Process)
	if len(checks) == 0 {
		// The start's time is a clock's, which may have been set back since.
		p.settled.Reset(min(settled, settled-time.Since(p.conn.Started.At)))
		return
	}
	var ctx context.Context
	ctx, p.endChecks = context.WithCancel(p.ctx)
	p.checks = newChecklist(checks)
	list, target := p.checks, p.target
	for i := range checks {
		p.work.Go(func() { probe(ctx, list, i, target, p.answers) })
	}
}

func (p *process) unwatch() {
	p.settled.Stop()
	if p.endChecks != nil {
		p.endChecks()
	}
	p.checks, p.endChecks = nil, nil
}

// aim returns whom checks ask and commands serve. A command has the process's
// environment, folder and user, but is not taken for a stray of it.
func (p *process) aim() health.Target {
	who, err := lookUser(p.wanted.Process.User)
	if err != nil {
		p.log.Warn("checks of the process run as the agent's user", "err", err)
	}
	t := health.Target{Command: health.Command{
		Env: environment(p.names, p.config.Env, p.wanted.Process, who), Dir: p.running.Dir, User: who.credential(),
	}}
	if p.wanted.Process.Control {
		t.Control = health.Control(p.names.control())
	}
	return t
}

func (p *process) answered(a answer) {
	if a.of != p.checks {
		return // of an earlier start
	}
	p.checks.answered(a)
	e, sure, reason := p.checks.verdict()
	p.reason = reason
	if sure {
		p.apply(e)
	} else {
		p.publish()
	}
}

// ended is told that the shim has ended, and the process with it.
func (p *process) ended() {
	_ = p.conn.Close()
	p.conn.Reap()
	p.overdue.Stop()
	exit := p.account(p.running)
	p.conn = nil
	if exit.Expected && p.wanted.Run && p.draining {
		p.apply(eventLeft)
	} else {
		p.apply(eventEnded)
	}
	if p.state != api.ProcessStopped {
		return
	}
	p.tellStopped(nil)
	if then := p.then; then != nil {
		p.then = nil
		p.start(*then)
	}
}

func (p *process) tellStopped(err error) {
	for _, reply := range p.stopped {
		reply <- err
	}
	p.stopped = nil
}

// account takes up the record of how a start has ended, and ends what it may
// have left behind. pauseLength is the pause before the next start.
func (p *process) account(spec shim.Spec) api.Exit {
	dir := p.names.shim()
	started, err := shim.ReadStarted(dir)
	known := err == nil && started.ID == spec.ID
	if boot, err := proc.BootID(); known && err == nil && boot != started.BootID {
		return api.Exit{} // a reboot ended it, and everything else
	}
	ended, err := shim.ReadEnded(dir)
	if err == nil && ended.ID == spec.ID {
		exit := ended.Exit
		exit.Expected = exit.Expected || p.state == api.ProcessStopping || p.draining
		p.reason = exit.String()
		if ended.Error != "" {
			p.reason = ended.Error
		}
		var ran time.Duration
		if known {
			ran = exit.At.Sub(started.At)
		}
		p.note(spec.ID, exit, ran)
		return exit
	}
	// The shim was killed. The kernel kills the process with it, but not what
	// that one had started.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), sweepTimeout)
	defer cancel()
	switch {
	case !known:
		err = shim.Sweep(ctx, spec.ID, nil)
	case spec.KillMode == api.KillProcess:
		err = parent.Kill(ctx, started.PID, started.Ticks)
	default:
		err = shim.Sweep(ctx, spec.ID, &started)
	}
	if err != nil {
		p.log.Error("processes are left behind", "err", err)
	}
	exit := api.Exit{Status: -1, At: time.Now().UTC(), Expected: p.state == api.ProcessStopping || p.draining}
	if !known {
		return exit // it was never started, so it has not ended either
	}
	p.note(spec.ID, exit, exit.At.Sub(started.At))
	p.reason = "its shim was ended, and the process with it"
	return exit
}

// note counts an end.
func (p *process) note(id string, exit api.Exit, ran time.Duration) {
	p.history.LastExit = &exit
	if id != "" {
		p.history.Counted = id
	}
	p.pauseLength = 0
	if !exit.Expected {
		p.history.Restarts++
		p.pauseLength = p.policy.ended(ran)
		p.history.Row = p.policy.row
		p.crashed = true
		p.crashes = crashes{time.Now(), p.policy.stable}
		p.log.Warn("process ended by itself", "exit", exit.String(), "after", ran.Round(time.Millisecond), "again_in", p.pauseLength)
	}
	if err := saveHistory(p.names, p.history); err != nil {
		p.log.Error("cannot record the end of the process; only this agent knows it", "err", err)
	}
}

// stop asks the shim for the end.
func (p *process) stop() {
	spec := p.wanted.Process
	p.overdue.Reset(stopGrace(spec) + overdueAfter)
	ctx, cancel := context.WithTimeout(p.ctx, stopTimeout)
	defer cancel()
	err := shim.Stop(ctx, p.names.shim(), stopSignal(spec), stopGrace(spec))
	if err != nil && !errors.Is(err, parent.ErrGone) && p.ctx.Err() == nil {
		p.log.Warn("the shim cannot stop the process; killing the shim", "err", err)
		p.overdue.Reset(0)
	}
}

// killShim is the last resort: the process dies with its shim.
func (p *process) killShim() {
	started, err := shim.ReadStarted(p.names.shim())
	if err != nil {
		return // Sweep finds the process without it
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), sweepTimeout)
	defer cancel()
	if err := parent.Kill(ctx, started.ShimPID, started.ShimTicks); err != nil {
		p.log.Error("a shim does not end", "err", err)
	}
}

// start makes the process run from a spec. The reply comes when that is so.
func (p *process) start(r startRequest) {
	alive := p.state == api.ProcessStarting || p.state == api.ProcessRunning || p.state == api.ProcessFailing
	if alive && p.running.Digest == r.process.Digest && !p.draining {
		r.reply <- p.adjust(r.process)
		return
	}
	if alive || p.state == api.ProcessStopping {
		if p.then != nil {
			p.then.reply <- errSuperseded
		}
		p.then = &r
		p.apply(eventStop)
		return
	}
	w := wanted{Run: true, Process: r.process, Generation: r.generation, Log: markLog(p.names.log())}
	if err := saveWanted(p.names, w); err != nil {
		r.reply <- err
		return
	}
	p.wanted = w
	p.policy = newRestarts(r.process.Restart, 0)
	p.history.Restarts, p.history.Row = 0, 0
	p.reason, p.crashed = "", false
	p.launched = nil
	p.apply(eventStart)
	r.reply <- p.launched
}

// adjust takes over what a running process's digest does not cover: checks,
// restart policy, how to stop and reload.
func (p *process) adjust(to api.Process) error {
	was := p.wanted.Process
	to.ReloadDigest = was.ReloadDigest // as loaded
	if p.wanted.Run && reflect.DeepEqual(was, to) {
		return nil
	}
	w := p.wanted
	w.Run, w.Process = true, to
	if err := saveWanted(p.names, w); err != nil {
		return err
	}
	p.wanted = w
	p.policy = newRestarts(to.Restart, p.policy.row)
	if !reflect.DeepEqual(checksOf(was), checksOf(to)) {
		// Whether it is healthy is another question now, and has no answer yet.
		p.state = api.ProcessStarting
		p.target = p.aim()
		p.watch()
		p.publish()
	}
	return nil
}

// end makes the process stop and stay so. The reply comes when it has ended.
func (p *process) end(reply chan<- error) {
	if p.wanted.Run {
		w := p.wanted
		w.Run = false
		if err := saveWanted(p.names, w); err != nil {
			reply <- err
			return
		}
		p.wanted = w
	}
	if p.then != nil {
		p.then.reply <- errSuperseded
		p.then = nil
	}
	p.apply(eventStop)
	if p.state == api.ProcessStopped {
		reply <- nil
		return
	}
	p.stopped = append(p.stopped, reply)
}

// remove forgets a stopped process.
func (p *process) remove(reply chan<- error) {
	if p.state != api.ProcessStopped {
		reply <- fmt.Errorf("cannot forget %s: it is %s; stop it first", p.key, p.state)
		return
	}
	for _, path := range []string{p.names.wanted(), p.names.control(), p.names.shim()} {
		if err := os.RemoveAll(path); err != nil {
			reply <- fmt.Errorf("cannot forget %s: %w", p.key, err)
			return
		}
	}
	p.forget = true
	p.unpublish(p.key)
	reply <- nil
}

// unknownReload is the ReloadDigest of a process whose last reload has not ended
// well: it may have loaded the new files, the old ones, or some of both, so that
// whatever it shall have, a way back included, needs a reload.
const unknownReload = "unknown"

// reloading notes, before it begins, that what the start with that id has loaded
// will not be known until a reload has ended well.
func (p *process) reloading(id string) error { return p.loaded(id, unknownReload) }

// reloaded notes the result of a reload of the start with that id.
func (p *process) reloaded(id, digest string, cause error) error {
	if cause == nil {
		p.reloadError = ""
		return p.loaded(id, digest)
	}
	if p.conn == nil || p.running.ID != id {
		return errors.Join(cause, fmt.Errorf("%s has ended meanwhile", p.key))
	}
	p.reloadError = cause.Error()
	p.publish()
	return cause
}

// loaded notes what the start with that id has loaded.
func (p *process) loaded(id, digest string) error {
	if p.conn == nil || p.running.ID != id {
		return fmt.Errorf("%s has ended meanwhile", p.key)
	}
	w := p.wanted
	w.Process.ReloadDigest = digest
	if err := saveWanted(p.names, w); err != nil {
		return err
	}
	p.wanted = w
	p.publish()
	return nil
}

// publish tells the supervisor how the process is.
func (p *process) publish() {
	v := view{
		status: api.ProcessStatus{
			Job: p.job, Name: p.name, State: p.state, Reason: p.reason,
			Restarts: p.history.Restarts, LastExit: p.history.LastExit, Facts: p.checks.told(),
		},
		crashed: p.crashed, crashes: p.crashes, reloadError: p.reloadError, log: p.wanted.Log,
	}
	if p.state != api.ProcessStopped {
		v.status.Digest = p.wanted.Process.Digest
		v.status.ReloadDigest = p.wanted.Process.ReloadDigest
		v.status.Generation = p.wanted.Generation
	}
	if p.conn != nil {
		at := p.conn.Started.At
		v.id, v.command = p.running.ID, p.target.Command
		v.status.PID, v.status.StartedAt = p.conn.Started.PID, &at
	}
	p.Supervisor.publish(p.key, v)
}
