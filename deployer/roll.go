package deployer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
)

// roll carries a plan's changes out, in the order and at the pace that the
// manifest's policies say.
func (r *run) roll(ctx context.Context, p *plan.Plan) error {
	wanted, err := r.wanted()
	if err != nil {
		return err
	}
	specs := map[string]*api.Spec{}
	for _, w := range wanted {
		if !w.Known && r.exempt(w.Spec.Instance) != "" {
			continue
		}
		if !w.Known {
			return fmt.Errorf("cannot roll out %s: something of it is still unknown although its VM exists", w.Spec.Instance)
		}
		specs[w.Spec.Instance] = &w.Spec
	}
	rp, err := r.rolloutPlan(p, specs)
	if err != nil || rp == nil {
		return err
	}
	return r.carryOut(ctx, *rp, p.Instances, specs, r.saveMemory)
}

// carryOut runs a rollout to its end. changes say what it makes of instances, to
// tell it when one fails, and specs what they shall be; save keeps the rollout's
// state and refuses when the lease is lost.
func (r *run) carryOut(ctx context.Context, rp rollout.Plan, changes []plan.InstanceChange, specs map[string]*api.Spec, save func(rollout.State) error) error {
	x := &executor{run: r, specs: specs, goesBeside: map[string]bool{}, from: map[string]string{}, replaced: map[string]bool{}, before: map[string]*api.Spec{}}
	for _, g := range rp.Groups {
		for _, in := range g.Instances {
			x.from[in.ID], x.goesBeside[in.ID] = in.Previous, in.Beside
		}
	}
	memory, err := r.memory()
	if err != nil {
		return err
	}
	initial, err := rollout.New(rp, memory)
	if err != nil {
		return err
	}
	r.event(Event{Phase: PhaseRollout, Message: describe(&rp)})
	w := r.newWatcher(initial)
	watching, end := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { w.watch(watching) })
	final, err := rollout.Driver{
		Executor:  x,
		Interrupt: r.config.Interrupt,
		Events:    w.events,
		Report:    func(_ rollout.Event, _ []rollout.Command, s rollout.State) { w.latest.Store(&s) },
		Save:      save,
	}.Run(ctx, initial)
	end()
	watch.Wait()
	pause, resumeErr := r.store.Paused()
	if resumeErr == nil && pause != nil && pause.Epoch == r.state.Epoch {
		resumeErr = r.store.Resume() // it was for this rollout
	}
	if err == nil {
		err = resumeErr
	}
	if err != nil {
		return err
	}
	return rolloutError(final, changes, r.config.Manifest)
}

// saveMemory keeps of a rollout what the next one must know.
func (r *run) saveMemory(s rollout.State) error {
	data, err := json.Marshal(s.Memory())
	if err != nil {
		return fmt.Errorf("cannot encode the rollout's memory: %w", err)
	}
	r.vmsMu.Lock()
	defer r.vmsMu.Unlock()
	if bytes.Equal(data, r.state.Memory) {
		return r.store.Check(r.state) // most of what happens need not be remembered
	}
	r.state.Memory = data
	return r.save()
}

// rolloutPlan is a plan's changes as the rollout takes them, nil if there are none.
func (r *run) rolloutPlan(p *plan.Plan, specs map[string]*api.Spec) (*rollout.Plan, error) {
	memory, err := r.memory()
	if err != nil {
		return nil, err
	}
	// Agents know operations by this id, and do none of them twice.
	r.rolls++
	rp := &rollout.Plan{ID: fmt.Sprintf("%.8s-%d-%d", r.state.DeploymentID, r.state.Epoch, r.rolls), Parallel: r.config.Parallel}
	changes := map[string][]plan.InstanceChange{}
	for _, c := range p.Instances {
		if c.Action != plan.Delete {
			changes[c.Group] = append(changes[c.Group], c)
		}
	}
	work := false
	for _, wave := range r.manifest.Order {
		for _, g := range wave {
			known, remembered := memory.Group(g.Name)
			rg := rollout.Group{
				Name: g.Name, Requires: g.Requires, FirstDeploy: !known.Served,
				Policy: rollout.PolicyFor(g.Update, len(changes[g.Name])),
			}
			if !remembered && slices.ContainsFunc(changes[g.Name], func(c plan.InstanceChange) bool { return c.From != "" }) {
				rg.FirstDeploy = false // the memory was lost: better slow than all at once
			}
			for _, c := range changes[g.Name] {
				inv := r.fleet.inventory(c.Instance)
				in := rollout.Instance{
					ID: c.Instance, AZ: c.AZ, Action: rolloutAction(c), Generation: c.To, Previous: c.From,
					Healthy: inv != nil && inv.State == api.InstanceRunning || r.fleet.distrusted.claimsHealth(c.Instance),
					Held:    inv != nil && inv.Held || r.held[c.Instance],
					Exempt:  r.exempt(c.Instance) != "",
					Begun:   inv != nil && begun(inv),
				}
				if inv != nil && inv.Interrupted {
					// What is active may be what failed: the agent knows what ran before it.
					in.Previous = inv.Previous
				}
				in.Beside = r.beside[c.Instance] && in.Healthy && !in.Held && !in.Exempt && rolloutAction(c) == rollout.ActionRecreate
				in.PostDeploy = specs[c.Instance] != nil && hasHook(specs[c.Instance], api.HookPostDeploy)
				if in.Exempt {
					in.Action = rollout.ActionNone
				}
				work = work || in.Action != rollout.ActionNone || known.PostDeploy && in.PostDeploy
				rg.Instances = append(rg.Instances, in)
			}
			r.firstMoves(&rg, changes[g.Name])
			rp.Groups = append(rp.Groups, rg)
		}
	}
	for _, c := range p.Instances {
		if c.Action != plan.Delete {
			continue
		}
		work = true
		i := slices.IndexFunc(rp.Removals, func(x rollout.Removal) bool { return x.Group == c.Group })
		if i < 0 {
			removal := rollout.Removal{Group: c.Group, MaxInFlight: 1, Next: api.NextDelete}
			if g := r.manifest.Group(c.Group); g != nil {
				removal.Next = api.NextScaleIn
				removal.MaxInFlight = max(1, g.Update.MaxInFlight.Of(g.Instances+1))
				// Only groups that also lose instances have an order among removals.
				removal.Requires = slices.DeleteFunc(slices.Clone(g.Requires), func(name string) bool {
					return !slices.ContainsFunc(p.Instances, func(c plan.InstanceChange) bool { return c.Group == name && c.Action == plan.Delete })
				})
			}
			rp.Removals = append(rp.Removals, removal)
			i = len(rp.Removals) - 1
		}
		inv := r.fleet.inventory(c.Instance)
		rp.Removals[i].Instances = append(rp.Removals[i].Instances, rollout.RemovedInstance{
			ID: c.Instance, NoAgent: inv == nil, Begun: inv != nil && begun(inv),
		})
	}
	if !work {
		return nil, nil
	}
	return rp, nil
}

// begun tells whether an earlier run has begun to change an instance.
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
			return rollout.ActionNone // only the agent itself was owed something
		}
		return rollout.ActionUpdate
	}
	return rollout.ActionNone
}

func describe(p *rollout.Plan) string {
	n := 0
	var names []string
	for _, g := range p.Groups {
		k := 0
		for _, x := range g.Instances {
			if x.Action != rollout.ActionNone {
				k++
			}
		}
		if k > 0 {
			names = append(names, fmt.Sprintf("%s ×%d", g.Name, k))
		}
		n += k
	}
	for _, x := range p.Removals {
		names = append(names, fmt.Sprintf("remove %s ×%d", x.Group, len(x.Instances)))
		n += len(x.Instances)
	}
	return fmt.Sprintf("%d instances: %s", n, strings.Join(names, ", "))
}

// executor carries the rollout's commands to agents and to the engine.
type executor struct {
	*run
	from       map[string]string
	goesBeside map[string]bool // instances whose new VM is made beside the old one

	mu       sync.Mutex // guards what follows while VMs are replaced
	specs    map[string]*api.Spec
	replaced map[string]bool      // instances with a new VM
	before   map[string]*api.Spec // what ran on the VM that is replaced, if it was something else
}

// Execute implements rollout.Executor.
func (x *executor) Execute(ctx context.Context, c rollout.Command) error {
	switch c.Kind {
	case rollout.CommandDeleteVM:
		x.event(Event{Phase: PhaseVMs, Message: "delete " + strings.Join(c.Instances, ", ")})
		return x.deleteVMs(ctx, c.Instances)
	case rollout.CommandReplaceVM:
		x.event(Event{Phase: PhaseVMs, Message: "replace " + strings.Join(c.Instances, ", ")})
		return x.replaceVMs(ctx, c)
	}
	id := c.Instances[0]
	x.event(Event{Phase: PhaseRollout, Instance: id, Step: string(c.Kind)})
	err := x.agentCommand(ctx, id, c)
	e := Event{Phase: PhaseRollout, Instance: id, Step: string(c.Kind), Done: true}
	if err != nil {
		e.Done, e.Error = false, err.Error()
	}
	x.event(e)
	return err
}

func (x *executor) agentCommand(ctx context.Context, id string, c rollout.Command) error {
	s := x.submission(id, c.OpID)
	health := struct{ min, deadline int64 }{c.MinHealthy.Milliseconds(), c.Deadline.Milliseconds()}
	x.mu.Lock()
	spec, before, replaced := x.specs[id], x.before[id], x.replaced[id]
	x.mu.Unlock()
	switch c.Kind {
	case rollout.CommandPrepare:
		return x.prepare(ctx, id, s, *spec)
	case rollout.CommandUpdate:
		generation := c.Generation
		if replaced { // on another address it may be another one than was planned
			generation = spec.Generation
		}
		s.Kind, s.Update = api.KindUpdate, &api.Update{
			Generation: generation, MinHealthyMS: health.min, DeadlineMS: health.deadline, Next: api.NextUpdate,
			Hold: c.Hold, SkipDrain: x.skipDrain,
		}
	case rollout.CommandRestart:
		s.Kind, s.Restart = api.KindRestart, &api.RestartProcesses{
			MinHealthyMS: health.min, DeadlineMS: health.deadline, SkipDrain: x.skipDrain,
		}
	case rollout.CommandPostDeploy:
		s.Kind, s.PostDeploy = api.KindPostDeploy, &api.PostDeploy{}
	case rollout.CommandWatch:
		s.Kind, s.Watch = api.KindWatch, &api.Watch{MinHealthyMS: health.min, DeadlineMS: health.deadline}
	case rollout.CommandRollback:
		if x.goesBeside[id] {
			return x.returnToOld(ctx, id)
		}
		if c.Generation == "" { // nothing ran before: stop everything
			s.Kind, s.Rollback = api.KindRollback, &api.Rollback{MinHealthyMS: health.min, DeadlineMS: health.deadline}
			break
		}
		if replaced && before != nil { // the new VM has never had it
			p := s
			p.OpID += ".prepare"
			if err := x.prepare(ctx, id, p, *before); err != nil {
				return err
			}
		}
		// The agent's own idea of "previous" is another one if the update failed
		// before it was activated; the generation says exactly what is meant.
		s.Kind, s.Update = api.KindUpdate, &api.Update{
			Generation: c.Generation, MinHealthyMS: health.min, DeadlineMS: health.deadline, Next: api.NextUpdate,
			Back: true, Hold: c.Hold, SkipDrain: x.skipDrain,
		}
	case rollout.CommandStop:
		if c.Next == api.NextRecreate {
			if err := x.rememberActive(ctx, id); err != nil {
				return err
			}
		}
		s.Kind, s.Stop = api.KindStop, &api.Stop{Next: c.Next, SkipDrain: x.skipDrain}
	default:
		return fmt.Errorf("cannot %s %s: unknown command", c.Kind, id)
	}
	return x.submit(ctx, id, s)
}

// prepare stages a spec; packages that the agent cannot get are uploaded.
func (x *executor) prepare(ctx context.Context, id string, s api.Submission, spec api.Spec) error {
	s.Kind, s.Prepare = api.KindPrepare, &api.Prepare{Spec: spec}
	err := x.submit(ctx, id, s)
	var missing *api.Error
	if errors.As(err, &missing) && missing.Code == api.CodePackageMissing {
		// The bus is a cache; the deployer has the packages and another way.
		if err := x.upload(ctx, id, missing.Packages); err != nil {
			return err
		}
		s.OpID += ".uploaded"
		err = x.submit(ctx, id, s)
	}
	return err
}

// rememberActive keeps what runs on a VM that is to be replaced, so that the
// new one can return to it.
func (x *executor) rememberActive(ctx context.Context, id string) error {
	x.mu.Lock()
	wanted := x.specs[id].Generation
	x.mu.Unlock()
	if x.from[id] == "" || x.from[id] == wanted {
		return nil
	}
	spec, err := x.fleet.client(id).Spec(ctx, api.SpecRequest{Generation: x.from[id]})
	if err != nil {
		return fmt.Errorf("cannot keep what runs on %s before its VM is replaced: %w", id, err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.before[id] = &spec
	return nil
}

// submission is the head of every change to an instance.
func (r *run) submission(id, opID string) api.Submission {
	return api.Submission{Change: api.Change{
		DeploymentID: r.state.DeploymentID, Instance: id, Epoch: r.state.Epoch, OpID: opID,
	}}
}

// submit follows an operation to its end and reports its steps. An agent that
// is still busy with another one (an update that took longer than it was waited
// for) is waited for first: a refused submission leaves no trace there.
func (r *run) submit(ctx context.Context, id string, s api.Submission) error {
	for {
		err := r.fleet.client(id).Do(ctx, s, func(e api.OperationEvent) {
			r.event(Event{Phase: PhaseRollout, Instance: id, Step: e.Step, Message: e.Message})
		})
		var refused *api.Error
		if !errors.As(err, &refused) {
			return err
		}
		if refused.Code == api.CodeStaleEpoch && r.store.Check(r.state) == nil {
			// Only the state says who has taken over: an agent may say anything.
			return &api.Error{Code: api.CodeInternal, Message: fmt.Sprintf("its agent refuses epoch %d of this run, although no other run has begun (%s); deploy recreate gives %s another VM", r.state.Epoch, refused.Message, id)}
		}
		if refused.Code != api.CodeConflict {
			return err
		}
		inv, askErr := r.fleet.client(id).Inventory(ctx)
		if askErr != nil || inv.Running == nil || inv.Running.OpID == s.OpID {
			return err
		}
		r.event(Event{Phase: PhaseRollout, Instance: id, Step: "wait", Message: "waiting for the " + string(inv.Running.Kind) + " that runs there"})
		if err := r.follow(ctx, id, inv.Running); err != nil {
			return err
		}
	}
}
