package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/clusterworks/deploy/deployer"
)

// signals ends a run in order. At the first signal (INT, TERM, HUP, or a reader of
// our output that has ended) a command that changes something finishes what it has
// begun, saves and leaves; any other command ends at once. At the second signal
// every command ends at once.
type signals struct {
	interrupt chan struct{} // closed at the first signal
	// reads reports whether the command changes nothing.
	reads atomic.Bool

	cancel  context.CancelCauseFunc
	mu      sync.Mutex
	arrived int
}

// interrupted is the cause of a context that a signal has ended.
type interrupted struct {
	by    syscall.Signal
	twice bool
}

func (e interrupted) Error() string {
	if e.twice {
		return "interrupted twice: what agents have begun, they finish; the next apply continues from there"
	}
	return "interrupted"
}

// Is lets a caller that looks for the end of a context find it.
func (interrupted) Is(err error) bool { return err == context.Canceled }

// exitCode returns what a shell reports of a process that the signal has ended.
func (e interrupted) exitCode() int { return 128 + int(e.by) }

// listen takes signals until stop is called. The context ends as signals says.
func listen() (ctx context.Context, s *signals, stop func()) {
	s = &signals{interrupt: make(chan struct{})}
	ctx, s.cancel = context.WithCancelCause(context.Background())
	in := make(chan os.Signal, 4)
	signal.Notify(in, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	// A write to a pipe that nobody reads must fail, not end the process; that it is
	// received, not ignored, keeps children from inheriting this.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	var owned sync.WaitGroup
	owned.Go(func() {
		for {
			select {
			case got := <-in:
				s.arrive(got.(syscall.Signal))
			case <-broken:
			case <-ctx.Done():
				return
			}
		}
	})
	return ctx, s, func() {
		signal.Stop(in)
		signal.Stop(broken)
		s.cancel(nil)
		owned.Wait()
	}
}

// arrive takes a signal up.
func (s *signals) arrive(by syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrived++
	switch {
	case s.arrived == 1:
		close(s.interrupt)
		if s.reads.Load() {
			s.cancel(interrupted{by: by})
		}
	case by != syscall.SIGPIPE: // which comes with each further write
		s.cancel(interrupted{by: by, twice: true})
	}
}

// pipe is an output whose reader may end.
type pipe struct {
	*os.File
	once    sync.Once
	signals *signals
}

func (p *pipe) Write(data []byte) (int, error) {
	n, err := p.File.Write(data)
	if errors.Is(err, syscall.EPIPE) {
		p.once.Do(func() { p.signals.arrive(syscall.SIGPIPE) })
		err = outputEnded{err}
	}
	return n, err
}

// outputEnded says that nobody reads an output any more. A connection to a VM that
// was cut is a broken pipe, too: that one is an error like all others.
type outputEnded struct{ error }

func (e outputEnded) Unwrap() error { return e.error }

// file returns the file behind an output, which a child process can inherit as its
// terminal.
func file(w io.Writer) io.Writer {
	if p, ok := w.(*pipe); ok {
		return p.File
	}
	return w
}

// exitStatus returns the exit code of a run that ended with err, and whether the
// error is still to be shown.
func exitStatus(ctx context.Context, err error) (code int, show bool) {
	var exit exitCode
	var by interrupted
	var ended outputEnded
	switch {
	case err == nil:
		return exitOK, false
	case errors.As(err, &exit):
		return int(exit), false
	case errors.As(context.Cause(ctx), &by) && errors.Is(err, context.Canceled):
		return by.exitCode(), by.by != syscall.SIGPIPE
	case errors.As(err, &ended):
		return interrupted{by: syscall.SIGPIPE}.exitCode(), false
	case errors.Is(err, deployer.ErrFailing):
		return exitFailing, true
	}
	return exitError, true
}

// exitCode is an error that carries an exit code and has been shown already.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }
