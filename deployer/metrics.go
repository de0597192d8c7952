package deployer

import (
	"context"
	"slices"

	"github.com/clusterworks/deploy/agent/api"
)

// Metrics asks all agents for their figures, side by side, and merges them:
// every sample gets the label "instance". Of silent agents deploy_agent_up is 0
// and nothing else is known.
func (d *Deployer) Metrics(ctx context.Context) (api.Metrics, error) {
	r, err := d.load()
	if err != nil {
		return api.Metrics{}, err
	}
	defer r.close()
	inventories := r.fleet.survey(ctx, patient)
	answers := askAgents(ctx, r, inventories, func(ctx context.Context, id string) (api.Metrics, error) {
		return r.fleet.client(id).Metrics(ctx)
	})
	return mergeMetrics(answers), nil
}

func mergeMetrics(answers []answer[api.Metrics]) api.Metrics {
	up := api.MetricFamily{Name: "deploy_agent_up", Help: "1 if the agent answers.", Type: api.MetricGauge}
	merged := api.Metrics{Families: []api.MetricFamily{up}}
	add := func(f api.MetricFamily, id string) {
		i := slices.IndexFunc(merged.Families, func(m api.MetricFamily) bool { return m.Name == f.Name })
		if i < 0 {
			i = len(merged.Families)
			merged.Families = append(merged.Families, api.MetricFamily{Name: f.Name, Help: f.Help, Type: f.Type})
		}
		for _, s := range f.Samples {
			s.Labels = append([]api.MetricLabel{{Name: "instance", Value: id}}, s.Labels...)
			merged.Families[i].Samples = append(merged.Families[i].Samples, s)
		}
	}
	for _, a := range answers {
		up.Samples = []api.MetricSample{{Value: 1}}
		if a.err != nil {
			up.Samples[0].Value = 0
		}
		add(up, a.id)
		for _, f := range a.value.Families {
			add(f, a.id)
		}
	}
	return merged
}
