package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/internal/logfile"
	"github.com/clusterworks/deploy/agent/internal/shim"
)

// A hook's log is put aside at hookLogBytes, and hookLogKeep old ones are kept.
const (
	hookLogBytes = 10 << 20
	hookLogKeep  = 2
)

// After its time, or when it is cancelled, a hook has hookGrace from TERM to
// KILL; that is also how long the output of one that has ended is awaited, which
// something that it left running may keep open.
const hookGrace = 2 * time.Second

// sweepTimeout bounds the end of what a hook has left behind.
const sweepTimeout = 10 * time.Second

// drainPause lies between two runs of a drain hook that does not say how long to
// wait: it is run until it exits 0.
const drainPause = time.Second

// hooks runs the hooks of jobs.
type hooks struct {
	dir string // the agent's folder
	env []string
}

// runAll runs the job's hooks of a kind, in the order of the spec.
func (h hooks) runAll(ctx context.Context, report Report, spec api.Spec, job api.Job, kind api.HookKind, env map[string]string) error {
	for _, hook := range job.Hooks {
		if hook.Kind != kind {
			continue
		}
		report.Event(string(kind), job.Name)
		err := h.run(ctx, report, spec, job, hook, env)
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if hook.OnTimeout == "continue" && errors.Is(err, context.DeadlineExceeded) {
			report.Event(string(kind), fmt.Sprintf("%s: %v; the job says to continue", job.Name, err))
			continue
		}
		return err
	}
	return nil
}

// runHook runs one hook within its time.
func (h hooks) run(ctx context.Context, report Report, spec api.Spec, job api.Job, hook api.Hook, env map[string]string) error {
	limit := time.Duration(hook.TimeoutMS) * time.Millisecond
	if limit <= 0 {
		limit = time.Minute
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		tail, said, err := h.runOnce(limited, report, spec, job, hook, env)
		wait, again := time.Duration(0), false
		switch {
		case hook.Kind != api.HookDrain:
		case err == nil:
			wait, again = drainTime(said)
		case exitOf(err) != nil:
			wait, again = drainPause, true
		}
		if err == nil && wait == 0 && !again {
			return nil
		}
		if limited.Err() == nil && (wait > 0 || again) {
			if err == nil {
				report.Event(string(hook.Kind), fmt.Sprintf("%s waits %s", job.Name, wait))
			}
			select {
			case <-time.After(wait):
				if again {
					continue
				}
				return nil
			case <-limited.Done():
				err = limited.Err()
			}
		}
		failure := &api.ProcessFailure{Job: job.Name, Name: hookName(hook), Log: tail, Exit: exitOf(err)}
		if ctx.Err() == nil && limited.Err() != nil {
			return &hookError{
				api.Error{Code: api.CodeFailed, Process: failure,
					Message: fmt.Sprintf("%s of job %s did not end within %s", called(hook), job.Name, limit)},
				context.DeadlineExceeded,
			}
		}
		message := fmt.Sprintf("%s of job %s failed", called(hook), job.Name)
		if failure.Exit == nil {
			message = fmt.Sprintf("cannot run %s of job %s: %v", called(hook), job.Name, err)
		}
		return &hookError{api.Error{Code: api.CodeFailed, Process: failure, Message: message}, err}
	}
}

// drainTime reads how long a drain hook wants to be waited for, if the last line
// that it printed is a whole number of seconds, and whether it is asked again
// then: so it is below 0.
func drainTime(said []byte) (wait time.Duration, again bool) {
	lines := lastLines(said, 1)
	if len(lines) == 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(lines[0]), 10, 32)
	if err != nil {
		return 0, false
	}
	if n < 0 {
		return time.Duration(-n) * time.Second, true
	}
	return time.Duration(n) * time.Second, false
}

// hookError is an api.Error that keeps its cause.
type hookError struct {
	api   api.Error
	cause error
}

func (e *hookError) Error() string   { return e.api.Error() }
func (e *hookError) Unwrap() []error { return []error{&e.api, e.cause} }

// hookName names a hook's log: "pre_start", "errand-backup".
func hookName(h api.Hook) string {
	if h.Name == "" {
		return string(h.Kind)
	}
	return string(h.Kind) + "-" + h.Name
}

// called returns how people call a hook.
func called(h api.Hook) string {
	if h.Kind == api.HookErrand {
		return "errand " + h.Name
	}
	return "hook " + string(h.Kind)
}

// HookProcess is the id (DEPLOY_PROCESS) of what an operation's hooks start, by
// which it is found when the agent has ended in the middle. It is none of
// another agent's on the same machine.
func HookProcess(dir, opID string) string {
	return fmt.Sprintf("hook-%08x-%s", crc32.ChecksumIEEE([]byte(dir)), opID)
}

func (h hooks) runOnce(ctx context.Context, report Report, spec api.Spec, job api.Job, hook api.Hook, env map[string]string) (tail []string, said []byte, err error) {
	if len(hook.Command) == 0 {
		return nil, nil, errors.New("it has no command")
	}
	data := filepath.Join(h.dir, "data", job.Name)
	if err := os.MkdirAll(data, 0o755); err != nil {
		return nil, nil, err
	}
	log := logfile.Open(filepath.Join(h.dir, "log", job.Name, hookName(hook)+".log"), hookLogBytes, hookLogKeep)
	defer log.Close()
	fmt.Fprintf(log, "%s %s of %s begins\n", time.Now().UTC().Format(time.RFC3339), called(hook), spec.Instance)

	heard := &hookOutput{log: log, report: report}
	cmd := exec.CommandContext(ctx, hook.Command[0], hook.Command[1:]...)
	cmd.Dir = data
	cmd.Env = append([]string{}, h.env...)
	for _, add := range []map[string]string{
		hook.Env, env,
		{
			"DEPLOY_INSTANCE": spec.Instance, "DEPLOY_ADDRESS": spec.Address, "DEPLOY_JOB": job.Name, "DEPLOY_HOOK": string(hook.Kind),
			"DEPLOY_PROCESS": HookProcess(h.dir, report.ID()),
		},
	} {
		cmd.Env = append(cmd.Env, environ(add)...)
	}
	cmd.Stdout = heard.stream("")
	cmd.Stderr = cmd.Stdout
	var answer bytes.Buffer // of a drain or census hook
	switch hook.Kind {
	case api.HookErrand, api.HookPostDeploy:
		cmd.Stdout, cmd.Stderr = heard.stream(api.Stdout), heard.stream(api.Stderr)
	case api.HookCensus:
		cmd.Stdout = firstBytes{&answer, maxCensus}
	case api.HookDrain:
		cmd.Stdout = io.MultiWriter(cmd.Stderr, &lastBytes{&answer})
	}
	// A group of its own: at the end of its time the hook goes with all that it
	// started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		if errors.Is(syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM), syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return nil
	}
	cmd.WaitDelay = hookGrace
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	switch {
	case cmd.Process == nil:
	case ctx.Err() != nil:
		err = errors.Join(err, h.end(ctx, report, cmd.Process.Pid))
	case hook.Kind != api.HookDrain: // which may say that it is to be asked again
		// What it has left in the background is nobody's: no update would end it.
		err = errors.Join(err, h.sweep(ctx, report))
	}
	if err != nil {
		fmt.Fprintf(log, "%s %s: %v\n", time.Now().UTC().Format(time.RFC3339), called(hook), err)
	}
	return lastLines(heard.recent(), 30), answer.Bytes(), err
}

// end kills what is left of a hook whose time is over.
func (h hooks) end(ctx context.Context, report Report, group int) error {
	_ = syscall.Kill(-group, syscall.SIGKILL) // it may have ended, all of it
	return h.sweep(ctx, report)
}

// sweep kills what hooks of the operation have left.
func (h hooks) sweep(ctx context.Context, report Report) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sweepTimeout)
	defer cancel()
	return shim.Sweep(ctx, HookProcess(h.dir, report.ID()), nil)
}

// exitOf returns how a command ended, nil if it did not run.
func exitOf(err error) *api.Exit {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return nil
	}
	out := &api.Exit{Status: exit.ExitCode(), At: time.Now().UTC()}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		out.Signal = signalName(status.Signal())
	}
	return out
}

func environ(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	sort.Strings(out)
	return out
}

// lastBytes keeps the end of what is written.
type lastBytes struct{ *bytes.Buffer }

func (l *lastBytes) Write(p []byte) (int, error) {
	const keep = 1 << 10
	l.Buffer.Write(p)
	if over := l.Len() - keep; over > 0 {
		l.Next(over)
	}
	return len(p), nil
}

// hookOutput describes what a hook says, on one stream or two.
type hookOutput struct {
	report Report

	mu   sync.Mutex
	log  io.Writer
	tail []byte // the last bytes
}

// stream takes what is written to one of the streams; it is reported if it has
// a name.
func (o *hookOutput) stream(name api.Stream) io.Writer { return hookStream{o, name} }

type hookStream struct {
	*hookOutput
	name api.Stream
}

func (s hookStream) Write(p []byte) (int, error) {
	const keep = 16 << 10
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = s.log.Write(p) // a full disk does not stop a hook
	s.tail = append(s.tail, p...)
	if len(s.tail) > 2*keep {
		s.tail = bytes.Clone(s.tail[len(s.tail)-keep:])
	}
	if s.name != "" {
		s.report.Output(s.name, p)
	}
	return len(p), nil
}

func (o *hookOutput) recent() []byte {
	o.mu.Lock() // something that the hook left running may still write
	defer o.mu.Unlock()
	return bytes.Clone(o.tail)
}
