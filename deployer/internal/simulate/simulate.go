// Package simulate runs rollouts on virtual time: the production state machine
// (rollout.Step) over simulated agents and VMs, whose latencies and faults
// follow from a seed. The same plan, options and seed give the same run.
//
// While it runs, it holds the rollout to its promises with a bookkeeping of its
// own, made only of what reaches the simulated agents.
package simulate

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/rollout"
)

// restart is the time that a killed deployer is away.
const restart = 5 * time.Second

// Run simulates a plan's rollout to its end.
func Run(p rollout.Plan, remembered rollout.Memory, o Options) (Report, error) {
	state, err := rollout.New(p, remembered)
	if err != nil {
		return Report{}, fmt.Errorf("cannot simulate: %w", err)
	}
	w := newWorld(state.Plan, remembered, o)
	machine := rollout.NewMachine(state)
	w.push(0, item{})
	for _, h := range o.Health {
		w.push(h.At, item{health: &h})
	}
	for _, p := range o.Pauses {
		w.push(p.At, item{pause: 1})
		w.push(p.At+p.For, item{pause: -1})
	}

	// Every instance takes a bounded number of commands, attempts and restarts.
	limit := 100 * (len(w.instances) + len(o.Health) + len(o.Pauses) + 10)
	for machine.Outcome() == "" {
		deadline := machine.NextDeadline()
		if w.now < w.awake && o.Replan {
			deadline = time.Time{} // nobody waits
		}
		e, ok := w.next(deadline)
		if e.Kind == rollout.EventStart && w.memoryKept() {
			if w.engineRuns() {
				w.push(time.Second, item{deployer: w.deployer}) // it holds its lock
				w.awake = w.now + time.Second
				continue
			}
			if state, ok = w.replan(); !ok {
				state.Outcome = rollout.OutcomeFailed
				return w.report(state), nil
			}
			machine = rollout.NewMachine(state)
			e.Found = nil // the plan says it
		}
		if !ok {
			w.broken("does not end: nothing is in progress and no deadline is set")
			break
		}
		if w.steps++; w.steps > limit {
			w.broken("does not end within %d steps", limit)
			break
		}
		if w.steps == o.Interrupt {
			machine = w.step(machine, rollout.Event{Kind: rollout.EventInterrupt})
			if w.now < w.awake {
				continue // killed: nobody hears e
			}
		}
		machine = w.step(machine, e)
	}
	return w.report(machine.State()), nil
}

// memoryKept reports whether the deployer that starts plans anew.
func (w *world) memoryKept() bool { return w.options.Replan && w.deployer > 0 }

// engineRuns reports whether a run of the engine that an earlier deployer began
// has not ended.
func (w *world) engineRuns() bool {
	return slices.ContainsFunc(w.instances, func(x *instance) bool {
		return x.busy != nil && (x.busy.command.Kind == rollout.CommandReplaceVM || x.busy.command.Kind == rollout.CommandDeleteVM)
	})
}

// step takes one event to the machine, as rollout.Driver does, and its commands
// to the world, unless the deployer is killed in between.
func (w *world) step(m *rollout.Machine, e rollout.Event) *rollout.Machine {
	kill := KillNever
	if w.options.Kill != nil {
		kill = w.options.Kill(w.steps)
	}
	if kill == KillBeforeSave {
		return w.kill(m.State())
	}
	paused := m.Paused() && e.Kind != rollout.EventResume
	commands := m.Step(e, epoch.Add(w.now))
	if w.options.Observe != nil {
		w.options.Observe(w.now, e, commands)
	}
	for _, c := range commands {
		if paused && e.Kind != rollout.EventStart {
			w.checkPaused(c)
		}
		w.intend(c)
	}
	switch kill {
	case KillAfterSave:
		commands = nil
	case KillHalfSent:
		commands = commands[:len(commands)/2]
	}
	for _, c := range commands {
		w.execute(c)
	}
	if kill != KillNever {
		return w.kill(m.State())
	}
	return m
}

// kill ends the deployer; what it saved is what the next one reads.
func (w *world) kill(saved rollout.State) *rollout.Machine {
	text, err := json.Marshal(saved)
	if err != nil {
		w.broken("state cannot be saved: %v", err)
		return rollout.NewMachine(saved)
	}
	var read rollout.State
	if err := json.Unmarshal(text, &read); err != nil {
		w.broken("state cannot be read: %v", err)
		return rollout.NewMachine(saved)
	}
	w.deployer++
	w.awake = w.now + restart
	w.push(restart, item{deployer: w.deployer})
	if w.options.Replan {
		w.pauses = 0 // it was for the run that ended
		w.memory = read.Memory()
		if w.options.Forget {
			w.memory = rollout.Memory{}
		}
	}
	return rollout.NewMachine(read)
}

// replan returns what the next deployer begins with: its plan is made of what is
// there, as deployer's plan and rolloutPlan do. It is false if it can make none.
func (w *world) replan() (rollout.State, bool) {
	w.plans++
	for _, op := range w.ops {
		if op.begun {
			continue
		}
		for i, x := range op.at { // nobody will ever send it
			x.touched, x.passed, x.waiting = op.was[i].touched, op.was[i].passed, nil
		}
		op.begun = true
	}
	next := rollout.Plan{ID: fmt.Sprintf("%s.%d", w.first.ID, w.plans), Parallel: w.first.Parallel, Timeouts: w.first.Timeouts}
	for _, g := range w.first.Groups {
		g.Digest = ""
		g.Instances = slices.Clone(g.Instances)
		known, remembered := w.memory.Group(g.Name)
		g.FirstDeploy = g.FirstDeploy && !known.Served
		for i := range g.Instances {
			in := &g.Instances[i]
			x := w.byID[in.ID]
			if x.silent && !x.exempt {
				return rollout.State{}, false
			}
			if !remembered && x.active != "" {
				g.FirstDeploy = false
			}
			recreates := in.Action == rollout.ActionRecreate && !x.replaced
			restarts := in.Action == rollout.ActionRestart
			in.Healthy, in.Previous, in.Begun = x.healthy, x.active, x.unfinished
			if x.unfinished {
				in.Previous = x.before
			}
			switch {
			case x.exempt, restarts && x.passed && !x.unfinished:
				in.Action = rollout.ActionNone
			case recreates, restarts && !x.unfinished:
			case x.unfinished, x.stopped, x.active != in.Generation:
				in.Action = rollout.ActionUpdate
			default:
				in.Action = rollout.ActionNone
			}
			if x.busy == nil {
				x.changing = false // what nobody works on is sick
			}
			x.tried = false
		}
		next.Groups = append(next.Groups, g)
	}
	for _, removal := range w.first.Removals {
		removal.Instances = slices.DeleteFunc(slices.Clone(removal.Instances), func(r rollout.RemovedInstance) bool { return w.byID[r.ID].deleted })
		for i := range removal.Instances {
			in := &removal.Instances[i]
			in.Begun = w.byID[in.ID].busy != nil
		}
		next.Removals = append(next.Removals, removal)
	}
	state, err := rollout.New(next, w.memory)
	if err != nil {
		w.broken("the next deployer cannot begin: %v", err)
		return rollout.State{}, false
	}
	w.plan = state.Plan
	for g := range w.plan.Groups {
		for i := range w.plan.Groups[g].Instances {
			spec := &w.plan.Groups[g].Instances[i]
			w.byID[spec.ID].spec = spec
		}
	}
	w.recount(w.instances...)
	return state, true
}

func (w *world) report(s rollout.State) Report {
	r := Report{State: s, Duration: w.now, Steps: w.steps, Operations: w.begun, Broken: w.problems}
	for _, x := range w.instances {
		if x.spec != nil && x.touched {
			w.groups[x.group].Touched++
		}
		r.Instances = append(r.Instances, InstanceReport{
			ID: x.id, Generation: x.active, Healthy: x.healthy, Deleted: x.deleted, Unfinished: x.unfinished, Before: x.before, Changes: x.changes, PostDeploys: x.postDeploys,
		})
	}
	r.Groups = w.groups
	return r
}
