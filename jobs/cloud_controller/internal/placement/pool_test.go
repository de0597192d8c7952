package placement

import (
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

func TestTake(t *testing.T) {
	t.Parallel()
	now := time.Unix(1343815200, 0)
	yes := true
	var p pool
	p.heard(wire.DEAAdvertise{ID: "small", AvailableMemory: 100, Runtimes: []string{"node"}}, now)
	p.heard(wire.DEAAdvertise{ID: "large", AvailableMemory: 300, Runtimes: []string{"node", "java"}}, now)
	p.heard(wire.DEAAdvertise{ID: "prod", AvailableMemory: 900, Runtimes: []string{"node"}, Prod: &yes}, now)
	p.heard(wire.DEAAdvertise{ID: "old", AvailableMemory: 900, Runtimes: []string{"node"}}, now.Add(-11*time.Second))
	for _, tc := range []struct {
		memory  int
		runtime string
		prod    bool
		want    string
	}{
		{100, "java", false, "large"}, // 200 left
		{150, "node", false, "large"}, // 50 left
		{60, "node", false, "small"},  // 40 left
		{60, "node", false, ""},
		{60, "ruby", true, ""},
		{60, "node", true, "prod"},
	} {
		if got := p.take(tc.memory, tc.runtime, tc.prod, now); got != tc.want {
			t.Errorf("%d MB of %s: %q, want %q", tc.memory, tc.runtime, got, tc.want)
		}
	}
	p.left("prod")
	if got := p.take(1, "node", true, now); got == "prod" {
		t.Error("a DEA that left is chosen")
	}
}
