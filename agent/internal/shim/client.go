package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/agent/host/parent"
	"github.com/clusterworks/deploy/agent/host/sockets"
)

// Conn is a connection to a shim.
type Conn struct{ *parent.Conn[Started] }

// Launch starts a shim in dir and waits until that has started the process.
// Command and env are the shim's own. No other shim may live in dir. When the
// process could not be started the error says why and nothing is left running.
func Launch(ctx context.Context, command, env []string, dir string, spec Spec) (*Conn, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the folder of a shim: %w", err)
	}
	if err := clear(dir); err != nil {
		return nil, err
	}
	if err := parent.Write(dir, specFile, spec); err != nil {
		return nil, err
	}
	pid, err := spawn(command, env, dir)
	if err != nil {
		return nil, err
	}
	c, err := Connect(ctx, dir)
	if err == nil {
		return c, nil
	}
	if !errors.Is(err, parent.ErrGone) {
		// It hangs: nobody knows what it has done so far.
		_ = syscall.Kill(pid, syscall.SIGKILL) // our child, not reaped yet
	}
	reap(pid)
	if ended, readErr := ReadEnded(dir); readErr == nil && ended.ID == spec.ID && ended.Error != "" {
		return nil, errors.New(ended.Error)
	} else if readErr == nil && ended.ID == spec.ID {
		// It ran and has ended before we had asked: started, and gone.
		started, startErr := ReadStarted(dir)
		if startErr != nil {
			return nil, startErr
		}
		return &Conn{parent.Ended(started)}, nil
	}
	if sweepErr := Sweep(ctx, spec.ID, nil); sweepErr != nil {
		err = errors.Join(err, sweepErr)
	}
	if said, _ := os.ReadFile(filepath.Join(dir, stderrFile)); len(said) > 0 {
		err = fmt.Errorf("%w: %.300s", err, said)
	}
	return nil, fmt.Errorf("cannot start a shim (%q): %w", command[0], err)
}

// spawn starts the shim's process with the listening socket as descriptor 3.
func spawn(command, env []string, dir string) (pid int, err error) {
	socket, err := sockets.File(filepath.Join(dir, socketFile))
	if err != nil {
		return 0, fmt.Errorf("cannot listen for a shim in %s: %w", dir, err)
	}
	defer socket.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	stderr, err := os.OpenFile(filepath.Join(dir, stderrFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, fmt.Errorf("cannot make the folder of a shim: %w", err)
	}
	defer stderr.Close()
	args := append(append([]string{}, command...), "--dir", dir)
	process, err := os.StartProcess(command[0], args, &os.ProcAttr{
		Dir: "/",
		// One processor, and a heap that is collected early: there are as many
		// shims as processes.
		Env:   append(append([]string{}, env...), "GOMAXPROCS=1", "GOGC=20"),
		Files: []*os.File{null, null, stderr, socket},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("cannot start a shim: %w", err)
	}
	pid = process.Pid
	_ = process.Release() // reaped by pid, as those are that an earlier agent started
	return pid, nil
}

// Connect takes up the shim that lives in dir and waits until its process was
// started. The error is parent.ErrGone if there is none (any more).
func Connect(ctx context.Context, dir string) (*Conn, error) {
	c, err := parent.Connect[Started](ctx, filepath.Join(dir, socketFile))
	if err != nil {
		return nil, err
	}
	return &Conn{c}, nil
}

// Signal sends a signal ("HUP") to the process itself.
func Signal(ctx context.Context, dir, signal string) error {
	return parent.Signal(ctx, filepath.Join(dir, socketFile), signal)
}

// Stop asks for the end of the process: the signal, and after the grace period
// KILL, to whom the kill mode says. It returns when that is under way; Wait on
// the connection tells the end.
func Stop(ctx context.Context, dir, signal string, grace time.Duration) error {
	return parent.Stop(ctx, filepath.Join(dir, socketFile), signal, grace)
}

// Sweep kills whatever is left of the start with that id, and returns when nothing
// is; started is nil if it is not known. It must not be called while the shim
// lives and is wanted.
func Sweep(ctx context.Context, id string, started *Started) error {
	left := parent.Left{Variable: ProcessVariable + "=" + id}
	if started != nil {
		left.Parent, left.ParentStart, left.BootID = started.ShimPID, started.ShimTicks, started.BootID
	}
	if err := parent.Sweep(ctx, left); err != nil {
		return fmt.Errorf("of an earlier start: %w", err)
	}
	return nil
}

// Reap takes the exit status of a shim that has ended, if it was our child.
func (c *Conn) Reap() { reap(c.Started.ShimPID) }

func reap(pid int) {
	for {
		// ECHILD: an earlier agent's, and init's by now.
		if _, err := syscall.Wait4(pid, nil, 0, nil); !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}
