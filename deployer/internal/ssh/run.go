package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/ssh"
)

// ExitError says that a command ran and did not succeed.
type ExitError struct {
	Target  string // user@host:port
	Command string
	// Status is the exit status, -1 if the command was ended by a signal or the
	// host did not tell.
	Status int
	Signal string // "KILL", if a signal ended it
	Stderr string // its end, at most 4 KiB
}

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exited with status %d", e.Status)
	switch {
	case e.Signal != "":
		how = "was ended by signal " + e.Signal
	case e.Status < 0:
		how = "ended without an exit status"
	}
	s := fmt.Sprintf("%q on %s %s", e.Command, e.Target, how)
	if e.Stderr != "" {
		s += ": " + e.Stderr
	}
	return s
}

// stderrTail is the number of bytes that an ExitError keeps of the end of a command's stderr.
const stderrTail = 4 << 10

// Run runs a command with the user's shell and returns what it wrote to stdout.
// If it does not succeed, the error is an *ExitError. When the context ends, or
// the command writes more than maxOutput, it is sent TERM and left. stdin may be nil.
func (c *Client) Run(ctx context.Context, command string, stdin io.Reader) (string, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stdout := &bounded{full: func() { cancel(errOutput) }}
	stderr := &tail{max: stderrTail}
	err := c.session(ctx, command, func(s *ssh.Session) error {
		s.Stdin, s.Stdout, s.Stderr = stdin, stdout, stderr
		return s.Start(command)
	})
	if exit := (*ExitError)(nil); errors.As(err, &exit) {
		exit.Stderr = strings.TrimSpace(stderr.String())
		return stdout.String(), exit
	}
	if err != nil {
		return "", err // the session may still write to stdout
	}
	return stdout.String(), nil
}

// Size is that of a terminal, in characters.
type Size struct{ Width, Height int }

// Terminal is the user's, whose like the host shall make.
type Terminal struct {
	Type   string // $TERM
	Size   Size
	Resize <-chan Size // nil: it never changes
}

// Streams describe what an interactive command is connected to.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Interactive runs a command, the user's login shell if it is "", for a person:
// with a terminal of the host's unless t is nil. A read of Stdin that is under
// way when the command ends stays so until it returns.
func (c *Client) Interactive(ctx context.Context, command string, streams Streams, t *Terminal) error {
	resized := make(chan struct{})
	defer close(resized)
	return c.session(ctx, command, func(s *ssh.Session) error {
		s.Stdout, s.Stderr = streams.Stdout, streams.Stderr
		stdin, err := s.StdinPipe() // unlike Session.Stdin, Wait does not wait for it
		if err != nil {
			return err
		}
		if t != nil {
			// RFC 4254, 8: ECHO is 53, the speeds are 128 and 129.
			modes := ssh.TerminalModes{ssh.ECHO: 1, ssh.TTY_OP_ISPEED: 14400, ssh.TTY_OP_OSPEED: 14400}
			if err := s.RequestPty(t.Type, t.Size.Height, t.Size.Width, modes); err != nil {
				return err
			}
		}
		if command == "" {
			err = s.Shell()
		} else {
			err = s.Start(command)
		}
		if err != nil {
			return err
		}
		go func() {
			defer stdin.Close()
			io.Copy(stdin, streams.Stdin) // an error here is seen as the session's end
		}()
		if t != nil && t.Resize != nil {
			c.work.Go(func() {
				for {
					select {
					case size := <-t.Resize:
						if s.WindowChange(size.Height, size.Width) != nil {
							return
						}
					case <-resized:
						return
					case <-c.gone:
						return
					}
				}
			})
		}
		return nil
	})
}

// session opens a session, lets start start something in it, and waits for that.
func (c *Client) session(ctx context.Context, command string, start func(*ssh.Session) error) error {
	what := fmt.Sprintf("run %q", command)
	if command == "" {
		what = "run a shell"
	}
	_, err := await(ctx, c, func() (struct{}, error) {
		s, err := c.conn.NewSession()
		if err != nil {
			return struct{}{}, err
		}
		defer s.Close()
		// TERM for hosts that know it (RFC 4254, 6.9); the closed session for all.
		unhook := context.AfterFunc(ctx, func() {
			s.Signal(ssh.SIGTERM)
			s.Close()
		})
		defer unhook()
		if err := start(s); err != nil {
			return struct{}{}, err
		}
		err = s.Wait()
		if errors.Is(err, io.EOF) {
			// The command succeeded, and ended before it had read all of its input.
			err = nil
		}
		return struct{}{}, err
	})
	if err == nil {
		return nil
	}
	if exit := (*ssh.ExitError)(nil); errors.As(err, &exit) {
		status := exit.ExitStatus()
		if exit.Signal() != "" {
			status = -1
		}
		return &ExitError{Target: c.String(), Command: command, Status: status, Signal: cut(exit.Signal(), maxSignal)}
	}
	// The host closed the session without a word, and is still there.
	if missing := (*ssh.ExitMissingError)(nil); errors.As(err, &missing) && ctx.Err() == nil && c.alive() {
		return &ExitError{Target: c.String(), Command: command, Status: -1}
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return c.failed(what, err)
}

func (c *Client) alive() bool {
	select {
	case <-c.gone:
		return false
	default:
		return true
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	max int
	end []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.end = append(t.end, p...)
	if len(t.end) > t.max {
		t.end = append(t.end[:0], t.end[len(t.end)-t.max:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(bytes.ToValidUTF8(t.end, nil)) }

// Quote makes a text one word of a POSIX shell.
func Quote(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
