package warden

import (
	"os"
	"time"

	"github.com/clusterworks/deploy/agent/host/proc"
)

// userHz is the unit of the kernel's process times, fixed for user space.
const userHz = 100

// Usage is what an app uses.
type Usage struct {
	CPU       time.Duration // so far
	Memory    int64         // bytes, resident
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
		u.Memory += int64(p.RSS) * int64(os.Getpagesize())
		u.Processes += p.NumThreads
	}
	return u
}
