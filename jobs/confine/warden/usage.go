package warden

import (
	"os"
	"time"

	"github.com/prometheus/procfs"

	"github.com/clusterworks/deploy/agent/host/proc"
)

// userHz is the unit of the kernel's process times, fixed for user space.
const userHz = 100

// Usage describes what an app uses.
type Usage struct {
	CPU       time.Duration // so far
	Memory    int64         // bytes, what processes share counted once where we may look
	Processes int           // threads
}

// Snapshot is one look at all processes of the machine.
type Snapshot struct {
	all      proc.Table
	children map[int][]int
}

// Look takes a snapshot.
func Look() (Snapshot, error) {
	all, err := proc.All()
	return Snapshot{all, all.Children()}, err
}

// Processes returns the pids of all descendants of a warden.
func (s Snapshot) Processes(warden int) []int { return proc.Descendants(s.children, warden) }

// Usage sums up all descendants of a warden.
func (s Snapshot) Usage(warden int) Usage {
	var u Usage
	for _, pid := range proc.Descendants(s.children, warden) {
		p := s.all[pid]
		u.CPU += time.Duration(p.UTime+p.STime) * time.Second / userHz
		u.Memory += share(pid, int64(p.RSS)*int64(os.Getpagesize()))
		u.Processes += p.NumThreads
	}
	return u
}

// share returns the bytes of a process, of pages that it shares with others only
// its part; resident, all of them, if the kernel does not say.
func share(pid int, resident int64) int64 {
	if resident == 0 {
		return 0
	}
	p, err := procfs.NewProc(pid)
	if err != nil {
		return resident
	}
	rollup, err := p.ProcSMapsRollup()
	if err != nil || rollup.Pss == 0 {
		return resident
	}
	return int64(rollup.Pss)
}
