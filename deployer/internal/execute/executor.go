package execute

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/infra"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// executor carries one rollout's commands to agents and to the infrastructure.
type executor struct {
	*Rollouts
	from   map[string]string // generation that ran before, by instance
	beside map[string]bool   // instances whose new VM is made beside the old one

	rendering sync.Mutex // one renderAgain at a time

	mu       sync.Mutex // guards what follows while VMs are replaced
	specs    map[string]*api.Spec
	wanted   []plan.Wanted
	moved    bool
	replaced map[string]bool      // instances with a new VM
	before   map[string]*api.Spec // what ran on the VM that is replaced, if it was something else
}

func (r *Rollouts) newExecutor(p rollout.Plan, wanted []plan.Wanted) (*executor, error) {
	specs, err := r.specs(wanted)
	if err != nil {
		return nil, err
	}
	x := &executor{
		Rollouts: r, from: map[string]string{}, beside: map[string]bool{},
		specs: specs, wanted: wanted, replaced: map[string]bool{}, before: map[string]*api.Spec{},
	}
	for _, g := range p.Groups {
		for _, in := range g.Instances {
			x.from[in.ID], x.beside[in.ID] = in.Previous, in.Beside
		}
	}
	return x, nil
}

// Execute implements rollout.Executor.
func (x *executor) Execute(ctx context.Context, c rollout.Command) error {
	switch c.Kind {
	case rollout.CommandDeleteVM:
		x.Session.Event(session.Event{Phase: session.PhaseVMs, Message: "delete " + strings.Join(c.Instances, ", ")})
		return x.Infra.Delete(ctx, c.Instances)
	case rollout.CommandReplaceVM:
		x.Session.Event(session.Event{Phase: session.PhaseVMs, Message: "replace " + strings.Join(c.Instances, ", ")})
		return x.replaceVMs(ctx, c)
	}
	id := c.Instances[0]
	x.Session.Event(session.Event{Phase: session.PhaseRollout, Instance: id, Step: string(c.Kind)})
	err := x.agentCommand(ctx, id, c)
	e := session.Event{Phase: session.PhaseRollout, Instance: id, Step: string(c.Kind), Done: true}
	if err != nil {
		e.Done, e.Error = false, err.Error()
	}
	x.Session.Event(e)
	return err
}

func (x *executor) agentCommand(ctx context.Context, id string, c rollout.Command) error {
	s := x.Fleet.Submission(id, c.OpID)
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
			Hold: c.Hold, SkipDrain: x.SkipDrain,
		}
	case rollout.CommandRestart:
		s.Kind, s.Restart = api.KindRestart, &api.RestartProcesses{
			MinHealthyMS: health.min, DeadlineMS: health.deadline, SkipDrain: x.SkipDrain,
		}
	case rollout.CommandPostDeploy:
		s.Kind, s.PostDeploy = api.KindPostDeploy, &api.PostDeploy{}
	case rollout.CommandWatch:
		s.Kind, s.Watch = api.KindWatch, &api.Watch{MinHealthyMS: health.min, DeadlineMS: health.deadline}
	case rollout.CommandRollback:
		if x.beside[id] {
			return x.Infra.ReturnToPrevious(ctx, id)
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
		// What the agent calls "previous" is another generation if the update failed
		// before it was activated, so the generation is named.
		s.Kind, s.Update = api.KindUpdate, &api.Update{
			Generation: c.Generation, MinHealthyMS: health.min, DeadlineMS: health.deadline, Next: api.NextUpdate,
			Back: true, Hold: c.Hold, SkipDrain: x.SkipDrain,
		}
	case rollout.CommandStop:
		if c.Next == api.NextRecreate {
			if err := x.rememberActive(ctx, id); err != nil {
				return err
			}
		}
		s.Kind, s.Stop = api.KindStop, &api.Stop{Next: c.Next, SkipDrain: x.SkipDrain}
	default:
		return fmt.Errorf("cannot %s %s: unknown command", c.Kind, id)
	}
	return x.Fleet.Submit(ctx, state.Own(id), s)
}

// prepare stages a spec. Packages that the agent cannot get are uploaded.
func (x *executor) prepare(ctx context.Context, id string, s api.Submission, spec api.Spec) error {
	s.Kind, s.Prepare = api.KindPrepare, &api.Prepare{Spec: spec}
	err := x.Fleet.Submit(ctx, state.Own(id), s)
	var missing *api.Error
	if errors.As(err, &missing) && missing.Code == api.CodePackageMissing {
		// The bus is a cache; the deployer has the packages and another way.
		if err := x.Fleet.Upload(ctx, id, missing.Packages); err != nil {
			return err
		}
		s.OpID += ".uploaded"
		err = x.Fleet.Submit(ctx, state.Own(id), s)
	}
	return err
}

// rememberActive keeps what runs on a VM that is to be replaced, so that the new
// one can return to it.
func (x *executor) rememberActive(ctx context.Context, id string) error {
	x.mu.Lock()
	wanted := x.specs[id].Generation
	x.mu.Unlock()
	if x.from[id] == "" || x.from[id] == wanted {
		return nil
	}
	spec, err := x.Fleet.Client(state.Own(id)).Spec(ctx, api.SpecRequest{Generation: x.from[id]})
	if err != nil {
		return fmt.Errorf("cannot keep what runs on %s before its VM is replaced: %w", id, err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.before[id] = &spec
	return nil
}

// replaceVMs brings the wanted inputs to the VMs of a batch, and makes of new VMs
// what can be rolled out to.
func (x *executor) replaceVMs(ctx context.Context, c rollout.Command) error {
	ids := c.Instances
	for _, id := range ids {
		if x.Session.HasPrevious(id) { // there is no place for a third VM
			if err := x.Infra.DeletePrevious(ctx, id, x.SkipDrain); err != nil {
				return err
			}
		}
	}
	begun, moved, err := x.Infra.Replace(ctx, ids, x.beside)
	if err != nil {
		if !begun {
			x.startAgain(ctx, c)
		}
		return err
	}
	x.mu.Lock()
	x.moved = x.moved || moved
	x.mu.Unlock()
	if err := x.Fleet.Bootstrap(ctx, ids); err != nil {
		return err
	}
	if err := x.Fleet.Identify(ctx, ids); err != nil {
		return err
	}
	return x.renderAgain(ids)
}

// startAgain starts what was stopped for new VMs that are not made.
func (x *executor) startAgain(ctx context.Context, c rollout.Command) {
	// Best effort: what it does not manage, the next apply does.
	_ = x.Session.Each(ctx, len(c.Instances), func(ctx context.Context, i int) error {
		id := c.Instances[i]
		if x.from[id] == "" || x.beside[id] {
			return nil
		}
		s := x.Fleet.Submission(id, c.OpID+".back."+api.SubjectToken(id))
		s.Kind, s.Update = api.KindUpdate, &api.Update{Generation: x.from[id], DeadlineMS: infra.StopLimit.Milliseconds(), Next: api.NextUpdate}
		e := session.Event{Phase: session.PhaseRollout, Instance: id, Step: "start", Done: true, Message: "its VM stays, so what was stopped is started again"}
		if err := x.Fleet.Submit(ctx, state.Own(id), s); err != nil {
			e.Done, e.Error = false, err.Error()
		}
		x.Session.Event(e)
		return nil
	})
}

// renderAgain makes what instances get fit their new VMs.
func (x *executor) renderAgain(ids []string) error {
	x.rendering.Lock()
	defer x.rendering.Unlock()
	if err := x.Credentials.Issue(nil); err != nil {
		return err
	}
	wanted, err := x.Desired.Render(nil)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.wanted = wanted
	for i := range wanted {
		if id := wanted[i].Spec.Instance; slices.Contains(ids, id) {
			if !wanted[i].Known {
				return fmt.Errorf("cannot roll out %s: something of it is still unknown although its VM exists", id)
			}
			x.specs[id] = &wanted[i].Spec
			x.replaced[id] = true
		}
	}
	return nil
}
