package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// DefaultTimeout, DefaultInterval and DefaultFailures serve a check that says
// nothing.
const (
	DefaultTimeout  = time.Second
	DefaultInterval = time.Second
	DefaultFailures = 3
)

// Target is the process that is asked.
type Target struct {
	Control Control // "" if it serves no control socket
	Command Command // environment of exec checks; Args are the check's
}

// Run asks once, within the check's own timeout. The error is the reason why
// the check does not pass; the facts are what a control socket tells beside that.
func Run(ctx context.Context, c api.Check, t Target) (facts map[string]string, err error) {
	timeout := time.Duration(c.TimeoutMS) * time.Millisecond
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
	defer cancel()
	switch c.Kind {
	case api.CheckHTTP:
		return nil, checkHTTP(ctx, c)
	case api.CheckTCP:
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", c.Target)
		if err != nil {
			return nil, fmt.Errorf("cannot connect to %s: %w", c.Target, short(ctx, err))
		}
		return nil, conn.Close()
	case api.CheckExec:
		command := t.Command
		command.Args = c.Command
		return nil, command.Run(ctx)
	case api.CheckControl:
		return t.Control.Ready(ctx)
	}
	return nil, fmt.Errorf("this agent does not know the check kind %q", c.Kind)
}

func checkHTTP(ctx context.Context, c api.Check) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Target, nil)
	if err != nil {
		return fmt.Errorf("cannot ask %q: %w", c.Target, err)
	}
	request.Host = c.Host
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("%s does not answer: %w", c.Target, short(ctx, err))
	}
	response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 399 {
		return fmt.Errorf("%s answers %d", c.Target, response.StatusCode)
	}
	return nil
}

// short leaves out of a network error what its reader knows already.
func short(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var of *url.Error
	if errors.As(err, &of) {
		err = of.Err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// Command is a program that is run for its exit status: an exec check, or what
// reloads a process and verifies that.
type Command struct {
	Args []string
	Env  []string // all of it
	Dir  string
	User *syscall.Credential // nil: our own
}

// killDelay is the time that a command's output is awaited after it was killed.
const killDelay = time.Second

// Run returns nil when the command has ended with status 0, else the status and
// the end of what it said. When ctx ends, its process group is killed.
func (c Command) Run(ctx context.Context) error {
	if len(c.Args) == 0 {
		return errors.New("its command is empty")
	}
	// The command dies with us, but PDEATHSIG looks at the thread that forked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	command := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	output := &tail{}
	command.Stdout, command.Stderr = output, output
	command.Env, command.Dir = c.Env, c.Dir
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: c.User}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = killDelay
	err := command.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if said := strings.TrimSpace(output.String()); said != "" {
		return fmt.Errorf("%s: %w: %s", c.Args[0], err, said)
	}
	return fmt.Errorf("%s: %w", c.Args[0], err)
}

// tail keeps the end of what is written to it. It embeds nothing: a copy must go
// through Write.
type tail struct{ end []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.end = append(t.end, b...)
	t.end = t.end[max(0, len(t.end)-maxAnswer):]
	return len(b), nil
}

func (t *tail) String() string { return string(t.end) }
