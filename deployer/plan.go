package deployer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/domains"
	"github.com/clusterworks/deploy/deployer/internal/execute"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/infra"
	"github.com/clusterworks/deploy/deployer/internal/packages"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/render"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// PlanRequest says of what to plan.
type PlanRequest struct {
	// Targets are groups and instances; empty: all.
	Targets []string
}

// Plan computes every consequence of an apply and changes nothing, neither
// there nor here.
func (d *Deployer) Plan(ctx context.Context, q PlanRequest) (*plan.Plan, error) {
	x, c, err := planned(ctx, d, q)
	if err != nil {
		return nil, err
	}
	x.fleet.Close()
	return c.plan, nil
}

func planned(ctx context.Context, d *Deployer, q PlanRequest) (*deployment, comparison, error) {
	x, err := d.load()
	if err != nil {
		return nil, comparison{}, err
	}
	c, err := func() (comparison, error) {
		if err := x.Target(q.Targets); err != nil {
			return comparison{}, err
		}
		if err := infra.CheckEngine(x.Session); err != nil {
			return comparison{}, err
		}
		if err := errors.Join(infra.CheckDisks(x.Session), x.infra.CheckStemcells()); err != nil {
			return comparison{}, err
		}
		x.credentials.Warn()
		infra.WarnZones(x.Session)
		infra.WarnRenamed(x.Session)
		x.tellRepairs()
		vms, err := x.infra.Plan(ctx)
		if err != nil {
			return comparison{}, err
		}
		return x.compare(ctx, vms, fleet.Patient)
	}()
	if err != nil {
		x.fleet.Close()
		return nil, comparison{}, err
	}
	return x, c, nil
}

// comparison is the result of comparing what is wanted with what exists.
type comparison struct {
	plan   *plan.Plan
	vms    infra.Plan
	wanted []plan.Wanted
}

// compare asks the agents, renders what is wanted of them, and compares.
func (x *deployment) compare(ctx context.Context, vms infra.Plan, effort fleet.Effort) (comparison, error) {
	if err := domains.Check(x.Manifest, x.Secrets, x.Now); err != nil {
		return comparison{}, err
	}
	x.Event(Event{Phase: PhaseSurvey, Step: "survey"})
	inventories := x.fleet.Survey(ctx, effort)
	c := comparison{vms: x.infra.Abandon(vms, inventories)}
	if err := x.infra.CheckKnown(vms, inventories); err != nil {
		return c, err
	}
	for _, id := range x.VMIDs() {
		if inv := inventories[id]; inv != nil {
			if err := x.fleet.Refuse(id, inv); err != nil {
				return c, err
			}
		}
	}
	err := x.credentials.Issue(vms.Places)
	if err != nil {
		return c, err
	}
	if c.wanted, err = x.desired.Render(vms.Places); err != nil {
		return c, err
	}
	existing, err := x.existing(ctx, c, inventories)
	if err != nil {
		return c, err
	}
	c.plan = plan.Make(x.Manifest.Deployment.Name, c.wanted, existing, vms.Changes)
	c.plan.Exempt(x.Exempt)
	if c.plan.Disks, err = x.infra.DiskChanges(c.vms.LostDisks, func(id string) bool { return !x.Has(id) }); err != nil {
		return c, err
	}
	return c, x.census(ctx, c.plan, inventories)
}

// existing returns the present state of every instance with a VM.
func (x *deployment) existing(ctx context.Context, c comparison, inventories map[string]*api.Inventory) (map[string]plan.Existing, error) {
	want := map[string]plan.Wanted{}
	for _, w := range c.wanted {
		want[w.Spec.Instance] = w
	}
	memory, err := execute.Memory(x.Session)
	if err != nil {
		return nil, err
	}
	out := map[string]plan.Existing{}
	specs, err := x.activeSpecs(ctx, want, inventories)
	if err != nil {
		return nil, err
	}
	due := x.agentDue(c.vms)
	for _, id := range x.VMIDs() {
		inv := inventories[id]
		e := plan.Existing{Known: true, VM: true, Inventory: inv}
		if inv == nil {
			e.Silent = x.fleet.Reason(id)
			if why := x.Distrusted.Of(id); why != nil {
				e.Distrusted = why.Error()
			}
			// A silent agent: the engine knows whether its VM is gone or just not running.
			e.VM = !slices.Contains(c.vms.Actions[id], terraform.Create)
			e.Stopped = slices.Contains(c.vms.Actions[id], terraform.Update)
			e.Remade = c.vms.Remade[id]
		}
		e.Replace, e.Moved = x.infra.Causes(c.vms, id)
		e.Abandoned = inv == nil && x.Recreates(id)
		if inv != nil {
			e.Agent = due.of(id, inv)
		}
		if spec := specs[id]; spec != nil {
			e.Active = spec
			e.Shown = map[string]string{}
			for _, j := range spec.Jobs {
				for _, f := range j.Files {
					e.Shown[j.Name+"/"+f.Path] = render.Redact(f.Content, f.Sensitive)
				}
			}
		} else if w, ok := want[id]; ok && inv != nil && inv.Active == w.Spec.Generation && w.Known {
			// The same generation has the same content: no need to fetch it.
			e.Active, e.Shown = &w.Spec, w.Shown
		}
		group, _, _ := api.SplitInstance(id)
		if g, ok := memory.Group(group); ok {
			if g.PostDeploy && inv != nil {
				e.Agent = append(e.Agent, "post_deploy has not run since the last change")
			}
			for _, f := range g.Bad {
				if f.Generation != "" && (f.Instance == id || f.Generation == want[id].Spec.Generation) {
					e.FailedGeneration, e.FailedReason = f.Generation, f.Error.Error()
				}
			}
		}
		out[id] = e
	}
	return out, nil
}

// activeSpecs fetches the specs of the instances whose generation differs from
// the wanted one, side by side.
func (x *deployment) activeSpecs(ctx context.Context, want map[string]plan.Wanted, inventories map[string]*api.Inventory) (map[string]*api.Spec, error) {
	var ids []string
	for id, inv := range inventories {
		if w, ok := want[id]; ok && inv != nil && !fleet.Older(inv) && inv.Active != "" && (!w.Known || inv.Active != w.Spec.Generation) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	specs, failed := make([]*api.Spec, len(ids)), make([]error, len(ids))
	err := x.Each(ctx, len(ids), func(ctx context.Context, i int) error {
		id := state.Own(ids[i])
		asking, cancel := context.WithTimeout(ctx, max(15*time.Second, fleet.AskTime(x.VM(id))))
		defer cancel()
		s, err := x.fleet.Client(id).Spec(asking, api.SpecRequest{})
		if err != nil {
			var e *api.Error
			if errors.As(err, &e) && e.Code == api.CodeNotFound {
				return nil // damaged on disk: the plan says so, apply repairs it
			}
			failed[i] = fmt.Errorf("cannot read what is installed on %s: %w", ids[i], err)
			return ctx.Err() // not that of asking: one that is slow does not keep the others
		}
		specs[i] = &s
		return nil
	})
	out := map[string]*api.Spec{}
	for i, id := range ids {
		out[id] = specs[i]
		if failed[i] != nil { // one that does not say what it has does not keep the others
			x.fleet.Distrust(id, failed[i])
			inventories[id] = nil
		}
	}
	return out, err
}

// agentDue finds what is due to agents themselves, apart from their instances.
type agentDue struct {
	*deployment
	agent    packages.Blob
	agentErr error
	urls     []string
}

func (x *deployment) agentDue(vms infra.Plan) agentDue {
	due := agentDue{deployment: x, urls: x.credentials.BusURLs(vms.Places)}
	due.agent, due.agentErr = x.packages.Agent()
	return due
}

func (d agentDue) of(id string, inv *api.Inventory) []string {
	var out []string
	if d.agentErr == nil && inv.Agent.Digest != d.agent.Digest {
		out = append(out, "agent program")
	}
	for _, what := range inv.Agent.Damaged {
		out = append(out, "the agent's own files: "+what)
	}
	if inv.Agent.Unkept {
		out = append(out, "nothing would start the agent again: its init or keeper has ended")
	}
	if bus := d.credentials.BusFor(d.urls, id, inv); bus != nil && inv.Bus.Digest != bus.Digest {
		out = append(out, "bus settings of the agent")
	}
	if !d.fleet.ReportsWhereWanted(inv) {
		out = append(out, "where the agent's metrics and logs go")
	}
	if !fleet.KnowsNames(d.Session, id, inv) {
		out = append(out, "names of hosts on its VM")
	}
	return out
}
