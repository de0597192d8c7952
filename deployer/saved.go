package deployer

import (
	"context"

	"github.com/clusterworks/deploy/deployer/internal/source"
)

// SavedPlan is a plan in a file, with all that it was made from: an apply of it
// does just that, or nothing.
type SavedPlan = source.SavedPlan

// IsPlan reports whether a file is a saved plan rather than a manifest.
func IsPlan(path string) bool { return source.IsPlan(path) }

// OpenPlan reads a saved plan.
func OpenPlan(path string) (*SavedPlan, error) { return source.OpenPlan(path) }

// SavePlan is Plan, with what is needed to apply it later. The manifest's path
// in the configuration must be absolute.
func (d *Deployer) SavePlan(ctx context.Context, q PlanRequest) (*SavedPlan, error) {
	x, c, err := planned(ctx, d, q)
	if err != nil {
		return nil, err
	}
	defer x.fleet.Close()
	w, err := x.world(c)
	if err != nil {
		return nil, err
	}
	return d.source.Save(x.Session, w, c.plan)
}

// world returns the facts that a comparison was made from.
func (x *deployment) world(c comparison) (source.World, error) {
	instances := map[string]source.InstanceWorld{}
	for id, vm := range x.VMs() {
		in := source.InstanceWorld{VM: vm.ID}
		if inv := x.fleet.Inventory(id); inv != nil {
			in.Answers, in.Active, in.Held, in.Drifted = true, inv.Active, inv.Held, len(inv.Drift) > 0
			in.Settings = inv.Agent.Digest + " " + inv.Bus.Digest
		}
		instances[id] = in
	}
	return x.packages.World(c.wanted, instances)
}
