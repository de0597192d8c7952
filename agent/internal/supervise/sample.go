package supervise

import (
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"

	"github.com/clusterworks/deploy/agent/api"
)

// sampleEvery is the shortest span over which CPU time is measured.
const sampleEvery = time.Second

// sample measures a process and its children: a master's workers count.
type sample struct {
	pid     int
	at      time.Time
	cpu     float64 // seconds up to at
	percent float64
}

// take fills in memory and CPU of a running process. CPU is that of the time
// since the last sample, at first since the start. A process that ends
// meanwhile leaves zeroes.
func (s *sample) take(status *api.ProcessStatus, now time.Time) {
	cpu, rss := measure(status.PID)
	status.RSSBytes, status.CPUSeconds = rss, cpu
	if s.pid != status.PID {
		*s = sample{pid: status.PID}
		if status.StartedAt != nil {
			s.at = *status.StartedAt
		}
	}
	if s.at.After(now) { // the clock was set back
		s.at, s.cpu = now, cpu
	}
	if span := now.Sub(s.at); span >= sampleEvery {
		s.percent = max(0, 100*(cpu-s.cpu)/span.Seconds())
		s.at, s.cpu = now, cpu
	}
	status.CPUPercent = s.percent
}

func measure(pid int) (cpu float64, rss int64) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0, 0
	}
	stat, err := p.Stat()
	if err != nil {
		return 0, 0
	}
	cpu, rss = stat.CPUTime(), int64(stat.ResidentMemory())
	// The children of its first thread; not every kernel tells (proc(5)).
	n := strconv.Itoa(pid)
	children, err := os.ReadFile("/proc/" + n + "/task/" + n + "/children")
	if err != nil {
		return cpu, rss
	}
	for child := range strings.FieldsSeq(string(children)) {
		if pid, err := strconv.Atoi(child); err == nil {
			c, r := measure(pid)
			cpu, rss = cpu+c, rss+r
		}
	}
	return cpu, rss
}
