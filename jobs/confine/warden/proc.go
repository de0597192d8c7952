package warden

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// userHz is the unit of the kernel's process times, fixed for user space.
const userHz = 100

// stat is what we need of /proc/<pid>/stat (proc(5)).
type stat struct {
	state        byte // 'Z' is dead, not reaped yet
	ppid, group  int
	session      int
	cpuTicks     uint64 // user and system
	threads      int
	startTicks   uint64
	residentPage int64
}

func readStat(pid int) (stat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	return parseStat(data)
}

// parseStat reads fields 3 to 24. The second field, the program's name in
// parentheses, may hold anything.
func parseStat(data []byte) (stat, error) {
	end := bytes.LastIndexByte(data, ')')
	fields := bytes.Fields(data[end+1:])
	if end < 0 || len(fields) < 22 || len(fields[0]) != 1 {
		return stat{}, fmt.Errorf("cannot read the state of a process: %.40q", data)
	}
	var n [22]int64
	for i := 1; i < 22; i++ {
		v, err := strconv.ParseInt(string(fields[i]), 10, 64)
		if err != nil {
			continue // some are unsigned and may be too large; those are not ours
		}
		n[i] = v
	}
	return stat{
		state: fields[0][0], ppid: int(n[1]), group: int(n[2]), session: int(n[3]),
		cpuTicks: uint64(n[11] + n[12]), threads: int(n[17]), startTicks: uint64(n[19]), residentPage: n[21],
	}, nil
}

func (s stat) dead() bool { return s.state == 'Z' || s.state == 'X' }

// processes are all that live, but this one.
func processes() (map[int]stat, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("cannot list the processes: %w", err)
	}
	all := make(map[int]stat, len(names))
	self := os.Getpid()
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == self {
			continue
		}
		if s, err := readStat(pid); err == nil && !s.dead() {
			all[pid] = s
		}
	}
	return all, nil
}

// Usage is what an app uses.
type Usage struct {
	CPU       time.Duration // so far
	Memory    int64         // bytes, resident
	Processes int           // threads
}

// Snapshot is one look at all processes of the machine.
type Snapshot struct {
	all      map[int]stat
	children map[int][]int
}

// Look takes a snapshot.
func Look() (Snapshot, error) {
	all, err := processes()
	if err != nil {
		return Snapshot{}, err
	}
	return snapshot(all), nil
}

func snapshot(all map[int]stat) Snapshot {
	s := Snapshot{all: all, children: map[int][]int{}}
	for pid, p := range all {
		s.children[p.ppid] = append(s.children[p.ppid], pid)
	}
	return s
}

// Usage sums up all descendants of a warden.
func (s Snapshot) Usage(warden int) Usage {
	var u Usage
	for next := slices.Clone(s.children[warden]); len(next) > 0; next = next[1:] {
		p := s.all[next[0]]
		u.CPU += time.Duration(p.cpuTicks) * time.Second / userHz
		u.Memory += p.residentPage * int64(os.Getpagesize())
		u.Processes += p.threads
		next = append(next, s.children[next[0]]...)
	}
	return u
}

// alive says whether the warden that was started still runs.
func (s Started) alive() bool {
	now, err := readStat(s.PID)
	return err == nil && !now.dead() && now.startTicks == s.Ticks
}

// instanceVariable is in the environment of every app and holds its instance id.
const instanceVariable = "VMC_APP_ID"

// strays finds processes of an instance whose warden is gone: by their session,
// which the warden led (-1: its pid is another's by now), and by the id in their
// environment.
func strays(id string, warden Started) (find func(map[int]stat) []int, session int) {
	mark := []byte(instanceVariable + "=" + id)
	session = warden.PID
	if s, err := readStat(warden.PID); session == 0 || err == nil && s.startTicks != warden.Ticks {
		session = -1
	}
	return func(all map[int]stat) []int {
		var found []int
		for pid, p := range all {
			if p.session == session && pid != warden.PID {
				found = append(found, pid)
				continue
			}
			environ, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
			if err == nil && slices.ContainsFunc(bytes.Split(environ, []byte{0}), func(v []byte) bool { return bytes.Equal(v, mark) }) {
				found = append(found, pid)
			}
		}
		return found
	}, session
}

// killDescendants kills all that this process has started, and what that has.
func killDescendants() {
	self := os.Getpid()
	if self == 1 {
		_ = syscall.Kill(-1, syscall.SIGKILL) // all of the namespace but us
		return
	}
	// What cannot be looked at or ended is there at the next try.
	_, _ = killAll(self, func(all map[int]stat) []int {
		s := snapshot(all)
		var found []int
		for next := slices.Clone(s.children[self]); len(next) > 0; next = next[1:] {
			found = append(found, next[0])
			next = append(next, s.children[next[0]]...)
		}
		return found
	})
}

// freezeRounds bounds how often killAll looks for what was forked meanwhile.
const freezeRounds = 50

// killAll kills the processes that find finds, and returns what it found. They
// are stopped before, until no new ones are found: else those that fork faster
// than they are killed would go on. Groups of the given session, which has none
// but such processes and its leader, are stopped and killed as wholes, which the
// kernel does at one moment.
func killAll(session int, find func(map[int]stat) []int) ([]int, error) {
	var failed error
	send := func(pid int, p stat, signal syscall.Signal) {
		// Never group 0 or 1, which mean other things to kill(2).
		if p.session == session && p.group != session && p.group > 1 {
			_ = syscall.Kill(-p.group, signal) // each is sent its own below, too
		}
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			failed = fmt.Errorf("cannot end process %d: %w", pid, err)
		}
	}
	stopped := map[int]stat{}
	for range freezeRounds {
		all, err := processes()
		if err != nil {
			return nil, err
		}
		fresh := false
		for _, pid := range find(all) {
			if p := all[pid]; stopped[pid].startTicks != p.startTicks {
				stopped[pid], fresh = p, true
				send(pid, p, syscall.SIGSTOP)
			}
		}
		if !fresh {
			break
		}
	}
	for pid, p := range stopped {
		send(pid, p, syscall.SIGKILL)
	}
	return slices.Sorted(maps.Keys(stopped)), failed
}
