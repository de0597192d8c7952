package dea

import (
	"context"
	"fmt"
	"math"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/jobs/confine"
	"github.com/clusterworks/deploy/jobs/confine/warden"
	"github.com/clusterworks/deploy/jobs/dea/internal/core"
	"github.com/clusterworks/deploy/jobs/wire"
)

// diskShare is the share of the time that may be spent on adding up the files of one
// instance: those with many are looked at less often.
const diskShare = 0.1

// sample describes what is known of an instance from the last look.
type sample struct {
	at       time.Time
	cpu      time.Duration
	disk     int64
	nextDisk time.Time
	over     bool // it was said
}

// monitor looks at what instances use, and at the disk, again and again.
func (d *DEA) monitor(ctx context.Context) error {
	tick := time.NewTicker(d.config.Intervals.Monitor.Duration())
	defer tick.Stop()
	samples := map[string]*sample{}
	full := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if used, err := percentUsed(d.config.BaseDir); err != nil {
			d.base.Log().Warn("cannot measure the free space of the disk", "error", err)
		} else if now := used > d.config.DiskThreshold; now != full {
			full = now
			d.base.Log().Warn("the disk's state changed", "full", full, "used_percent", used)
			d.event(core.DiskFull{Full: full})
		}
		attended := d.attendedNow()
		for id := range samples {
			if attended[id] == nil {
				delete(samples, id)
			}
		}
		if len(attended) == 0 {
			continue
		}
		snapshot, err := warden.Look()
		if err != nil {
			d.base.Log().Warn("cannot measure what instances use", "error", err)
			continue
		}
		for id, a := range attended {
			if pid := a.pid(); pid != 0 && ctx.Err() == nil {
				if samples[id] == nil {
					samples[id] = &sample{}
				}
				d.look(a, samples[id], snapshot, pid, time.Now())
			}
		}
	}
}

// percent returns the share of one core that was used in a time, in percent with one
// decimal, as the original's clients print it.
func percent(used, of time.Duration) float64 {
	return max(0, math.Round(1000*float64(used)/float64(of))/10)
}

// look takes one sample of one instance, whose warden has this pid.
func (d *DEA) look(a *attendant, s *sample, all warden.Snapshot, pid int, now time.Time) {
	used, cpu := all.Usage(pid), 0.0
	if !s.at.IsZero() && now.After(s.at) {
		cpu = percent(used.CPU-s.cpu, now.Sub(s.at))
	}
	s.at, s.cpu = now, used.CPU
	if d.machine.Cgroups != nil {
		// As the kernel counts, which holds the app to its quota.
		if memory, ok := confine.Memory(d.machine.Cgroups.Folders(a.instance.ID)); ok {
			used.Memory = memory
		}
	}
	if !now.Before(s.nextDisk) {
		folder := d.instanceFolder(a.instance.Folder)
		s.disk = confine.DiskUsage(folder) + all.Held(pid, folder)
		s.nextDisk = now.Add(time.Duration(float64(time.Since(now)) / diskShare))
	}
	d.event(core.Used{ID: a.instance.ID, Usage: wire.Usage{
		Time: wire.FormatTime(now.UTC()), CPU: cpu, Mem: float64(used.Memory) / 1024, Disk: s.disk,
	}})
	if s.over {
		return
	}
	limits := a.instance.Start.Limits
	why := ""
	switch {
	case s.disk > int64(limits.Disk)<<20:
		why = fmt.Sprintf("The app used %d MB of disk, more than its quota of %d MB, and was ended.", s.disk>>20, limits.Disk)
	// With control groups the kernel bounds these two, and counts better.
	case d.machine.Cgroups == nil && used.Memory > int64(limits.Mem)<<20:
		why = fmt.Sprintf("The app used %d MB of memory, more than its quota of %d MB, and was ended.", used.Memory>>20, limits.Mem)
	case d.machine.Cgroups == nil && used.Processes > d.config.Processes:
		why = fmt.Sprintf("The app had %d processes, more than %d, and was ended.", used.Processes, d.config.Processes)
	}
	if why != "" {
		s.over = true
		d.event(core.Over{ID: a.instance.ID, Why: why})
	}
}

// percentUsed returns how full the file system of a folder is, as df shows it.
func percentUsed(dir string) (float64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	used := s.Blocks - s.Bfree
	if used+s.Bavail == 0 {
		return 0, nil
	}
	return 100 * float64(used) / float64(used+s.Bavail), nil
}
