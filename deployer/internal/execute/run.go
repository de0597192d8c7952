// Package execute carries rollouts out: it makes a rollout's plan of what changes,
// sends the rollout's commands to agents and to the infrastructure, and tells it
// what happens meanwhile.
package execute

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/credentials"
	"github.com/clusterworks/deploy/deployer/internal/desired"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/infra"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
	"github.com/clusterworks/deploy/deployer/internal/session"
)

// Rollouts carries out the rollouts of a session.
type Rollouts struct {
	Session     *session.Session
	Credentials *credentials.Credentials
	Fleet       *fleet.Fleet
	Infra       *infra.Infra
	Desired     *desired.Renderer
	// Manifest is the manifest as the user typed it, for messages.
	Manifest string
	// SkipDrain stops what must stop without pre_stop and drain.
	SkipDrain bool

	count int // of the session's rollouts: each has operations of its own
}

// Result is the outcome of a rollout that did not fail.
type Result struct {
	// Wanted is every instance as it is wanted, rendered with the addresses of the
	// VMs that there are now.
	Wanted []plan.Wanted
	// Moved: VMs have other addresses, which others have yet to learn.
	Moved bool
}

// Run runs a rollout to its end. changes are what it makes of instances, for the
// error if one fails. save keeps the rollout's state, and refuses when the lease
// is lost.
func (r *Rollouts) Run(ctx context.Context, p rollout.Plan, changes []plan.InstanceChange, wanted []plan.Wanted, save func(rollout.State) error) (Result, error) {
	x, err := r.newExecutor(p, wanted)
	if err != nil {
		return Result{}, err
	}
	memory, err := Memory(r.Session)
	if err != nil {
		return Result{}, err
	}
	initial, err := rollout.New(p, memory)
	if err != nil {
		return Result{}, err
	}
	r.Session.Event(session.Event{Phase: session.PhaseRollout, Message: describe(&p)})
	w := newWatcher(r.Session, r.Fleet, initial)
	watching, end := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { w.watch(watching) })
	final, err := rollout.Driver{
		Executor:  x,
		Interrupt: r.Session.Interrupt,
		Events:    w.events,
		Report:    func(_ rollout.Event, _ []rollout.Command, s rollout.State) { w.latest.Store(&s) },
		Save:      save,
	}.Run(ctx, initial)
	end()
	watch.Wait()
	store := r.Session.Store
	pause, resumeErr := store.Paused()
	if resumeErr == nil && pause != nil && pause.Epoch == r.Session.State.Epoch {
		resumeErr = store.Resume() // it was for this rollout
	}
	if err == nil {
		err = resumeErr
	}
	if err == nil {
		err = failure(final, changes, r.Manifest, r.Session.Manifest.Places)
	}
	return Result{Wanted: x.wanted, Moved: x.moved}, err
}

// Memory returns what is remembered of earlier rollouts.
func Memory(s *session.Session) (rollout.Memory, error) {
	var m rollout.Memory
	if len(s.State.Memory) == 0 {
		return m, nil
	}
	if err := json.Unmarshal(s.State.Memory, &m); err != nil {
		return m, fmt.Errorf("cannot read the memory of earlier rollouts in %s: %w", s.Store.Dir, err)
	}
	return m, nil
}

// SaveMemory keeps of a rollout what the next one must know.
func SaveMemory(s *session.Session, r rollout.State) error {
	data, err := json.Marshal(r.Memory())
	if err != nil {
		return fmt.Errorf("cannot encode the rollout's memory: %w", err)
	}
	if bytes.Equal(data, s.State.Memory) {
		return s.Check() // most of what happens need not be remembered
	}
	return s.UpdateAndSave(func() error {
		s.State.Memory = data
		return nil
	})
}

// specs returns the specs of instances that can be rolled out.
func (r *Rollouts) specs(wanted []plan.Wanted) (map[string]*api.Spec, error) {
	specs := map[string]*api.Spec{}
	for _, w := range wanted {
		if !w.Known && r.Session.Exempt(w.Spec.Instance) != "" {
			continue
		}
		if !w.Known {
			return nil, fmt.Errorf("cannot roll out %s: something of it is still unknown although its VM exists", w.Spec.Instance)
		}
		specs[w.Spec.Instance] = &w.Spec
	}
	return specs, nil
}

// describe returns which instances of which groups a rollout changes.
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
	return fmt.Sprintf("%s: %s", session.Count(n, "instance"), strings.Join(names, ", "))
}
