package execute

import (
	"fmt"
	"slices"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
)

// Circumstances influence a rollout beside the plan.
type Circumstances struct {
	// Held are instances that an operator has stopped, and whose new agent does not
	// know it.
	Held map[string]bool
	// Beside are the instances whose new VM can be made beside the old one.
	Beside map[string]bool
	// HoldMoves: no instance may move elsewhere now.
	HoldMoves bool
}

// Plan returns a plan's changes as a rollout takes them, nil if there are none.
// more reports whether instances have yet to move elsewhere, which another rollout
// does.
func (r *Rollouts) Plan(p *plan.Plan, wanted []plan.Wanted, c Circumstances) (rp *rollout.Plan, more bool, err error) {
	memory, err := Memory(r.Session)
	if err != nil {
		return nil, false, err
	}
	specs, err := r.specs(wanted)
	if err != nil {
		return nil, false, err
	}
	// Agents know operations by this id, and do none of them twice.
	r.count++
	rp = &rollout.Plan{ID: fmt.Sprintf("%.8s-%d-%d", r.Session.State.DeploymentID, r.Session.State.Epoch, r.count), Parallel: r.Session.Parallel}
	changes := map[string][]plan.InstanceChange{}
	for _, x := range p.Instances {
		if x.Action != plan.Delete {
			changes[x.Group] = append(changes[x.Group], x)
		}
	}
	work := false
	for _, wave := range r.Session.Manifest.Order {
		for _, g := range wave {
			known, remembered := memory.Group(g.Name)
			rg := rollout.Group{
				Name: g.Name, Requires: g.Requires, FirstDeploy: !known.Served,
				Policy: rollout.PolicyFor(g.Update, len(changes[g.Name])),
			}
			if !remembered && slices.ContainsFunc(changes[g.Name], func(c plan.InstanceChange) bool { return c.From != "" }) {
				rg.FirstDeploy = false // the memory was lost: better slow than all at once
			}
			for _, x := range changes[g.Name] {
				in := r.instance(x, c, specs[x.Instance])
				work = work || in.Action != rollout.ActionNone || known.PostDeploy && in.PostDeploy
				rg.Instances = append(rg.Instances, in)
			}
			more = firstMoves(&rg, changes[g.Name], c.HoldMoves) || more
			rp.Groups = append(rp.Groups, rg)
		}
	}
	rp.Removals = r.removals(p)
	if !work && len(rp.Removals) == 0 {
		return nil, more, nil
	}
	return rp, more, nil
}

// instance returns what a rollout does with one instance.
func (r *Rollouts) instance(x plan.InstanceChange, c Circumstances, spec *api.Spec) rollout.Instance {
	inv := r.Fleet.Inventory(x.Instance)
	in := rollout.Instance{
		ID: x.Instance, AZ: x.AZ, Action: rolloutAction(x), Generation: x.To, Previous: x.From,
		Healthy: inv != nil && inv.State == api.InstanceRunning || r.Session.Distrusted.ClaimsHealth(x.Instance),
		Held:    inv != nil && inv.Held || c.Held[x.Instance],
		Exempt:  r.Session.Exempt(x.Instance) != "",
		Begun:   inv != nil && begun(inv),
	}
	if inv != nil && inv.Interrupted {
		// What is active may be what failed: the agent knows what ran before it.
		in.Previous = inv.Previous
	}
	in.Beside = c.Beside[x.Instance] && in.Healthy && !in.Held && !in.Exempt && in.Action == rollout.ActionRecreate
	in.PostDeploy = spec != nil && hasHook(spec, api.HookPostDeploy)
	if in.Exempt {
		in.Action = rollout.ActionNone
	}
	return in
}

// removals returns the instances that a plan deletes, by group.
func (r *Rollouts) removals(p *plan.Plan) []rollout.Removal {
	deleted := func(group string) bool {
		return slices.ContainsFunc(p.Instances, func(x plan.InstanceChange) bool { return x.Group == group && x.Action == plan.Delete })
	}
	var out []rollout.Removal
	for _, x := range p.Instances {
		if x.Action != plan.Delete {
			continue
		}
		i := slices.IndexFunc(out, func(r rollout.Removal) bool { return r.Group == x.Group })
		if i < 0 {
			removal := rollout.Removal{Group: x.Group, MaxInFlight: 1, Next: api.NextDelete}
			if g := r.Session.Manifest.Group(x.Group); g != nil {
				removal.Next = api.NextScaleIn
				removal.MaxInFlight = max(1, g.Update.MaxInFlight.Of(g.Instances+1))
				// Only groups that also lose instances have an order among removals.
				removal.Requires = slices.DeleteFunc(slices.Clone(g.Requires), func(name string) bool { return !deleted(name) })
			}
			out = append(out, removal)
			i = len(out) - 1
		}
		inv := r.Fleet.Inventory(x.Instance)
		out[i].Instances = append(out[i].Instances, rollout.RemovedInstance{
			ID: x.Instance, NoAgent: inv == nil, Begun: inv != nil && begun(inv),
		})
	}
	return out
}

// begun reports whether an earlier run has begun to change an instance.
func begun(inv *api.Inventory) bool {
	if inv.Running != nil {
		switch inv.Running.Kind {
		case api.KindUpdate, api.KindRollback, api.KindRestart, api.KindStart, api.KindStop:
			return true
		}
	}
	return inv.Interrupted
}

func hasHook(s *api.Spec, kind api.HookKind) bool {
	return slices.ContainsFunc(s.Jobs, func(j api.Job) bool {
		return slices.ContainsFunc(j.Hooks, func(h api.Hook) bool { return h.Kind == kind })
	})
}

func rolloutAction(c plan.InstanceChange) rollout.Action {
	switch c.Action {
	case plan.Create:
		return rollout.ActionCreate
	case plan.Recreate, plan.Move:
		return rollout.ActionRecreate
	case plan.Update, plan.Reload, plan.Restart:
		if c.Action == plan.Update && c.From == c.To && len(c.Processes) == 0 && len(c.Drift) == 0 {
			return rollout.ActionNone // only the agent itself needs something
		}
		return rollout.ActionUpdate
	}
	return rollout.ActionNone
}

// firstMoves leaves of a group's instances that move elsewhere only as many as may
// be in flight at once, and none if moves are held because others have yet to learn
// where the last ones are. The others wait for the next rollout, which it reports.
// Otherwise a group of which each instance is replaced by one elsewhere (the
// servers of the bus) would end at addresses that nobody knows.
func firstMoves(g *rollout.Group, changes []plan.InstanceChange, hold bool) (more bool) {
	left := max(1, g.Policy.MaxInFlight)
	if hold {
		left = 0
	}
	moving := map[string]bool{}
	for _, c := range changes {
		moving[c.Instance] = c.Action == plan.Move
	}
	for i := range g.Instances {
		in := &g.Instances[i]
		switch {
		case !moving[in.ID] || in.Action != rollout.ActionRecreate:
		case left > 0:
			left--
		default:
			in.Action, in.Exempt = rollout.ActionNone, true // its turn comes
			more = true
		}
	}
	return more
}

// Restart returns a rollout that restarts some instances. It leaves all others of
// their groups as they are; they count for what must stay available.
func (r *Rollouts) Restart(ids []string) rollout.Plan {
	s := r.Session
	rp := rollout.Plan{ID: fmt.Sprintf("%.8s-%d", s.State.DeploymentID, s.State.Epoch), Parallel: s.Parallel}
	for _, wave := range s.Manifest.Order {
		for _, g := range wave {
			rg := rollout.Group{Name: g.Name, Requires: g.Requires}
			for _, slot := range s.State.Groups[g.Name] {
				id := api.InstanceID(g.Name, slot.Index)
				if _, made := s.State.VMs[id]; !made {
					continue // the manifest has it, and no apply has made it yet
				}
				inv := r.Fleet.Inventory(id)
				in := rollout.Instance{ID: id, AZ: slot.AZ, Action: rollout.ActionNone, Exempt: true, Healthy: s.Distrusted.ClaimsHealth(id)}
				if inv != nil {
					in.Generation, in.Previous, in.Held = inv.Active, inv.Active, inv.Held
					in.Healthy = inv.State == api.InstanceRunning
				}
				if slices.Contains(ids, id) {
					in.Action, in.Exempt = rollout.ActionRestart, false
				}
				rg.Instances = append(rg.Instances, in)
			}
			rg.Policy = rollout.PolicyFor(g.Update, len(rg.Instances))
			rp.Groups = append(rp.Groups, rg)
		}
	}
	return rp
}
