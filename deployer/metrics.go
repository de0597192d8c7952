package deployer

import (
	"context"
	"slices"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/client"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
)

// Metrics asks all agents for their figures, side by side, and merges them:
// every sample gets the label api.InstanceLabel. Of silent agents deploy_agent_up is 0
// and nothing else is known.
func (d *Deployer) Metrics(ctx context.Context) (api.Metrics, error) {
	x, err := loadTold(d)
	if err != nil {
		return api.Metrics{}, err
	}
	defer x.fleet.Close()
	x.fleet.Survey(ctx, fleet.Patient)
	answers := fleet.Ask(ctx, x.fleet, func(ctx context.Context, agent *client.Client) (api.Metrics, error) {
		return agent.Metrics(ctx)
	})
	merged := mergeMetrics(answers)
	if f := x.domainMetrics(); len(f.Samples) > 0 {
		merged.Families = append(merged.Families, f)
	}
	return merged, nil
}

func mergeMetrics(answers []fleet.Answer[api.Metrics]) api.Metrics {
	up := api.MetricFamily{Name: "deploy_agent_up", Help: "1 if the agent answers.", Type: api.MetricGauge}
	merged := api.Metrics{Families: []api.MetricFamily{up}}
	add := func(f api.MetricFamily, id string) {
		i := slices.IndexFunc(merged.Families, func(m api.MetricFamily) bool { return m.Name == f.Name })
		if i < 0 {
			i = len(merged.Families)
			merged.Families = append(merged.Families, api.MetricFamily{Name: f.Name, Help: f.Help, Type: f.Type})
		}
		for _, s := range f.Samples {
			if !slices.ContainsFunc(s.Labels, func(l api.MetricLabel) bool { return l.Name == api.InstanceLabel }) {
				s.Labels = append([]api.MetricLabel{{Name: api.InstanceLabel, Value: id}}, s.Labels...)
			}
			merged.Families[i].Samples = append(merged.Families[i].Samples, s)
		}
	}
	for _, a := range answers {
		up.Samples = []api.MetricSample{{Value: 1}}
		if a.Err != nil {
			up.Samples[0].Value = 0
		}
		add(up, a.Instance)
		for _, f := range a.Value.Families {
			add(f, a.Instance)
		}
	}
	return merged
}
