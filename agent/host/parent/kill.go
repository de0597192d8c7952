package parent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/prometheus/procfs"

	"github.com/clusterworks/deploy/agent/host/proc"
)

// sweepEvery is the time between two looks for what is left.
const sweepEvery = 5 * time.Millisecond

// freezeRounds bounds how often killAll looks for what was forked meanwhile.
const freezeRounds = 50

// Left describes the processes that may outlive a parent that is gone.
type Left struct {
	// Variable, "NAME=value", is in the environment of all that the process started.
	Variable string
	// Parent led the session of all that the process started: programs that write
	// their title over their environment cannot hide. 0: it is not known. ParentStart
	// is its start time, in clock ticks since the boot, BootID the boot.
	Parent      int
	ParentStart uint64
	BootID      string
}

// Sweep kills whatever is left, the parent included, and returns when nothing is.
// It must not be called while the parent lives and is wanted.
func Sweep(ctx context.Context, l Left) error {
	session := 0
	if boot, err := proc.BootID(); err == nil && boot == l.BootID {
		session = l.Parent
	}
	return end(ctx, func(t proc.Table) (found []int, _ int) {
		// A session's id is not used again as long as it has members, so if another
		// process has the leader's pid, the session is gone.
		if s, ok := t[l.Parent]; ok && s.Starttime != l.ParentStart {
			session = 0
		}
		for pid, s := range t {
			if session != 0 && s.Session == session || proc.HasVariable(pid, l.Variable) {
				found = append(found, pid)
			}
		}
		return found, session
	})
}

// Kill kills one process, by its start time the one that is meant, and returns
// when it has ended.
func Kill(ctx context.Context, pid int, start uint64) error {
	return end(ctx, func(t proc.Table) ([]int, int) {
		if s, ok := t[pid]; !ok || s.Starttime != start {
			return nil, 0
		}
		return []int{pid}, 0
	})
}

// end kills what find finds until that is nothing.
func end(ctx context.Context, find func(proc.Table) ([]int, int)) error {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		left, err := killAll(find)
		if err != nil || len(left) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v do not end: %w", left, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

// killDescendants kills all that this process has started, and what that has.
func killDescendants() {
	self := os.Getpid()
	if self == 1 {
		_ = syscall.Kill(-1, syscall.SIGKILL) // all of the namespace but us
		return
	}
	// What cannot be looked at or ended is there at the next try.
	_, _ = killAll(func(t proc.Table) ([]int, int) { return proc.Descendants(t.Children(), self), self })
}

// killAll kills the processes that find finds, and returns what it found. They
// are stopped before, until no new ones are found: else those that fork faster
// than they are killed would go on. Groups of the session that find returns, which
// has none but such processes and its leader, are stopped and killed as wholes,
// which the kernel does at one moment; 0: there is no such session.
func killAll(find func(proc.Table) (pids []int, session int)) ([]int, error) {
	var failed error
	session := 0
	send := func(pid int, s procfs.ProcStat, signal syscall.Signal) {
		// Never group 0 or 1, which mean other things to kill(2).
		if session != 0 && s.Session == session && s.PGRP != session && s.PGRP > 1 {
			_ = syscall.Kill(-s.PGRP, signal) // each is sent its own below, too
		}
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			failed = fmt.Errorf("cannot end process %d: %w", pid, err)
		}
	}
	stopped := proc.Table{}
	for range freezeRounds {
		all, err := proc.All()
		if err != nil {
			return nil, err
		}
		var pids []int
		pids, session = find(all)
		fresh := false
		for _, pid := range pids {
			if s := all[pid]; stopped[pid].Starttime != s.Starttime {
				stopped[pid], fresh = s, true
				send(pid, s, syscall.SIGSTOP)
			}
		}
		if !fresh {
			break
		}
	}
	for pid, s := range stopped {
		send(pid, s, syscall.SIGKILL)
	}
	return slices.Sorted(maps.Keys(stopped)), failed
}
