package localvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
)

// EnvVM is in the environment of every process of a VM (docs/vms.md).
const EnvVM = "DEPLOY_VM"

// Process is one process of this machine; its start time tells it from a later
// one with the same pid.
type Process struct {
	PID   int
	Start uint64 // clock ticks since boot
}

func (p Process) String() string { return strconv.Itoa(p.PID) }

// FindProcess returns the process that has a pid now. A zombie counts as gone.
func FindProcess(pid int) (Process, bool) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return Process{}, false
	}
	stat, err := p.Stat()
	if err != nil || stat.State == "Z" || stat.State == "X" {
		return Process{}, false
	}
	return Process{PID: pid, Start: stat.Starttime}, true
}

// Alive reports whether the process still runs.
func (p Process) Alive() bool {
	now, found := FindProcess(p.PID)
	return found && now.Start == p.Start
}

// Signal sends a signal to p or to nobody: the handle is opened before the
// identity is checked.
func (p Process) Signal(sig syscall.Signal) {
	handle, err := os.FindProcess(p.PID)
	if err != nil {
		return
	}
	defer func() { _ = handle.Release() }()
	if p.Alive() {
		_ = handle.Signal(sig)
	}
}

// ProcessesWith returns the processes whose DEPLOY_VM satisfies match, this
// one excepted.
func ProcessesWith(match func(vmID string) bool) ([]Process, error) {
	all, err := procfs.AllProcs()
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	var found []Process
	for _, p := range all {
		if p.PID == os.Getpid() {
			continue
		}
		environ, err := p.Environ() // fails for other users' processes and those just gone
		if err != nil {
			continue
		}
		for _, entry := range environ {
			if id, ok := strings.CutPrefix(entry, EnvVM+"="); ok && match(id) {
				if q, ok := FindProcess(p.PID); ok {
					found = append(found, q)
				}
				break
			}
		}
	}
	return found, nil
}

// Running returns the pids of a VM's processes on this machine, including its init.
func Running(vmID string) ([]int, error) {
	found, err := ProcessesWith(func(id string) bool { return id == vmID })
	var out []int
	for _, p := range found {
		out = append(out, p.PID)
	}
	return out, err
}

// End kills the processes of a VM on this machine.
func End(ctx context.Context, vmID string) error {
	return EndAll(ctx, 0, func() ([]Process, error) {
		return ProcessesWith(func(id string) bool { return id == vmID })
	})
}

// Descendants returns the children of pid, their children, and so on.
func Descendants(pid int) ([]Process, error) {
	all, err := procfs.AllProcs()
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	children := map[int][]Process{}
	for _, p := range all {
		stat, err := p.Stat()
		if err != nil || stat.State == "Z" || stat.State == "X" {
			continue
		}
		children[stat.PPID] = append(children[stat.PPID], Process{PID: p.PID, Start: stat.Starttime})
	}
	var found []Process
	for next := children[pid]; len(next) > 0; {
		found = append(found, next...)
		var more []Process
		for _, p := range next {
			more = append(more, children[p.PID]...)
		}
		next = more
	}
	return found, nil
}

const (
	killWait = 10 * time.Second
	scanWait = 20 * time.Millisecond
)

// EndAll ends the processes that find returns: TERM, after grace KILL, until find
// returns none.
func EndAll(ctx context.Context, grace time.Duration, find func() ([]Process, error)) error {
	termUntil := time.Now().Add(grace)
	killUntil := termUntil.Add(killWait)
	told := map[Process]bool{}
	for {
		found, err := find()
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return nil
		}
		now := time.Now()
		if now.After(killUntil) {
			return fmt.Errorf("cannot end %d processes, they outlive KILL: %v; see what they wait for with ps, then try again", len(found), found)
		}
		for _, p := range found {
			if now.After(termUntil) {
				p.Signal(syscall.SIGKILL)
			} else if !told[p] {
				told[p] = true
				p.Signal(syscall.SIGTERM)
			}
		}
		// Scanning all of /proc is dear: scan again when those known are gone.
		phaseEnd := killUntil
		if now.Before(termUntil) {
			phaseEnd = termUntil
		}
		if err := waitGone(ctx, found, phaseEnd); err != nil {
			return err
		}
	}
}

// waitGone returns when none of the processes is left or at the deadline.
func waitGone(ctx context.Context, processes []Process, until time.Time) error {
	tick := time.NewTicker(scanWait)
	defer tick.Stop()
	for {
		alive := processes[:0:0]
		for _, p := range processes {
			if p.Alive() {
				alive = append(alive, p)
			}
		}
		if len(alive) == 0 || time.Now().After(until) {
			return nil
		}
		processes = alive
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("cannot wait for the end of processes %v", alive), context.Cause(ctx))
		case <-tick.C:
		}
	}
}
