package supervise

import (
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// The restart policy of a process that does not say.
const (
	defaultMinPause = 100 * time.Millisecond
	defaultMaxPause = 30 * time.Second
	defaultStable   = 10 * time.Second
)

// restarts decides when a process that ended by itself is started again: at
// once the first time, then after pauses that double from min to max, until it
// has run for stable.
type restarts struct {
	min, max, stable time.Duration
	row              int // ends in a row, none after a stable run
}

func newRestarts(r *api.Restart, row int) restarts {
	policy := restarts{min: defaultMinPause, max: defaultMaxPause, stable: defaultStable, row: row}
	if r == nil {
		return policy
	}
	for _, set := range []struct {
		to *time.Duration
		ms int64
	}{{&policy.min, r.MinMS}, {&policy.max, r.MaxMS}, {&policy.stable, r.StableMS}} {
		if set.ms > 0 {
			*set.to = time.Duration(set.ms) * time.Millisecond
		}
	}
	policy.max = max(policy.max, policy.min)
	return policy
}

// ended is told of an end and for how long the process had run (0 if it could
// not be started), and answers with the pause.
func (r *restarts) ended(ran time.Duration) time.Duration {
	if ran >= r.stable {
		r.row = 0
	}
	r.row++
	if r.row == 1 {
		return 0
	}
	pause := r.min
	for n := 2; n < r.row && pause < r.max; n++ {
		pause *= 2
	}
	return min(pause, r.max)
}
