package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ProcessVariable is the environment variable that holds the id of a start and
// is inherited by all that the process starts.
const ProcessVariable = "DEPLOY_PROCESS"

// sweepEvery is the time between two looks for strays.
const sweepEvery = 5 * time.Millisecond

// procStat is what we need of /proc/<pid>/stat (proc(5)).
type procStat struct {
	state                byte // 'Z' is dead, not reaped yet
	ppid, group, session int
	ticks                uint64
}

func readStat(pid int) (procStat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, err
	}
	return parseStat(data)
}

// parseStat reads fields 3 to 6 and 22. The second field, the program's name in
// parentheses, may hold anything.
func parseStat(data []byte) (procStat, error) {
	end := bytes.LastIndexByte(data, ')')
	fields := bytes.Fields(data[end+1:])
	if end < 0 || len(fields) < 20 || len(fields[0]) != 1 {
		return procStat{}, fmt.Errorf("cannot read the state of a process: %.40q", data)
	}
	s := procStat{state: fields[0][0]}
	for i, to := range []*int{&s.ppid, &s.group, &s.session} {
		n, err := strconv.Atoi(string(fields[i+1]))
		if err != nil {
			return procStat{}, fmt.Errorf("cannot read the state of a process: %w", err)
		}
		*to = n
	}
	ticks, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return procStat{}, fmt.Errorf("cannot read the state of a process: %w", err)
	}
	s.ticks = ticks
	return s, nil
}

// Ticks is when a process was started, in clock ticks since the boot.
func Ticks(pid int) (uint64, error) {
	s, err := readStat(pid)
	return s.ticks, err
}

// each calls f for every process but ourselves that has not ended.
func each(f func(pid int, s procStat)) error {
	proc, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("cannot list the processes: %w", err)
	}
	self := os.Getpid()
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == self {
			continue
		}
		if s, err := readStat(pid); err == nil && s.state != 'Z' && s.state != 'X' {
			f(pid, s)
		}
	}
	return nil
}

// Sweep kills whatever is left of the start with that id, and returns when
// nothing is. Found is what has the id in its environment, and, if the start is
// known, what belongs to its shim's session: programs that write their title
// over their environment cannot hide. It must not be called while the shim
// lives and is wanted.
func Sweep(ctx context.Context, id string, started *Started) error {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		left, err := strays(id, started)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("cannot end process %d, left behind by an earlier start: %w", pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v of an earlier start do not end: %w", left, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

// Kill kills one process, by its start time the one that is meant, and returns
// when it has ended.
func Kill(ctx context.Context, pid int, ticks uint64) error {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		if s, err := readStat(pid); err != nil || s.ticks != ticks || s.state == 'Z' || s.state == 'X' {
			return nil // an error: it is gone
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("cannot end process %d: %w", pid, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d does not end: %w", pid, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

func strays(id string, started *Started) ([]int, error) {
	session := 0
	if started != nil {
		if boot, err := BootID(); err == nil && boot == started.BootID {
			session = started.ShimPID
		}
		// A session's id is not used again as long as it has members, so if
		// another process has the leader's pid, the session is gone.
		if ticks, err := Ticks(started.ShimPID); err == nil && ticks != started.ShimTicks {
			session = 0
		}
	}
	var found []int
	mark := []byte(ProcessVariable + "=" + id)
	err := each(func(pid int, s procStat) {
		if session != 0 && s.session == session {
			found = append(found, pid)
			return
		}
		// What another user's processes have in theirs is not ours to read, and
		// not ours to end.
		environ, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
		if err == nil && slices.ContainsFunc(bytes.Split(environ, []byte{0}), func(v []byte) bool { return bytes.Equal(v, mark) }) {
			found = append(found, pid)
		}
	})
	return found, err
}

// signalNumber reads "TERM" or "SIGTERM".
func signalNumber(name string) (syscall.Signal, error) {
	if s := signalByName("SIG" + strings.TrimPrefix(name, "SIG")); s != 0 {
		return s, nil
	}
	return 0, fmt.Errorf("there is no signal %q", name)
}
