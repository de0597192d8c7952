package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sort"
	"syscall"
	"time"

	"deploy/agent/api"
)

// hookLogBytes is the size at which a hook's log is put aside.
const hookLogBytes = 1 << 20

// drainPause lies between two runs of a drain hook, which is run until it
// exits 0.
const drainPause = time.Second

// runHooks runs the job's hooks of a kind, in the order of the spec.
func (i *Installer) runHooks(ctx context.Context, report Report, spec api.Spec, job api.Job, kind api.HookKind, env map[string]string) error {
	for _, hook := range job.Hooks {
		if hook.Kind != kind {
			continue
		}
		report.Event(string(kind), job.Name)
		err := i.runHook(ctx, spec, job, hook, env)
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
func (i *Installer) runHook(ctx context.Context, spec api.Spec, job api.Job, hook api.Hook, env map[string]string) error {
	limit := time.Duration(hook.TimeoutMS) * time.Millisecond
	if limit <= 0 {
		limit = time.Minute
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		tail, err := i.runOnce(limited, spec, job, hook, env)
		if err == nil {
			return nil
		}
		if limited.Err() == nil && hook.Kind == api.HookDrain && exitOf(err) != nil {
			select {
			case <-time.After(drainPause):
				continue
			case <-limited.Done():
			}
		}
		failure := &api.ProcessFailure{Job: job.Name, Name: string(hook.Kind), Log: tail, Exit: exitOf(err)}
		if ctx.Err() == nil && limited.Err() != nil {
			return &hookError{
				api.Error{Code: api.CodeFailed, Process: failure,
					Message: fmt.Sprintf("hook %s of job %s did not end within %s", hook.Kind, job.Name, limit)},
				context.DeadlineExceeded,
			}
		}
		message := fmt.Sprintf("hook %s of job %s failed", hook.Kind, job.Name)
		if failure.Exit == nil {
			message = fmt.Sprintf("cannot run hook %s of job %s: %v", hook.Kind, job.Name, err)
		}
		return &hookError{api.Error{Code: api.CodeFailed, Process: failure, Message: message}, err}
	}
}

// hookError is an api.Error that keeps its cause.
type hookError struct {
	api   api.Error
	cause error
}

func (e *hookError) Error() string   { return e.api.Error() }
func (e *hookError) Unwrap() []error { return []error{&e.api, e.cause} }

func (i *Installer) runOnce(ctx context.Context, spec api.Spec, job api.Job, hook api.Hook, env map[string]string) (tail []string, err error) {
	if len(hook.Command) == 0 {
		return nil, errors.New("it has no command")
	}
	dirs := []string{i.path("data", job.Name), i.path("log", job.Name)}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	log, err := openHookLog(i.path("log", job.Name, string(hook.Kind)+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	fmt.Fprintf(log, "%s hook %s of %s begins\n", time.Now().UTC().Format(time.RFC3339), hook.Kind, spec.Instance)

	recent := &tailBuffer{}
	cmd := exec.CommandContext(ctx, hook.Command[0], hook.Command[1:]...)
	cmd.Dir = dirs[0]
	cmd.Env = append([]string{}, i.Env...)
	for _, add := range []map[string]string{
		{"DEPLOY_INSTANCE": spec.Instance, "DEPLOY_ADDRESS": spec.Address, "DEPLOY_JOB": job.Name, "DEPLOY_HOOK": string(hook.Kind)},
		hook.Env, env,
	} {
		cmd.Env = append(cmd.Env, environ(add)...)
	}
	cmd.Stdout = io.MultiWriter(log, recent)
	cmd.Stderr = cmd.Stdout
	// A group of its own: at the end of its time the hook goes with all that it
	// started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A grandchild may keep the pipe open after the hook has ended.
	cmd.WaitDelay = 2 * time.Second
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if err != nil {
		fmt.Fprintf(log, "%s hook %s: %v\n", time.Now().UTC().Format(time.RFC3339), hook.Kind, err)
	}
	return lastLines(recent.data, 30), err
}

// exitOf is how a command ended, nil if it did not run.
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

func openHookLog(name string) (*os.File, error) {
	if info, err := os.Stat(name); err == nil && info.Size() > hookLogBytes {
		if err := os.Rename(name, name+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
}

// tailBuffer keeps the last bytes that were written.
type tailBuffer struct{ data []byte }

func (t *tailBuffer) Write(p []byte) (int, error) {
	const keep = 16 << 10
	t.data = append(t.data, p...)
	if len(t.data) > 2*keep {
		t.data = bytes.Clone(t.data[len(t.data)-keep:])
	}
	return len(p), nil
}
