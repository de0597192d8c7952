package simulate

import (
	"container/heap"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
)

// epoch is when virtual time begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is the simulated agents, VMs and time.
type world struct {
	first     rollout.Plan // as it was asked for
	plan      rollout.Plan // of the present deployer
	memory    rollout.Memory
	plans     int // made anew
	pauses    int // in effect
	options   Options
	now       time.Duration
	queue     queue
	pushed    int
	steps     int
	deployer  int           // how many have been killed
	awake     time.Duration // when the present one began
	instances []*instance
	byID      map[string]*instance
	groups    []GroupReport
	tallies
	ops      map[string]*operation
	begun    int
	problems []string
}

// instance is a VM with its agent. What is in it is the truth of the
// simulation; the machine learns of it by answers only.
type instance struct {
	id    string
	spec  *rollout.Instance // nil for removals
	group int               // in the plan, of groups or removals
	installed
	standing
	history
	healthy bool
	told    bool // healthy, as far as the deployer has been told
	silent  bool
	stopped bool
	deleted bool
	waiting []*operation // for the end of what an earlier deployer began
	busy    *operation
	counted [marks]bool // what of it is in the world's tallies
}

// installed is the generations of an instance.
type installed struct {
	staged     string
	active     string
	previous   string
	before     string // what was active as the last change began
	unfinished bool   // a change has begun and has not ended well
	replaced   bool   // it has another VM
}

// standing describes what the rollout may do with an instance, and has done.
type standing struct {
	held     bool
	exempt   bool
	touched  bool
	tried    bool // touched by the present deployer
	changing bool // between the first command that touches it and the end of the last
	passed   bool // took its wanted generation and became healthy
}

// history describes what an instance has been through.
type history struct {
	changes     int  // operations that touched its processes
	preStarted  bool // its pre_start has run since the last change began
	postDeploys int
	interrupts  int
}

// operation is a command that was begun.
type operation struct {
	command  rollout.Command
	at       []*instance
	begun    bool
	ended    bool
	err      *api.Error
	stage    Stage  // that it did not get beyond
	nothing  bool   // it found nothing to do
	waited   bool   // for the end of another, so it may take longer than it is waited for
	was      []mark // of the instances, before
	follower int    // the deployer that waits for the answer
}

// mark describes what an instance was before an operation was issued.
type mark struct{ touched, passed bool }

func newWorld(p rollout.Plan, remembered rollout.Memory, o Options) *world {
	w := &world{first: p, plan: p, options: o, byID: map[string]*instance{}, ops: map[string]*operation{}}
	add := func(x *instance) {
		x.told = x.healthy
		w.instances = append(w.instances, x)
		w.byID[x.id] = x
	}
	for g, group := range p.Groups {
		known, _ := remembered.Group(group.Name)
		for i := range group.Instances {
			spec := &group.Instances[i]
			x := &instance{id: spec.ID, spec: spec, group: g, healthy: spec.Healthy}
			x.active, x.held, x.exempt = spec.Previous, spec.Held, spec.Exempt
			if spec.Action == rollout.ActionRestart {
				x.active = spec.Generation
			}
			if !spec.Exempt && spec.Action == rollout.ActionNone {
				x.active, x.previous, x.staged = spec.Generation, spec.Previous, spec.Generation
				x.passed = known.Digest == group.Digest && slices.Contains(known.Canaries, x.id)
			}
			add(x)
		}
		w.groups = append(w.groups, GroupReport{Name: group.Name})
	}
	for g, removal := range p.Removals {
		for _, r := range removal.Instances {
			x := &instance{id: r.ID, group: g, healthy: !r.NoAgent, stopped: r.NoAgent}
			x.active = "old"
			add(x)
		}
	}
	w.tallies = tallies{of: make([]tally, len(p.Groups)), removals: make([]tally, len(p.Removals))}
	w.recount(w.instances...)
	for g := range w.groups {
		w.groups[g].LowestAvailable = w.of[g][serves]
	}
	return w
}

// next advances virtual time to what reaches the deployer next.
func (w *world) next(deadline time.Time) (rollout.Event, bool) {
	for {
		tick := time.Duration(-1)
		if !deadline.IsZero() {
			tick = max(deadline.Sub(epoch), w.now, w.awake)
		}
		if len(w.queue) == 0 || tick >= 0 && tick < w.queue[0].at {
			if tick < 0 {
				return rollout.Event{}, false
			}
			w.now = tick
			return rollout.Event{Kind: rollout.EventTick}, true
		}
		it := heap.Pop(&w.queue).(item)
		w.now = it.at
		switch {
		case it.ends != nil:
			w.end(it.ends)
		case it.pause != 0:
			w.pauses = max(0, w.pauses+it.pause)
			w.push(0, item{deployer: w.deployer, pauses: true})
		case it.health != nil:
			if x := w.byID[it.health.Instance]; x != nil && !x.changing && !x.deleted && !x.stopped && !x.held && x.busy == nil {
				x.healthy = it.health.Healthy
				w.recount(x)
				w.push(time.Millisecond, item{deployer: w.deployer, heartbeat: x})
			}
		case it.deployer != w.deployer || w.now < w.awake:
			// The deployer that would have heard it is no more, or not yet there.
		case it.pauses && w.pauses > 0:
			return rollout.Event{Kind: rollout.EventPause}, true
		case it.pauses:
			return rollout.Event{Kind: rollout.EventResume}, true
		case it.heartbeat != nil:
			x := it.heartbeat
			x.told = x.healthy
			w.recount(x)
			kind := rollout.EventSick
			if x.healthy {
				kind = rollout.EventHealthy
			}
			return rollout.Event{Kind: kind, Instance: x.id}, true
		case it.answers != nil:
			op := it.answers
			e := rollout.Event{Kind: rollout.EventDone, OpID: op.command.OpID}
			if op.err != nil {
				e.Kind, e.Error = rollout.EventFailed, op.err
			}
			for _, x := range op.at {
				switch op.command.Kind {
				case rollout.CommandUpdate, rollout.CommandRestart, rollout.CommandRollback, rollout.CommandWatch:
					x.told = op.err == nil && (op.command.Kind != rollout.CommandRollback || op.command.Generation != "") && !x.held
				}
				w.recount(x)
				if x.told != x.healthy { // it changed since
					w.push(0, item{deployer: w.deployer, heartbeat: x})
				}
			}
			return e, true
		default:
			e := rollout.Event{Kind: rollout.EventStart, Found: map[string]bool{}}
			for _, x := range w.instances {
				if !x.silent {
					x.told = x.healthy
					e.Found[x.id] = x.healthy
				}
			}
			w.recount(w.instances...)
			w.push(0, item{deployer: w.deployer, pauses: true})
			return e, true
		}
	}
}

// intend is a command being issued, which is when the promises must hold: the
// deployer may end before it sends it, and then sends it as it starts again.
func (w *world) intend(c rollout.Command) {
	if w.ops[c.OpID] != nil {
		return
	}
	op := &operation{command: c}
	for _, id := range c.Instances {
		op.at = append(op.at, w.byID[id])
	}
	w.ops[c.OpID] = op
	w.check(op)
	for _, x := range op.at {
		op.was = append(op.was, mark{x.touched, x.passed})
		switch c.Kind {
		case rollout.CommandUpdate, rollout.CommandRestart, rollout.CommandRollback, rollout.CommandStop:
			x.touched, x.tried, x.changing, x.told, x.passed = true, true, true, false, false
		}
	}
	w.recount(op.at...)
}

// execute is a command reaching the world. An operation that was begun is
// followed, not begun again.
func (w *world) execute(c rollout.Command) {
	op := w.ops[c.OpID]
	op.follower = w.deployer
	if op.begun {
		if op.ended {
			w.push(time.Millisecond, item{deployer: w.deployer, answers: op})
		}
		return
	}
	for _, x := range op.at {
		if old := x.busy; old != nil && old.follower != w.deployer && (old.command.Kind == rollout.CommandWatch || old.command.Kind == rollout.CommandPrepare) {
			old.ended, x.busy = true, nil // the agent breaks off what a superseded deployer only looks for
			w.recount(x)
		}
		if x.busy != nil && !x.silent {
			// As deployer.submit does: what an earlier deployer began ends first.
			op.waited = true
			x.waiting = append(x.waiting, op)
			return
		}
	}
	w.start(op)
}

// start begins an operation and says when it ends.
func (w *world) start(op *operation) {
	c := op.command
	w.begin(op)
	for _, x := range op.at {
		for _, f := range w.options.Faults {
			if f.Instance == x.id && f.Command == c.Kind && f.Silent {
				x.silent = true
				w.recount(x)
			}
		}
		if x.silent {
			return
		}
	}
	w.push(w.latency(c), item{ends: op})
}

// begin returns what an operation does at once.
func (w *world) begin(op *operation) {
	w.begun++
	op.begun = true
	for _, x := range op.at {
		x.busy = op
		switch op.command.Kind {
		case rollout.CommandUpdate, rollout.CommandRestart, rollout.CommandRollback, rollout.CommandStop:
			// The agent compares with what runs, and touches nothing that is as wanted.
			op.nothing = op.command.Kind == rollout.CommandUpdate && !x.unfinished && x.active == op.command.Generation && x.stopped == x.held ||
				op.command.Kind == rollout.CommandStop && (x.stopped || x.active == "")
			if op.nothing {
				x.changing = op.command.Kind == rollout.CommandStop
				break
			}
			x.healthy = false
			x.changes++
			if !x.unfinished {
				x.unfinished, x.before, x.preStarted = true, x.active, false
			}
		}
		w.recount(x)
		if x.spec != nil {
			g := &w.groups[x.group]
			g.LowestAvailable = min(g.LowestAvailable, w.of[x.group][serves])
			g.MaxInFlight = max(g.MaxInFlight, w.of[x.group][away])
		}
	}
}

// end returns what an operation comes to.
func (w *world) end(op *operation) {
	if op.ended {
		return
	}
	op.ended = true
	for _, x := range op.at {
		x.busy = nil
	}
	op.err = w.fate(op)
	for _, x := range op.at {
		w.finish(op, x)
	}
	w.recount(op.at...)
	for _, x := range op.at {
		waiting := x.waiting
		x.waiting = nil
		if op.follower != w.deployer && w.options.Replan && !slices.ContainsFunc(waiting, w.goesOn) {
			x.changing = false // nobody continues it
			w.recount(x)
		}
		for _, next := range waiting {
			if next.follower == w.deployer && !next.begun {
				w.execute(next.command)
			}
		}
	}
	if op.follower == w.deployer {
		w.push(time.Millisecond, item{deployer: w.deployer, answers: op})
		return
	}
	for _, x := range op.at { // nobody waits for the answer, but agents tell how they are
		w.push(time.Millisecond, item{deployer: w.deployer, heartbeat: x})
	}
}

// goesOn tells whether an operation that waits changes what the one before it
// has changed.
func (w *world) goesOn(next *operation) bool {
	switch next.command.Kind {
	case rollout.CommandPrepare, rollout.CommandWatch, rollout.CommandPostDeploy:
		return false
	}
	return next.follower == w.deployer
}

func (w *world) finish(op *operation, x *instance) {
	interrupted := op.err != nil && op.err.Code == api.CodeInterrupted
	switch op.command.Kind {
	case rollout.CommandPrepare:
		if op.err == nil {
			x.staged = op.command.Generation
		} else if !interrupted {
			x.changing = false // its VM was replaced, and that is as far as it gets
		}
	case rollout.CommandUpdate:
		if op.nothing && op.err == nil {
			x.passed, x.changing = true, false
			break
		}
		if op.stage != StageDrain && !interrupted {
			x.preStarted = x.preStarted || !x.held
			if x.active != op.command.Generation {
				x.previous, x.active = x.active, op.command.Generation
			}
		}
		x.healthy, x.passed = op.err == nil && !op.command.Hold, op.err == nil
		x.unfinished, x.stopped = op.err != nil, op.command.Hold
		x.changing = interrupted
	case rollout.CommandRestart:
		x.healthy, x.passed, x.unfinished = op.err == nil, op.err == nil, op.err != nil
		x.changing = interrupted
	case rollout.CommandRollback:
		if op.err == nil {
			x.active, x.healthy = op.command.Generation, op.command.Generation != "" && !op.command.Hold
			x.stopped, x.unfinished = op.command.Generation == "" || op.command.Hold, false
		}
		x.changing = interrupted
	case rollout.CommandPostDeploy:
		if op.err == nil {
			x.postDeploys++
		}
	case rollout.CommandWatch:
		x.healthy = x.healthy && (op.err == nil || interrupted)
	case rollout.CommandStop:
		x.stopped = op.err == nil
		if !interrupted && (op.err != nil || x.spec == nil) {
			x.changing = false
		}
	case rollout.CommandReplaceVM:
		if op.err == nil {
			x.staged, x.active, x.previous, x.stopped, x.replaced = "", "", "", false, true
		} else if !interrupted {
			x.changing = false
		}
	case rollout.CommandDeleteVM:
		x.deleted = op.err == nil
	}
}

// fate returns how an operation ends: by a fault, a bad generation, the end of the
// agent, or well.
func (w *world) fate(op *operation) *api.Error {
	failed := func(format string, args ...any) *api.Error {
		return &api.Error{Code: api.CodeFailed, Message: fmt.Sprintf(format, args...)}
	}
	c := op.command
	for _, x := range op.at {
		for _, f := range w.options.Faults {
			if f.Instance == x.id && f.Command == c.Kind {
				op.stage = f.Stage
				return failed("simulated fault: %s", strings.TrimSuffix(fmt.Sprintf("%s of %s fails in %s", c.Kind, x.id, f.Stage), " in "))
			}
		}
		if c.Kind == rollout.CommandRollback && c.Generation != "" && x.preStarted && w.irreversible(x) {
			return &api.Error{Code: api.CodeIrreversible, Message: "simulated pre_start has run"}
		}
		engine := c.Kind == rollout.CommandReplaceVM || c.Kind == rollout.CommandDeleteVM
		if !engine && w.chance(c.OpID, "agent ends") < uint64(w.options.AgentEnds) && x.interrupts < 2 {
			x.interrupts++
			return &api.Error{Code: api.CodeInterrupted, Message: "simulated end of the agent"}
		}
		x.interrupts = 0
		if (c.Kind == rollout.CommandUpdate || c.Kind == rollout.CommandWatch) && slices.Contains(w.options.Bad, c.Generation) && !c.Hold {
			return failed("simulated bad generation %s does not become healthy", c.Generation)
		}
	}
	return nil
}
