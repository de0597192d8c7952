package nodetest

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

const (
	atOnce = 20 // provisions side by side
	rounds = 3
)

// Bench measures how long a node takes to make instances, 20 side by side, and prints
// the median and the 99th percentile, also as ratios to create: what the server itself
// takes to do as much, measured in the same run, 20 side by side as well.
func Bench(b *testing.B, f *Fixture, create func(n int) error) {
	for b.Loop() {
		var made []wire.Credentials
		var mu sync.Mutex
		own := side(b, func(n int) error { return create(n) })
		node := side(b, func(int) error {
			c := f.Provision()
			mu.Lock()
			defer mu.Unlock()
			made = append(made, c)
			return nil
		})
		b.ReportMetric(node.p50.Seconds()*1000, "p50-ms")
		b.ReportMetric(node.p99.Seconds()*1000, "p99-ms")
		b.ReportMetric(float64(node.p50)/float64(own.p50), "p50-ratio")
		b.ReportMetric(float64(node.p99)/float64(own.p99), "p99-ratio")
		for _, c := range made {
			f.Unprovision(c)
		}
	}
}

type quantiles struct{ p50, p99 time.Duration }

// side does something atOnce times side by side, and that rounds times.
func side(b *testing.B, do func(n int) error) quantiles {
	b.Helper()
	var mu sync.Mutex
	var took []time.Duration
	for round := range rounds {
		var group sync.WaitGroup
		for n := range atOnce {
			group.Go(func() {
				began := time.Now()
				err := do(round*atOnce + n)
				mu.Lock()
				defer mu.Unlock()
				took = append(took, time.Since(began))
				if err != nil {
					b.Error(err)
				}
			})
		}
		group.Wait()
	}
	slices.Sort(took)
	return quantiles{took[len(took)/2], took[len(took)*99/100]}
}
