package parent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/agent/host/sockets"
)

// ErrGone says that no parent serves a socket (any more).
var ErrGone = errors.New("the parent of the process has ended")

// Conn is a connection to a parent. T is the record of the process's start.
type Conn[T any] struct {
	net     net.Conn
	lines   *bufio.Reader
	Started T
}

// Connect finds the parent that serves a socket and waits until it has started its
// process. The error is ErrGone if there is none (any more).
func Connect[T any](ctx context.Context, socket string) (*Conn[T], error) {
	return call[T](ctx, socket, request{Op: opStatus})
}

// Signal sends a signal ("HUP") to the process itself.
func Signal(ctx context.Context, socket, signal string) error {
	return tell(ctx, socket, request{Op: opSignal, Signal: signal})
}

// Stop asks for the end of the process: the signal, and after the grace period
// KILL. It returns when that is under way; Wait on a connection tells the end.
func Stop(ctx context.Context, socket, signal string, grace time.Duration) error {
	return tell(ctx, socket, request{Op: opStop, Signal: signal, GraceMS: max(grace, 0).Milliseconds()})
}

func tell(ctx context.Context, socket string, r request) error {
	c, err := call[json.RawMessage](ctx, socket, r)
	if err != nil {
		return err
	}
	return c.Close()
}

// Dial connects to the parent that serves a socket, whether or not it has started
// its process. The error is ErrGone if there is none (any more).
func Dial[T any](ctx context.Context, socket string) (*Conn[T], error) {
	conn, err := sockets.Dial(ctx, socket)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("cannot reach the parent of a process: %w", err)
	}
	return &Conn[T]{net: conn, lines: bufio.NewReader(conn)}, nil
}

func call[T any](ctx context.Context, socket string, r request) (*Conn[T], error) {
	c, err := Dial[T](ctx, socket)
	if err != nil {
		return nil, err
	}
	if err := c.ask(ctx, r); err != nil {
		c.net.Close()
		return nil, err
	}
	return c, nil
}

func (c *Conn[T]) ask(ctx context.Context, r request) error {
	// A cancelled context ends the wait for the answer.
	unhook := context.AfterFunc(ctx, func() { _ = c.net.SetDeadline(time.Unix(1, 0)) })
	defer unhook()
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err = c.net.Write(append(line, '\n')); err == nil {
		line, err = c.lines.ReadBytes('\n')
	}
	var answer reply[T]
	if err == nil {
		err = json.Unmarshal(line, &answer)
	}
	switch {
	case err == nil && answer.Error != "":
		return errors.New(answer.Error)
	case err == nil:
		c.Started = answer.Started
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("the parent of the process does not answer: %w", context.Cause(ctx))
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return ErrGone
	}
	return fmt.Errorf("cannot talk to the parent of a process: %w", err)
}

// Ended returns the connection to a parent that has ended already.
func Ended[T any](started T) *Conn[T] { return &Conn[T]{Started: started} }

// Wait returns when the parent has ended, or the connection was closed.
func (c *Conn[T]) Wait() {
	if c.net != nil {
		_, _ = io.Copy(io.Discard, c.lines) // any error ends the connection too
	}
}

// Close lets go of the parent, which lives on.
func (c *Conn[T]) Close() error {
	if c.net == nil {
		return nil
	}
	return c.net.Close()
}
