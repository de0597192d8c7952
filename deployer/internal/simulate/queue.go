package simulate

import (
	"container/heap"
	"time"
)

// item is something that happens at a virtual time. With nothing set, the
// deployer starts.
type item struct {
	at       time.Duration
	sequence int
	ends     *operation
	health   *Health
	pause    int // one more, or one less
	// What the deployer hears; one that was killed does not.
	deployer  int
	answers   *operation
	heartbeat *instance
	pauses    bool // whether to pause
}

func (w *world) push(in time.Duration, it item) {
	w.pushed++
	it.at, it.sequence = w.now+in, w.pushed
	heap.Push(&w.queue, it)
}

// queue is a heap by time, then by sequence.
type queue []item

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].sequence < q[j].sequence
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(item)) }
func (q *queue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}
