package healthmanager

import (
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Judge turns what State knows into requests at the right time: one analysis
// every so often, starts in the order of their urgency, and restarts that were
// put off when they are due. It has no clock of its own.
type Judge struct {
	State *State
	Queue *Queue

	every    time.Duration // between two analyses
	analysis time.Time     // the next one
}

// NewJudge returns a judge with an empty queue. noise gives numbers from -1 to 1.
func NewJudge(cfg Config, noise func() float64) *Judge {
	i := cfg.Intervals
	return &Judge{
		State: NewState(cfg.settings(), noise),
		Queue: NewQueue(i.QueueBatchSize, i.RequestQueue.Duration()),
		every: i.DropletsAnalysis.Duration(),
	}
}

// use takes other times, and analyses at the next occasion.
func (j *Judge) use(cfg Config) {
	i := cfg.Intervals
	j.State.settings = cfg.settings()
	j.Queue.batch, j.Queue.every = i.QueueBatchSize, i.RequestQueue.Duration()
	j.every, j.analysis = i.DropletsAnalysis.Duration(), time.Time{}
}

// Act returns the requests that are to be sent now, and takes them for sent; and
// when to look again if nothing happens before.
func (j *Judge) Act(now time.Time) (requests []wire.HealthManagerRequest, next time.Time) {
	request := func(r wire.HealthManagerRequest) {
		j.State.Requested(r, now)
		requests = append(requests, r)
	}
	if !now.Before(j.analysis) {
		verdict := j.State.Analyse(now)
		for _, start := range verdict.Starts {
			j.Queue.Push(start)
		}
		for _, stop := range verdict.Stops {
			request(wire.HealthManagerRequest{Droplet: stop.App, Op: wire.OpStop, LastUpdated: unix(stop.Updated), Instances: stop.Instances})
		}
		j.State.Forget(now)
		j.analysis = now.Add(j.every)
	}
	due, next := j.State.Due(now)
	for _, start := range due {
		request(start.request())
	}
	for {
		start, ok := j.Queue.Pop(now)
		if !ok {
			break
		}
		if start = j.State.StillMissing(start, now); len(start.Indices) > 0 {
			request(start.request())
		}
	}
	if next.IsZero() || j.analysis.Before(next) {
		next = j.analysis
	}
	if j.Queue.Len() > 0 && j.Queue.Next().Before(next) {
		next = j.Queue.Next()
	}
	return requests, next
}

// Rest forgets what waits, as long as another one acts.
func (j *Judge) Rest(now time.Time) (next time.Time) {
	j.Queue.Clear()
	if !now.Before(j.analysis) {
		j.State.Forget(now)
		j.analysis = now.Add(j.every)
	}
	return j.analysis
}

func (s Start) request() wire.HealthManagerRequest {
	return wire.HealthManagerRequest{Droplet: s.App, Op: wire.OpStart, LastUpdated: unix(s.Updated), Version: s.Version, Indices: s.Indices, Flapping: s.Flapping}
}

// unix is a time in seconds, 0 for none.
func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
