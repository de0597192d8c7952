// Package proc looks at the processes of this machine: what runs, what it has
// started, who has a port open. It reads /proc by way of prometheus/procfs.
package proc

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/prometheus/procfs"
)

// Stat returns the state of a process. The error is fs.ErrNotExist if there is
// none, or if it has ended and waits to be reaped.
func Stat(pid int) (procfs.ProcStat, error) {
	s, err := read(pid)
	if s.State == "Z" || s.State == "X" {
		return procfs.ProcStat{}, fmt.Errorf("process %d has ended: %w", pid, fs.ErrNotExist)
	}
	return s, err
}

func read(pid int) (procfs.ProcStat, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return procfs.ProcStat{}, err
	}
	s, err := p.Stat()
	if err != nil {
		return procfs.ProcStat{}, fmt.Errorf("cannot read the state of process %d: %w", pid, err)
	}
	return s, nil
}

// StartOf returns when a process was started, in clock ticks since the boot, also
// of one that waits to be reaped. A pid is used again; pid and start identify a
// process within a boot.
func StartOf(pid int) (uint64, error) {
	s, err := read(pid)
	return s.Starttime, err
}

// Runs reports whether the process that was started at this time still runs.
func Runs(pid int, start uint64) bool {
	s, err := Stat(pid)
	return err == nil && s.Starttime == start
}

// Table has the processes that ran at one moment, by pid.
type Table map[int]procfs.ProcStat

// All returns all processes that run, this one apart.
func All() (Table, error) {
	all, err := procfs.AllProcs()
	if err != nil {
		return nil, fmt.Errorf("cannot list the processes: %w", err)
	}
	t := make(Table, len(all))
	for _, p := range all {
		// Those that end meanwhile have no state.
		if s, err := Stat(p.PID); err == nil && p.PID != os.Getpid() {
			t[p.PID] = s
		}
	}
	return t, nil
}

// Children returns the children of each process.
func (t Table) Children() map[int][]int {
	children := make(map[int][]int, len(t))
	for pid, s := range t {
		children[s.PPID] = append(children[s.PPID], pid)
	}
	return children
}

// Descendants returns what a process has started, and what that has. Children are
// those of the same table.
func Descendants(children map[int][]int, pid int) []int {
	found := slices.Clone(children[pid])
	for next := 0; next < len(found); next++ {
		found = append(found, children[found[next]]...)
	}
	return found
}

// HasVariable reports whether a process was started with a variable, "NAME=value",
// in its environment. Those of other users' processes are not ours to read.
func HasVariable(pid int, variable string) bool {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return false
	}
	environ, err := p.Environ()
	return err == nil && slices.Contains(environ, variable)
}

// BootID returns what tells one boot of this machine from the next.
func BootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("cannot tell one boot from the next: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
