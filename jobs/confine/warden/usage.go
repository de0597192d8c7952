package warden

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
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

// Held returns what files on a folder's disk take that no folder has any more, and that go
// on being there since descendants of a warden have them open or mapped.
func (s Snapshot) Held(warden int, folder string) int64 {
	var disk, file syscall.Stat_t
	if syscall.Stat(folder, &disk) != nil {
		return 0 // it is gone
	}
	held := map[uint64]int64{} // by inode
	see := func(link string) error {
		err := syscall.Stat(link, &file)
		if err == nil && file.Nlink == 0 && file.Dev == disk.Dev && file.Mode&syscall.S_IFMT == syscall.S_IFREG {
			held[file.Ino] = file.Blocks * 512
		}
		return err
	}
	for _, pid := range s.Processes(warden) {
		own := fmt.Sprintf("/proc/%d", pid)
		open, _ := os.ReadDir(own + "/fd") // it has ended: none
		for _, e := range open {
			_ = see(filepath.Join(own, "fd", e.Name())) // closed meanwhile
		}
		maps, _ := os.ReadFile(own + "/maps")
		for line := range strings.Lines(string(maps)) {
			fields := strings.Fields(line)
			if len(fields) < 7 || fields[len(fields)-1] != "(deleted)" || see(filepath.Join(own, "map_files", fields[0])) == nil {
				continue
			}
			// Only root may look at the file itself. Its device is in its line.
			device := fmt.Sprintf("%02x:%02x", disk.Dev>>8&0xfff, disk.Dev&0xff|disk.Dev>>12&0xfff00)
			inode, err := strconv.ParseUint(fields[4], 10, 64)
			first, last, _ := strings.Cut(fields[0], "-")
			from, errFrom := strconv.ParseInt(first, 16, 64)
			to, errTo := strconv.ParseInt(last, 16, 64)
			if err == nil && errFrom == nil && errTo == nil && fields[3] == device {
				held[inode] = max(held[inode], to-from)
			}
		}
	}
	sum := int64(0)
	for _, size := range held {
		sum += size
	}
	return sum
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
