package install

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"deploy/agent/api"
)

const (
	// defaultDeadline bounds a wait for health that names no deadline.
	defaultDeadline = 5 * time.Minute
	// crashLoop is how many unexpected ends within one wait say that waiting
	// longer is in vain.
	crashLoop = 5
	// crashPoll is how often they are counted.
	crashPoll = 100 * time.Millisecond
)

var errCrashLoop = errors.New("keeps ending")

// waitHealthy waits until the supervisor calls the instance healthy, the
// deadline has passed, or a process ends again and again.
func (i *Installer) waitHealthy(ctx context.Context, minHealthy, deadline time.Duration, report Report) error {
	if deadline <= 0 {
		deadline = defaultDeadline
	}
	limited, cancelTimeout := context.WithTimeout(ctx, deadline)
	defer cancelTimeout()
	limited, cancel := context.WithCancelCause(limited)
	defer cancel(nil)

	watched := make(chan struct{})
	go func() {
		defer close(watched)
		i.watchCrashes(limited, cancel)
	}()
	began := time.Now()
	err := i.Supervisor.WaitHealthy(limited, minHealthy)
	loop := errors.Is(context.Cause(limited), errCrashLoop)
	cancel(nil)
	<-watched
	if err == nil {
		report.Event("healthy", fmt.Sprintf("for %s, after %s", minHealthy, time.Since(began).Round(time.Millisecond)))
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return i.unhealthy(err, deadline, loop)
}

// watchCrashes ends the wait when a process has ended too often.
func (i *Installer) watchCrashes(ctx context.Context, cancel context.CancelCauseFunc) {
	before := byProcess(i.Supervisor.Statuses())
	ticker := time.NewTicker(crashPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, s := range i.Supervisor.Statuses() {
			if s.Restarts-before[ref{s.Job, s.Name}].Restarts >= crashLoop {
				cancel(errCrashLoop)
				return
			}
		}
	}
}

// unhealthy says which process is the reason, how it ended and what it logged.
func (i *Installer) unhealthy(err error, deadline time.Duration, loop bool) error {
	var worst *api.ProcessStatus
	for _, s := range i.Supervisor.Statuses() {
		if worst == nil || badness(s) > badness(*worst) {
			worst = &s
		}
	}
	when := fmt.Sprintf("is not healthy within %s", deadline)
	if loop {
		when = "is not healthy"
	}
	if worst == nil || badness(*worst) == 0 {
		return &api.Error{Code: api.CodeFailed, Message: fmt.Sprintf("the instance %s: %v", when, err)}
	}
	r := ref{worst.Job, worst.Name}
	message := fmt.Sprintf("%s %s: it is %s", r, when, worst.State)
	if worst.Reason != "" {
		message += ", " + worst.Reason
	}
	return i.processError(message, r, err)
}

// badness orders processes by how likely they are the reason.
func badness(s api.ProcessStatus) int {
	unexpected := s.LastExit != nil && !s.LastExit.Expected
	switch {
	case s.State == api.ProcessBackoff:
		return 5
	case s.Restarts > 0 && unexpected:
		return 4
	case s.State == api.ProcessFailing:
		return 3
	case s.State == api.ProcessStarting:
		return 2
	case s.State == api.ProcessStopped, s.State == api.ProcessStopping:
		return 1
	}
	return 0
}

// processError adds to a message what an operator needs to see of a process.
// An error of the supervisor that has it already stays as it is.
func (i *Installer) processError(message string, r ref, cause error) error {
	var known *api.Error
	if errors.As(cause, &known) && known.Process != nil {
		return cause
	}
	failure := &api.ProcessFailure{Job: r.job, Name: r.name, Log: i.Supervisor.LogTail(r.job, r.name, 30)}
	if s, ok := byProcess(i.Supervisor.Statuses())[r]; ok && s.LastExit != nil && !s.LastExit.Expected {
		failure.Exit = s.LastExit
	}
	return &api.Error{Code: api.CodeFailed, Message: message, Process: failure}
}

// signalName is "KILL" for SIGKILL.
func signalName(s syscall.Signal) string {
	name := unix.SignalName(s)
	if len(name) > 3 {
		return name[3:]
	}
	return s.String()
}
