package lifecycle

import (
	"cmp"
	"slices"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Kinds of jobs.
const (
	Create   = "snapshot"
	Rollback = "rollback"
	Delete   = "delete"
	Export   = "export"
	Import   = "import"
)

// kinds are all of them.
var kinds = []string{Create, Rollback, Delete, Export, Import}

// maxAttempts is the number of times that a job is begun: each time but the first after the node has
// died while it was at work.
const maxAttempts = 3

// keptJobs is the number of jobs of an instance that are remembered after they have ended.
const keptJobs = 10

// Job is the record of a job.
type Job struct {
	ID       string               `json:"id"`
	Number   int64                `json:"number"` // jobs begin in this order
	Instance string               `json:"instance"`
	Kind     string               `json:"kind"`
	Snapshot string               `json:"snapshot"` // its id, or that of an upload
	Name     string               `json:"name"`     // of a snapshot that is made
	By       string               `json:"by"`
	Status   string               `json:"status"`
	Attempts int                  `json:"attempts"`
	Loaded   bool                 `json:"loaded,omitempty"` // of a rollback or an import: all is in the instance, whose users are still kept out
	Asked    time.Time            `json:"asked"`
	Ended    time.Time            `json:"ended,omitzero"`
	Failure  *wire.ServiceMessage `json:"failure,omitempty"`
	Made     *wire.Snapshot       `json:"made,omitempty"`
}

// over reports whether a job has ended.
func (j Job) over() bool { return j.Status == wire.JobCompleted || j.Status == wire.JobFailed }

var (
	errJobThere = wire.Failure(wire.ServiceUnavailable, "another job of this service is in progress; wait until it has ended")
	errDied     = wire.Failure(wire.ServiceInternal, "the node died three times while it was at this job; it is not tried again")
)

// queue holds all jobs of a node. It is pure: who changes it writes what has changed.
type queue struct {
	jobs map[string]Job
	last int64 // number
}

func newQueue(list []Job) *queue {
	q := &queue{jobs: map[string]Job{}}
	for _, j := range list {
		q.jobs[j.ID] = j
		q.last = max(q.last, j.Number)
	}
	return q
}

// submit takes a job into the queue, one at a time for each instance.
func (q *queue) submit(j Job) (Job, error) {
	if _, is := q.active(j.Instance); is {
		return Job{}, errJobThere
	}
	q.last++
	j.Number, j.Status, j.Attempts = q.last, wire.JobQueued, 0
	q.jobs[j.ID] = j
	return j, nil
}

// active returns the job of an instance that has not ended.
func (q *queue) active(instance string) (Job, bool) {
	for _, j := range q.jobs {
		if j.Instance == instance && !j.over() {
			return j, true
		}
	}
	return Job{}, false
}

// next begins the oldest job that waits, if fewer than limit are at work.
func (q *queue) next(limit int) (Job, bool) {
	var oldest *Job
	working := 0
	for _, j := range q.jobs {
		switch {
		case j.Status == wire.JobWorking:
			working++
		case j.Status == wire.JobQueued && (oldest == nil || j.Number < oldest.Number):
			oldest = &j
		}
	}
	if oldest == nil || working >= limit {
		return Job{}, false
	}
	oldest.Status = wire.JobWorking
	oldest.Attempts++
	q.jobs[oldest.ID] = *oldest
	return *oldest, true
}

// end ends a job that is at work. A job that has ended, or is unknown, stays as it is.
func (q *queue) end(id string, now time.Time, made *wire.Snapshot, failure *wire.ServiceFailure) (Job, bool) {
	j, there := q.jobs[id]
	if !there || j.Status != wire.JobWorking {
		return Job{}, false
	}
	j.Status, j.Ended, j.Made = wire.JobCompleted, now, made
	if failure != nil {
		j.Status, j.Failure, j.Made = wire.JobFailed, &failure.Msg, nil
	}
	q.jobs[id] = j
	return j, true
}

// recover decides what becomes of jobs that were at work when the node died: they begin
// again, or have failed if that was tried often enough. It returns those that changed.
func (q *queue) recover(now time.Time) []Job {
	var changed []Job
	for id, j := range q.jobs {
		if j.Status != wire.JobWorking {
			continue
		}
		j.Status = wire.JobQueued
		if j.Attempts >= maxAttempts {
			j.Status, j.Ended, j.Failure = wire.JobFailed, now, &errDied.Msg
		}
		q.jobs[id] = j
		changed = append(changed, j)
	}
	slices.SortFunc(changed, byNumber)
	return changed
}

// requeue puts a job back that was at work and was cut off by the node's end in order.
func (q *queue) requeue(id string) (Job, bool) {
	j, there := q.jobs[id]
	if !there || j.Status != wire.JobWorking {
		return Job{}, false
	}
	j.Status = wire.JobQueued
	j.Attempts--
	q.jobs[id] = j
	return j, true
}

// surplus takes the oldest ended jobs beyond those that are remembered out of the queue,
// and all jobs of instances that are not there. It returns them.
func (q *queue) surplus(there func(instance string) bool) []Job {
	of := map[string][]Job{}
	for _, j := range q.jobs {
		if j.over() || j.Status == wire.JobQueued && !there(j.Instance) {
			of[j.Instance] = append(of[j.Instance], j)
		}
	}
	var gone []Job
	for instance, list := range of {
		slices.SortFunc(list, byNumber)
		drop := len(list) - keptJobs
		if !there(instance) {
			drop = len(list)
		}
		gone = append(gone, list[:max(0, drop)]...)
	}
	for _, j := range gone {
		delete(q.jobs, j.ID)
	}
	slices.SortFunc(gone, byNumber)
	return gone
}

func byNumber(a, b Job) int { return cmp.Compare(a.Number, b.Number) }
