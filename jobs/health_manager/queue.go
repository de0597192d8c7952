package healthmanager

import (
	"container/heap"
	"slices"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Queue holds the starts that wait, so that the loss of many instances does not
// flood those that are left: Batch starts go out every Every. The most urgent go
// first; of these, the apps that were not changed for the longest time.
type Queue struct {
	batch int           // 0: nothing waits
	every time.Duration // see batch

	waiting []queued
	indices map[wire.ID]map[int]bool // that wait
	count   uint64                   // of all starts that ever came
	left    int                      // that may go before refill
	refill  time.Time
}

type queued struct {
	Start
	number uint64
}

// NewQueue returns an empty queue that lets batch starts go every so often;
// batch 0: as they come.
func NewQueue(batch int, every time.Duration) *Queue {
	return &Queue{batch: batch, every: every, indices: map[wire.ID]map[int]bool{}}
}

// Push adds a start, less the indices that wait already.
func (q *Queue) Push(s Start) {
	waiting := q.indices[s.App]
	if waiting == nil {
		waiting = map[int]bool{}
		q.indices[s.App] = waiting
	}
	s.Indices = slices.DeleteFunc(slices.Clone(s.Indices), func(i int) bool { return waiting[i] })
	if len(s.Indices) == 0 {
		return
	}
	for _, i := range s.Indices {
		waiting[i] = true
	}
	q.count++
	heap.Push((*order)(q), queued{Start: s, number: q.count})
}

// Pop takes the next start, if one waits and may go now.
func (q *Queue) Pop(now time.Time) (Start, bool) {
	if q.batch > 0 && !now.Before(q.refill) {
		q.left, q.refill = q.batch, now.Add(q.every)
	}
	if len(q.waiting) == 0 || q.batch > 0 && q.left == 0 {
		return Start{}, false
	}
	q.left--
	next := heap.Pop((*order)(q)).(queued)
	for _, i := range next.Indices {
		delete(q.indices[next.App], i)
	}
	if len(q.indices[next.App]) == 0 {
		delete(q.indices, next.App)
	}
	return next.Start, true
}

// Len says how many starts wait.
func (q *Queue) Len() int { return len(q.waiting) }

// Next is when the next start may go; only of use when Len is not 0.
func (q *Queue) Next() time.Time { return q.refill }

// Clear forgets all that wait.
func (q *Queue) Clear() {
	q.waiting = nil
	clear(q.indices)
}

// order is the queue as a heap.
type order Queue

func (o *order) Len() int { return len(o.waiting) }

func (o *order) Less(i, j int) bool {
	a, b := o.waiting[i], o.waiting[j]
	switch {
	case a.Urgency != b.Urgency:
		return a.Urgency > b.Urgency
	case !a.Updated.Equal(b.Updated):
		return a.Updated.Before(b.Updated)
	}
	return a.number < b.number
}

func (o *order) Swap(i, j int) { o.waiting[i], o.waiting[j] = o.waiting[j], o.waiting[i] }

func (o *order) Push(x any) { o.waiting = append(o.waiting, x.(queued)) }

func (o *order) Pop() any {
	last := len(o.waiting) - 1
	x := o.waiting[last]
	o.waiting = o.waiting[:last]
	return x
}
