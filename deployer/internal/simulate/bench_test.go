package simulate

import (
	"fmt"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
	"github.com/clusterworks/deploy/manifests"
)

// BenchmarkLinear rolls 2,000 and 10,000 instances and prints how many times the
// time of the first the second takes: 5 were linear.
func BenchmarkLinear(b *testing.B) {
	var few, many time.Duration
	for b.Loop() {
		few += roll(b, 2000)
		many += roll(b, 10000)
	}
	b.ReportMetric(many.Seconds()/float64(b.N), "s/10000")
	b.ReportMetric(float64(many)/float64(few), "of-2000")
}

func roll(b *testing.B, instances int) time.Duration {
	b.Helper()
	p := rollout.Plan{ID: "bench"}
	for g := range 10 {
		n := instances / 10
		update := manifests.DefaultUpdate()
		group := rollout.Group{Name: fmt.Sprint("g", g), Policy: rollout.PolicyFor(update, n)}
		for i := range n {
			group.Instances = append(group.Instances, rollout.Instance{
				ID: api.InstanceID(group.Name, i), Action: rollout.ActionUpdate, Generation: "next", Previous: "now", Healthy: true,
			})
		}
		p.Groups = append(p.Groups, group)
	}
	begin := time.Now()
	r, err := Run(p, rollout.Memory{}, Options{})
	if err != nil || r.State.Outcome != rollout.OutcomeDone || len(r.Broken) > 0 {
		b.Fatalf("the rollout ended with %q, %v; broken: %v", r.State.Outcome, err, r.Broken)
	}
	return time.Since(begin)
}
