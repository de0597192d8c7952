package deployer

import (
	"context"

	"github.com/clusterworks/deploy/agent/api"
)

// StatusWithDrift is Status, and has every agent compare each byte that it has
// installed with what is there.
func (d *Deployer) StatusWithDrift(ctx context.Context) (*Status, error) {
	r, err := d.load()
	if err != nil {
		return nil, err
	}
	defer r.close()
	inventories := r.fleet.survey(ctx, patient)
	s := r.status(inventories)
	for _, a := range askAgents(ctx, r, inventories, func(ctx context.Context, id string) (api.DriftReport, error) {
		return r.fleet.client(id).Drift(ctx)
	}) {
		for i := range s.Instances {
			in := &s.Instances[i]
			if in.ID != a.id {
				continue
			}
			in.Drift = a.value.Drift
			if a.err != nil && in.Agent == AgentAlive { // silence is told already
				in.Reasons = append(in.Reasons, "whether anything was changed by hand is not known: "+a.err.Error())
			}
		}
	}
	return s, nil
}

// answer is what one agent said.
type answer[T any] struct {
	id    string
	value T
	err   error
}

// askAgents asks all instances with a VM side by side, in their order. Those
// that did not answer the survey are not asked again.
func askAgents[T any](ctx context.Context, r *run, inventories map[string]*api.Inventory, ask func(context.Context, string) (T, error)) []answer[T] {
	ids := r.vmIDs()
	out := make([]answer[T], len(ids))
	// Each instance's failure is its own answer.
	_ = r.parallel(ctx, len(ids), func(ctx context.Context, i int) error {
		out[i].id = ids[i]
		if inventories[ids[i]] == nil {
			out[i].err = r.fleet.unheard(ids[i])
			return nil
		}
		out[i].value, out[i].err = ask(ctx, ids[i])
		return nil
	})
	return out
}
