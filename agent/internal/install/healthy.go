package install

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/agent/api"
)

// defaultDeadline bounds a wait for health that names no deadline.
const defaultDeadline = 5 * time.Minute

// waitHealthy waits until the supervisor calls the instance healthy. Its error
// names the process at fault.
func (i *Installer) waitHealthy(ctx context.Context, minHealthy, deadline time.Duration, report Report) error {
	if deadline <= 0 {
		deadline = defaultDeadline
	}
	limited, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	began := time.Now()
	if err := i.Supervisor.WaitHealthy(limited, minHealthy); err != nil {
		return err
	}
	report.Event("healthy", fmt.Sprintf("for %s, after %s", minHealthy, time.Since(began).Round(time.Millisecond)))
	return nil
}

// processError adds to a message what an operator needs to see of a process.
// An error of the supervisor that has it already stays as it is.
func (i *Installer) processError(message string, r ref, cause error) error {
	var known *api.Error
	if errors.As(cause, &known) && known.Process != nil {
		return cause
	}
	failure := &api.ProcessFailure{Job: r.job, Name: r.name, Log: i.Supervisor.LogTail(r.job, r.name, 30)}
	if s, ok := byProcess(i.Supervisor.Statuses())[r]; ok && s.PID == 0 && s.LastExit != nil && !s.LastExit.Expected {
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
