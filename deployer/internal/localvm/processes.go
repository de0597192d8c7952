package localvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
)

// envVM is in the environment of every process of a VM (docs/vms.md).
const envVM = "DEPLOY_VM"

// process is one process of this machine; its start time tells it from a later
// one with the same pid.
type process struct {
	pid   int
	start uint64 // clock ticks since boot
}

// findProcess reads what runs under a pid now. A zombie counts as gone.
func findProcess(pid int) (process, bool) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return process{}, false
	}
	stat, err := p.Stat()
	if err != nil || stat.State == "Z" || stat.State == "X" {
		return process{}, false
	}
	return process{pid: pid, start: stat.Starttime}, true
}

func (p process) alive() bool {
	now, found := findProcess(p.pid)
	return found && now.start == p.start
}

// signal reaches p or nobody: the handle is opened before the identity is
// checked.
func (p process) signal(sig syscall.Signal) {
	handle, err := os.FindProcess(p.pid)
	if err != nil {
		return
	}
	defer func() { _ = handle.Release() }()
	if p.alive() {
		_ = handle.Signal(sig)
	}
}

// processesWith returns the processes whose DEPLOY_VM satisfies match, this
// one excepted.
func processesWith(match func(vmID string) bool) ([]process, error) {
	all, err := procfs.AllProcs()
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	var found []process
	for _, p := range all {
		if p.PID == os.Getpid() {
			continue
		}
		environ, err := p.Environ() // fails for other users' processes and those just gone
		if err != nil {
			continue
		}
		for _, entry := range environ {
			if id, ok := strings.CutPrefix(entry, envVM+"="); ok && match(id) {
				if q, ok := findProcess(p.PID); ok {
					found = append(found, q)
				}
				break
			}
		}
	}
	return found, nil
}

// Running returns the pids of what runs of a VM on this machine, its init among
// them.
func Running(vmID string) ([]int, error) {
	found, err := processesWith(func(id string) bool { return id == vmID })
	var out []int
	for _, p := range found {
		out = append(out, p.pid)
	}
	return out, err
}

// End ends what runs of a VM on this machine, at once.
func End(ctx context.Context, vmID string) error {
	return end(ctx, 0, func() ([]process, error) {
		return processesWith(func(id string) bool { return id == vmID })
	})
}

// descendants returns all children of pid and theirs.
func descendants(pid int) ([]process, error) {
	all, err := procfs.AllProcs()
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	children := map[int][]process{}
	for _, p := range all {
		stat, err := p.Stat()
		if err != nil || stat.State == "Z" || stat.State == "X" {
			continue
		}
		children[stat.PPID] = append(children[stat.PPID], process{pid: p.PID, start: stat.Starttime})
	}
	var found []process
	for next := children[pid]; len(next) > 0; {
		found = append(found, next...)
		var more []process
		for _, p := range next {
			more = append(more, children[p.pid]...)
		}
		next = more
	}
	return found, nil
}

const (
	killWait = 10 * time.Second
	scanWait = 20 * time.Millisecond
)

// end ends whatever find finds: TERM, after grace KILL, until find finds
// nothing any more.
func end(ctx context.Context, grace time.Duration, find func() ([]process, error)) error {
	termUntil := time.Now().Add(grace)
	killUntil := termUntil.Add(killWait)
	told := map[process]bool{}
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
			return fmt.Errorf("cannot end %d processes, they outlive KILL: %s; see what they wait for with ps, then try again", len(found), pids(found))
		}
		for _, p := range found {
			if now.After(termUntil) {
				p.signal(syscall.SIGKILL)
			} else if !told[p] {
				told[p] = true
				p.signal(syscall.SIGTERM)
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
func waitGone(ctx context.Context, processes []process, until time.Time) error {
	tick := time.NewTicker(scanWait)
	defer tick.Stop()
	for {
		alive := processes[:0:0]
		for _, p := range processes {
			if p.alive() {
				alive = append(alive, p)
			}
		}
		if len(alive) == 0 || time.Now().After(until) {
			return nil
		}
		processes = alive
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("cannot wait for the end of processes %s", pids(alive)), context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func pids(processes []process) string {
	list := make([]string, len(processes))
	for i, p := range processes {
		list[i] = fmt.Sprint(p.pid)
	}
	return strings.Join(list, " ")
}
