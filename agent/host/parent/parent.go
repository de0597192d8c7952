// Package parent is the parent of one process and of all that it starts. It runs
// in a small program of its own, so that it survives a crash or a
// replacement of the program that asked for it.
//
// The program's starter makes a socket (sockets.File) and hands it down listening,
// so that somebody answers on it exactly as long as the program is there: a
// refused connection means that it is gone, the end of a connection that it ends
// now. A request is a line of JSON, the answer is another.
//
// Files: parent.go and serve.go run in the program; client.go is the side of its
// starter; kill.go and records.go are for both.
package parent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Inherit makes this process the parent of all that it will start, orphans
// included, and returns the socket that it has inherited as descriptor fd.
func Inherit(fd int) (net.Listener, error) {
	syscall.CloseOnExec(fd)
	socket, err := net.FileListener(os.NewFile(uintptr(fd), "socket"))
	if err != nil {
		return nil, fmt.Errorf("cannot serve: descriptor %d is not a listening socket; the agent starts this program, not a person: %w", fd, err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("cannot become the reaper of what the process starts: %w", err)
	}
	return socket, nil
}

// Parent is the parent of one process, which leads a process group of its own.
// The goroutine that forked it calls Reap and then End.
type Parent struct {
	// PID is the process's.
	PID int
	// Alone says that only the process itself is stopped and killed, and that what
	// it has started is left.
	Alone bool
	// Signal and Grace are how the process is stopped when this one is asked to
	// end by SIGTERM.
	Signal syscall.Signal
	Grace  time.Duration

	mu       sync.Mutex // guards what follows, and signals against reaping
	reaped   bool       // PID is not ours any more
	stopping bool       // somebody asked for the end
	asked    bool       // by a request
	killing  bool       // the rest gets no more time
	kill     *time.Timer
}

// Reap waits for the end of the process, and takes what it has orphaned.
func (p *Parent) Reap() syscall.WaitStatus {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err == nil && pid == p.PID {
			p.mu.Lock()
			p.reaped = true
			p.mu.Unlock()
			return status
		}
	}
}

// Exit returns the status that a process has ended with, or -1 and the signal,
// without SIG.
func Exit(status syscall.WaitStatus) (code int, signal string) {
	if status.Signaled() {
		return -1, strings.TrimPrefix(unix.SignalName(status.Signal()), "SIG")
	}
	return status.ExitStatus(), ""
}

// Asked reports whether a request asked for the end of the process.
func (p *Parent) Asked() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// End returns when nothing is left of what the process has started. In a stop the
// rest has what remains of the grace period (a shell may end before what it has
// started), else none: a new start waits for its ports.
func (p *Parent) End() {
	if p.Alone {
		return
	}
	p.mu.Lock()
	p.killing = p.killing || !p.stopping
	p.mu.Unlock()
	for {
		p.mu.Lock()
		killing := p.killing
		p.mu.Unlock()
		if killing {
			killDescendants()
		}
		// All descendants become our children: no child, nothing left. One is awaited,
		// others that have ended by then are taken along.
		for options := 0; ; options = syscall.WNOHANG {
			pid, err := syscall.Wait4(-1, nil, options, nil)
			if errors.Is(err, syscall.ECHILD) {
				return
			}
			if err != nil || pid == 0 {
				break
			}
		}
	}
}

// signal sends a signal to the process, or to its whole group. p.mu is held.
func (p *Parent) signal(s syscall.Signal, group bool) error {
	switch {
	case p.reaped:
		return errors.New("the process has ended")
	case group && !p.Alone:
		return syscall.Kill(-p.PID, s)
	}
	return syscall.Kill(p.PID, s)
}

// stop ends the process: it and its group get the signal, and after the grace
// period it and all that it has started are killed. p.mu is held.
func (p *Parent) stop(s syscall.Signal, grace time.Duration) error {
	p.stopping = true
	if grace > 0 && !p.reaped {
		if err := p.signal(s, true); err != nil {
			return fmt.Errorf("cannot send signal %s: %w", unix.SignalName(s), err)
		}
		_ = p.signal(syscall.SIGCONT, true) // what is frozen cannot heed it
	}
	if p.kill != nil {
		p.kill.Stop()
	}
	p.kill = time.AfterFunc(grace, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.killing = true
		if !p.Alone {
			// What is forked meanwhile is caught by End.
			killDescendants()
		}
		_ = p.signal(syscall.SIGKILL, true) // or it has ended already
	})
	return nil
}

// Heed stops the process when this one is asked to end, by an init or a person.
// Other signals mean nothing here.
func (p *Parent) Heed(signals <-chan os.Signal) {
	for s := range signals {
		if s != syscall.SIGTERM {
			continue
		}
		p.mu.Lock()
		if !p.stopping {
			if err := p.stop(p.Signal, p.Grace); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
		p.mu.Unlock()
	}
}

// SignalNumber returns the signal called "TERM" or "SIGTERM".
func SignalNumber(name string) (syscall.Signal, error) {
	if s := unix.SignalNum("SIG" + strings.TrimPrefix(name, "SIG")); s != 0 {
		return s, nil
	}
	return 0, fmt.Errorf("there is no signal %q", name)
}
