package deployer

import (
	"context"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/client"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
)

// StatusWithDrift is Status, and has every agent compare each byte that it has
// installed with what is there.
func (d *Deployer) StatusWithDrift(ctx context.Context) (*Status, error) {
	x, kept, err := loadRunning(d)
	if err != nil {
		return nil, err
	}
	defer x.fleet.Close()
	s := x.status(x.fleet.Survey(ctx, fleet.Patient))
	s.by(kept)
	answers := fleet.Ask(ctx, x.fleet, func(ctx context.Context, agent *client.Client) (api.DriftReport, error) {
		return agent.Drift(ctx)
	})
	for _, a := range answers {
		for i := range s.Instances {
			in := &s.Instances[i]
			if in.ID != a.Instance {
				continue
			}
			in.Drift = a.Value.Drift
			if a.Err != nil && in.Agent == AgentAlive { // else silence is reported already
				in.Reasons = append(in.Reasons, "it is not known whether anything was changed by hand: "+a.Err.Error())
			}
		}
	}
	return s, nil
}
