package deployer

import (
	"errors"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
)

// Families are told once, whoever has samples of them, and the silent are named.
func TestMergeMetrics(t *testing.T) {
	t.Parallel()
	load := func(value float64) api.Metrics {
		return api.Metrics{Families: []api.MetricFamily{{Name: "load", Help: "l", Type: api.MetricGauge, Samples: []api.MetricSample{
			{Labels: []api.MetricLabel{{Name: "cpu", Value: "0"}}, Value: value},
		}}}}
	}
	var out strings.Builder
	err := mergeMetrics([]fleet.Answer[api.Metrics]{
		{Instance: "a/0", Value: load(1)}, {Instance: "a/1", Err: errors.New("silent")}, {Instance: "b/0", Value: load(2)},
	}).WriteText(&out)
	const want = `# HELP deploy_agent_up 1 if the agent answers.
# TYPE deploy_agent_up gauge
deploy_agent_up{deploy_instance="a/0"} 1
deploy_agent_up{deploy_instance="a/1"} 0
deploy_agent_up{deploy_instance="b/0"} 1
# HELP load l
# TYPE load gauge
load{deploy_instance="a/0",cpu="0"} 1
load{deploy_instance="b/0",cpu="0"} 2
`
	if err != nil || out.String() != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, &out, want)
	}
}
