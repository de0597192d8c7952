package lifecycle

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/jobs/wire"
)

// TestQueue: whatever is asked of a queue in whatever order, with deaths of the node in
// between, an instance has one job at a time, no more than the limit are at work, jobs
// begin in the order in which they came, what has ended stays as it is, and no job is
// begun more often than maxAttempts.
func TestQueue(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 3).Draw(t, "limit")
		q := newQueue(nil)
		now := time.Unix(1_000_000, 0).UTC()
		ended := map[string]Job{}
		begun := map[string]int{}
		number := 0
		instances := []string{"a", "b", "c", "d"}
		gone := map[string]bool{}
		working := func() (list []Job) {
			for _, j := range q.jobs {
				if j.Status == wire.JobWorking {
					list = append(list, j)
				}
			}
			return list
		}
		t.Repeat(map[string]func(*rapid.T){
			"submit": func(t *rapid.T) {
				number++
				instance := rapid.SampledFrom(instances).Draw(t, "instance")
				_, busy := q.active(instance)
				j, err := q.submit(Job{ID: fmt.Sprint("j", number), Instance: instance, Kind: Create, Asked: now})
				if (err != nil) != busy {
					t.Fatalf("%s was busy: %v, and a job for it: %v", instance, busy, err)
				}
				if err == nil && j.Status != wire.JobQueued {
					t.Fatalf("%+v", j)
				}
			},
			"next": func(t *rapid.T) {
				before := len(working())
				j, ok := q.next(limit)
				if !ok {
					return
				}
				begun[j.ID]++
				if before >= limit || j.Attempts != begun[j.ID] && begun[j.ID] <= maxAttempts && j.Attempts > begun[j.ID] {
					t.Fatalf("%d at work, and %+v begins", before, j)
				}
				for _, other := range q.jobs {
					if other.Status == wire.JobQueued && other.Number < j.Number {
						t.Fatalf("%+v begins before %+v", j, other)
					}
				}
			},
			"end": func(t *rapid.T) {
				id := fmt.Sprint("j", rapid.IntRange(0, max(1, number)).Draw(t, "job"))
				var failure *wire.ServiceFailure
				if rapid.Bool().Draw(t, "fails") {
					failure = wire.Failure(wire.ServiceInternal, "no")
				}
				was := q.jobs[id].Status
				j, ok := q.end(id, now, &wire.Snapshot{ID: "s"}, failure)
				if ok != (was == wire.JobWorking) || ok && ((failure != nil) != (j.Failure != nil) || (failure == nil) != (j.Made != nil)) {
					t.Fatalf("a job that was %q ends: %v, %+v", was, ok, j)
				}
			},
			"the node dies": func(t *rapid.T) {
				var list []Job
				for _, j := range q.jobs {
					list = append(list, j)
				}
				q = newQueue(list)
				for _, j := range q.recover(now) {
					if j.over() && j.Attempts < maxAttempts {
						t.Fatalf("given up early: %+v", j)
					}
				}
				if list := working(); len(list) > 0 {
					t.Fatalf("at work without anybody: %+v", list)
				}
			},
			"the node ends": func(*rapid.T) {
				for _, j := range working() {
					if _, ok := q.requeue(j.ID); ok {
						begun[j.ID]--
					}
				}
			},
			"instance gone": func(t *rapid.T) {
				gone[rapid.SampledFrom(instances).Draw(t, "instance")] = rapid.Bool().Draw(t, "gone")
				for _, j := range q.surplus(func(i string) bool { return !gone[i] }) {
					if j.Status == wire.JobWorking {
						t.Fatalf("a job is forgotten while it works: %+v", j)
					}
					delete(ended, j.ID)
				}
			},
			"": func(t *rapid.T) {
				active := map[string]int{}
				over := map[string]int{}
				for id, j := range q.jobs {
					switch {
					case j.over():
						over[j.Instance]++
						if before, known := ended[id]; known && fmt.Sprint(before) != fmt.Sprint(j) {
							t.Fatalf("%+v has ended, and is %+v now", before, j)
						}
						ended[id] = j
					default:
						active[j.Instance]++
					}
					if j.Attempts > maxAttempts || begun[id] > maxAttempts {
						t.Fatalf("begun too often: %+v", j)
					}
				}
				for instance, n := range active {
					if n > 1 {
						t.Fatalf("%d jobs at a time for %s", n, instance)
					}
				}
				if n := len(working()); n > limit {
					t.Fatalf("%d at work", n)
				}
			},
		})
		// Whatever has happened, with nobody dying any more all jobs end.
		q.recover(now)
		for {
			j, ok := q.next(1)
			if !ok {
				break
			}
			q.end(j.ID, now, nil, nil)
		}
		for _, j := range q.jobs {
			if !j.over() {
				t.Fatalf("never ends: %+v", j)
			}
		}
	})
}
