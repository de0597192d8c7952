package lifecycle

import (
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// retryScheduled is the time after which a scheduled snapshot that failed is tried again,
// if the schedule's own time is not shorter.
const retryScheduled = time.Hour

// history describes what the schedule knows of an instance.
type history struct {
	made  time.Time // when its last scheduled snapshot was made; zero: there is none
	tried time.Time // when the last one was asked for
}

// due reports whether a scheduled snapshot is due. A clock that was set back delays none:
// what was made in the future counts as never made.
func due(now time.Time, every time.Duration, h history) bool {
	since := func(t time.Time, wait time.Duration) bool { return t.After(now) || now.Sub(t) >= wait }
	return every > 0 && since(h.made, every) && since(h.tried, min(every, retryScheduled))
}

// expired returns the scheduled snapshots of a list, the oldest first, that are beyond
// the number that is kept. Those that users have made are not among them.
func expired(list []label, keep int) []label {
	var scheduled []label
	for _, l := range list {
		if l.By == wire.SnapshotBySchedule {
			scheduled = append(scheduled, l)
		}
	}
	return scheduled[:max(0, len(scheduled)-keep)]
}
