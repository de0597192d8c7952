package shim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone says that no shim lives in a folder (any more).
var ErrGone = errors.New("its shim is gone")

// request is one line on the socket, answered by one line.
type request struct {
	Op      string `json:"op"` // "status", "signal", "stop"
	Signal  string `json:"signal,omitempty"`
	GraceMS int64  `json:"grace_ms,omitempty"`
}

// reply answers a request. Status is answered when the process was started.
type reply struct {
	Error   string  `json:"error,omitempty"`
	Started Started `json:"started,omitzero"`
}

// Conn is a connection to a living shim.
type Conn struct {
	net     net.Conn
	lines   *bufio.Reader
	Started Started
}

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
	if err := writeRecord(dir, specFile, spec); err != nil {
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
	if !errors.Is(err, ErrGone) {
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
		return &Conn{Started: started}, nil
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
	socket, err := listen(dir)
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

// listen makes the shim's socket. The path of a unix socket is limited to 107
// bytes, so it is named through the open folder.
func listen(dir string) (*os.File, error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), filepath.Join(dir, socketFile))
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: throughFolder(folder)}); err != nil {
		f.Close()
		return nil, os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(fd, 64); err != nil {
		f.Close()
		return nil, os.NewSyscallError("listen", err)
	}
	return f, nil
}

func throughFolder(folder *os.File) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), socketFile)
}

// Connect takes up the shim that lives in dir and waits until its process was
// started. The error is ErrGone if there is none (any more).
func Connect(ctx context.Context, dir string) (*Conn, error) {
	return call(ctx, dir, request{Op: "status"})
}

// Signal sends a signal ("HUP") to the process itself.
func Signal(ctx context.Context, dir, signal string) error {
	return tell(ctx, dir, request{Op: "signal", Signal: signal})
}

// Stop asks for the end of the process: the signal, and after the grace period
// KILL, to whom the kill mode says. It returns when that is under way; Wait on
// the connection tells the end.
func Stop(ctx context.Context, dir, signal string, grace time.Duration) error {
	return tell(ctx, dir, request{Op: "stop", Signal: signal, GraceMS: grace.Milliseconds()})
}

func tell(ctx context.Context, dir string, r request) error {
	c, err := call(ctx, dir, r)
	if err != nil {
		return err
	}
	return c.Close()
}

func call(ctx context.Context, dir string, r request) (*Conn, error) {
	folder, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("cannot reach a shim: %w", err)
	}
	defer folder.Close()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", throughFolder(folder))
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("cannot reach the shim in %s: %w", dir, err)
	}
	c := &Conn{net: conn, lines: bufio.NewReader(conn)}
	answer, err := c.ask(ctx, r)
	if err != nil {
		conn.Close()
		return nil, err
	}
	c.Started = answer.Started
	return c, nil
}

func (c *Conn) ask(ctx context.Context, r request) (reply, error) {
	// A cancelled context ends the wait for the answer.
	unhook := context.AfterFunc(ctx, func() { _ = c.net.SetDeadline(time.Unix(1, 0)) })
	defer unhook()
	var answer reply
	line, err := json.Marshal(r)
	if err != nil {
		return answer, err
	}
	if _, err = c.net.Write(append(line, '\n')); err == nil {
		line, err = c.lines.ReadBytes('\n')
	}
	if err == nil {
		err = json.Unmarshal(line, &answer)
	}
	switch {
	case err == nil && answer.Error != "":
		return answer, errors.New(answer.Error)
	case err == nil:
		return answer, nil
	case ctx.Err() != nil:
		return answer, fmt.Errorf("the shim does not answer: %w", context.Cause(ctx))
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return answer, ErrGone
	}
	return answer, fmt.Errorf("cannot talk to a shim: %w", err)
}

// Wait returns when the shim has ended, or the connection was closed.
func (c *Conn) Wait() {
	if c.net == nil {
		return // it ended at once
	}
	_, _ = io.Copy(io.Discard, c.lines) // any error ends the connection too
}

// Close lets go of the shim, which lives on.
func (c *Conn) Close() error {
	if c.net == nil {
		return nil
	}
	return c.net.Close()
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
