// Package simulate runs rollouts on virtual time: the production state machine
// (rollout.Step) over simulated agents and VMs, whose latencies and faults
// follow from a seed. The same plan, options and seed give the same run.
//
// While it runs, it holds the rollout to its promises with a bookkeeping of its
// own, made only of what reaches the simulated agents.
package simulate

import (
	"container/heap"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
)

// Options say what the simulated world does.
type Options struct {
	Seed uint64
	// Faults are commands that do not succeed.
	Faults []Fault
	// Bad are generations that never become healthy.
	Bad []string
	// Irreversible are groups whose pre_start is not compatible with a rollback.
	Irreversible []string
	// Health are changes of health from outside.
	Health []Health
	// Pauses are an operator's.
	Pauses []Pause
	// AgentEnds is the percentage of operations that the end of their agent
	// interrupts, at most twice in a row.
	AgentEnds int
	// Interrupt, if not 0, is the step before which the operator interrupts.
	Interrupt int
	// Kill, if set, says at each step, counted from 1, whether the deployer is
	// killed, and where. It starts again 5 s later: with all it had saved, or, if
	// Replan is set, as the next apply does, with what must outlive a run
	// (rollout.Memory) and a plan made of what is there then.
	Kill   func(step int) Kill
	Replan bool
	// Forget: the memory is lost with the killed deployer.
	Forget bool
	// Observe, if set, is told of each step.
	Observe func(at time.Duration, e rollout.Event, commands []rollout.Command)
}

// Fault is one command to one instance that fails or is never answered.
type Fault struct {
	Instance string
	Command  rollout.CommandKind
	// Stage is how far an update gets: StageDrain, StagePreStart; else it fails
	// when it waits for health.
	Stage  Stage
	Silent bool
}

// Stage is a part of an update.
type Stage string

const (
	StageDrain    Stage = "drain"     // nothing new is active yet
	StagePreStart Stage = "pre_start" // the new generation is active, nothing of it runs
)

// Moments are those of a fault's text, ParseFault.
func Moments() []string {
	var names []string
	for _, m := range moments {
		names = append(names, m.name)
	}
	return names
}

var moments = []struct {
	name    string
	command rollout.CommandKind
	stage   Stage
}{
	{"prepare", rollout.CommandPrepare, ""}, {"drain", rollout.CommandUpdate, StageDrain}, {"pre_start", rollout.CommandUpdate, StagePreStart},
	{"start", rollout.CommandUpdate, ""}, {"watch", rollout.CommandWatch, ""}, {"rollback", rollout.CommandRollback, ""},
	{"restart", rollout.CommandRestart, ""}, {"stop", rollout.CommandStop, ""}, {"replace", rollout.CommandReplaceVM, ""},
	{"delete", rollout.CommandDeleteVM, ""}, {"post_deploy", rollout.CommandPostDeploy, ""},
}

// ParseFault reads "router/3@start", or "router/3@start:silent" for an agent
// that does not answer.
func ParseFault(text string) (Fault, error) {
	instance, moment, _ := strings.Cut(text, "@")
	if _, _, err := api.SplitInstance(instance); err != nil {
		return Fault{}, fmt.Errorf("cannot read fault %q: %w", text, err)
	}
	moment, silent := strings.CutSuffix(moment, ":silent")
	for _, m := range moments {
		if m.name == moment {
			return Fault{Instance: instance, Command: m.command, Stage: m.stage, Silent: silent}, nil
		}
	}
	return Fault{}, fmt.Errorf("cannot read fault %q: want group/index@moment, where moment is one of %s", text, strings.Join(Moments(), ", "))
}

// Pause is an operator's: from At on, for For.
type Pause struct{ At, For time.Duration }

// Health is a change of an instance's health that no command causes.
type Health struct {
	At       time.Duration
	Instance string
	Healthy  bool
}

// Kill is where in a step the deployer is killed.
type Kill int

const (
	KillNever      Kill = iota
	KillBeforeSave      // the event is lost
	KillAfterSave       // no command is sent
	KillHalfSent        // some commands are sent
	KillAfterSend       // all are
)

// Report is how a simulated rollout went.
type Report struct {
	State    rollout.State
	Duration time.Duration // virtual
	Steps    int
	// Operations is how many were really begun by agents and Terraform.
	Operations int
	Groups     []GroupReport
	Instances  []InstanceReport
	// Broken lists every promise of the rollout that did not hold, with the
	// virtual time.
	Broken []string
}

// GroupReport is what a group went through.
type GroupReport struct {
	Name            string
	MaxInFlight     int // the most at a time
	LowestAvailable int
	Touched         int // instances
}

// InstanceReport is how an instance ended.
type InstanceReport struct {
	ID         string
	Generation string // active; empty: none
	Healthy    bool
	Deleted    bool
	// Unfinished: a change has begun and has not ended well.
	Unfinished bool
	// Before is what ran before that.
	Before string
	// Changes is how many operations touched its processes.
	Changes int
	// PostDeploys is how often its post_deploy hooks have passed.
	PostDeploys int
}

// restart is how long a killed deployer is away.
const restart = 5 * time.Second

// Run simulates a plan's rollout to its end.
func Run(p rollout.Plan, remembered rollout.Memory, o Options) (Report, error) {
	state, err := rollout.New(p, remembered)
	if err != nil {
		return Report{}, fmt.Errorf("cannot simulate: %w", err)
	}
	w := newWorld(state.Plan, remembered, o)
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
	for state.Outcome == "" {
		deadline := state.NextDeadline()
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
				break
			}
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
			state = w.step(state, rollout.Event{Kind: rollout.EventInterrupt})
			if w.now < w.awake {
				continue // killed: nobody hears e
			}
		}
		state = w.step(state, e)
	}
	return w.report(state), nil
}

// memoryKept tells whether the deployer that starts plans anew.
func (w *world) memoryKept() bool { return w.options.Replan && w.deployer > 0 }

// engineRuns tells whether a run of the engine that an earlier deployer began
// has not ended.
func (w *world) engineRuns() bool {
	return slices.ContainsFunc(w.instances, func(x *instance) bool {
		return x.busy != nil && (x.busy.command.Kind == rollout.CommandReplaceVM || x.busy.command.Kind == rollout.CommandDeleteVM)
	})
}

// step takes one event to the machine, as rollout.Driver does, and its commands
// to the world, unless the deployer is killed in between.
func (w *world) step(s rollout.State, e rollout.Event) rollout.State {
	kill := KillNever
	if w.options.Kill != nil {
		kill = w.options.Kill(w.steps)
	}
	if kill == KillBeforeSave {
		return w.kill(s)
	}
	paused := s.Paused && e.Kind != rollout.EventResume
	next, commands := rollout.Step(s, e, epoch.Add(w.now))
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
		return w.kill(next)
	}
	return next
}

// kill ends the deployer; what it saved is what the next one reads.
func (w *world) kill(saved rollout.State) rollout.State {
	text, err := json.Marshal(saved)
	if err != nil {
		w.broken("state cannot be saved: %v", err)
		return saved
	}
	var read rollout.State
	if err := json.Unmarshal(text, &read); err != nil {
		w.broken("state cannot be read: %v", err)
		return saved
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
	return read
}

// replan is what the next deployer begins with: its plan is made of what is
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
	return state, true
}

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
	ops       map[string]*operation
	begun     int
	problems  []string
}

// instance is a VM with its agent. What is in it is the truth of the
// simulation; the machine learns of it by answers only.
type instance struct {
	id          string
	spec        *rollout.Instance // nil for removals
	group       int               // in the plan, of groups or removals
	staged      string            // generation
	active      string
	previous    string
	healthy     bool
	told        bool // healthy, as far as the deployer has been told
	silent      bool
	held        bool
	exempt      bool
	stopped     bool
	deleted     bool
	replaced    bool   // has another VM
	unfinished  bool   // a change has begun and has not ended well
	before      string // what was active as it began
	changes     int    // operations that touched its processes
	preStarted  bool   // its pre_start has run since
	postDeploys int
	waiting     []*operation // for the end of what an earlier deployer began
	touched     bool
	tried       bool // touched by the present deployer
	changing    bool // between the first command that touches it and the end of the last
	passed      bool // took its wanted generation and became healthy
	busy        *operation
	interrupts  int
}

// operation is a command that was begun.
type operation struct {
	command  rollout.Command
	at       []*instance
	begun    bool
	ended    bool
	err      *api.Error
	stage    Stage   // that it did not get beyond
	nothing  bool    // it found nothing to do
	waited   bool    // for the end of another, so it may take longer than it is waited for
	was      []marks // of the instances, before
	follower int     // the deployer that waits for the answer
}

// marks are what an instance is held for.
type marks struct{ touched, passed bool }

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
			x := &instance{id: spec.ID, spec: spec, group: g, active: spec.Previous, healthy: spec.Healthy, held: spec.Held, exempt: spec.Exempt}
			if spec.Action == rollout.ActionRestart {
				x.active = spec.Generation
			}
			if !spec.Exempt && spec.Action == rollout.ActionNone {
				x.active, x.previous, x.staged = spec.Generation, spec.Previous, spec.Generation
				x.passed = known.Digest == group.Digest && slices.Contains(known.Canaries, x.id)
			}
			add(x)
		}
		w.groups = append(w.groups, GroupReport{Name: group.Name, LowestAvailable: w.count(g, serves)})
	}
	for g, removal := range p.Removals {
		for _, r := range removal.Instances {
			add(&instance{id: r.ID, group: g, active: "old", healthy: !r.NoAgent, stopped: r.NoAgent})
		}
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
		op.was = append(op.was, marks{x.touched, x.passed})
		switch c.Kind {
		case rollout.CommandUpdate, rollout.CommandRestart, rollout.CommandRollback, rollout.CommandStop:
			x.touched, x.tried, x.changing, x.told, x.passed = true, true, true, false, false
		}
	}
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
			}
		}
		if x.silent {
			return
		}
	}
	w.push(w.latency(c), item{ends: op})
}

// begin is what an operation does at once.
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
		if x.spec != nil {
			g := &w.groups[x.group]
			g.LowestAvailable = min(g.LowestAvailable, w.count(x.group, serves))
			g.MaxInFlight = max(g.MaxInFlight, w.count(x.group, isAway))
		}
	}
}

// end is what an operation comes to.
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
	for _, x := range op.at {
		waiting := x.waiting
		x.waiting = nil
		if op.follower != w.deployer && w.options.Replan && !slices.ContainsFunc(waiting, w.goesOn) {
			x.changing = false // nobody goes on with it
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

// fate is how an operation ends: by a fault, a bad generation, the end of the
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

func (w *world) irreversible(x *instance) bool {
	return x.spec != nil && slices.Contains(w.options.Irreversible, w.plan.Groups[x.group].Name)
}

// latency of an operation: it follows from seed and operation alone, so it
// does not depend on what else happens.
func (w *world) latency(c rollout.Command) time.Duration {
	from, to := time.Second, 20*time.Second
	switch c.Kind {
	case rollout.CommandUpdate, rollout.CommandRestart, rollout.CommandRollback:
		to = 40 * time.Second
	case rollout.CommandWatch:
		from, to = c.MinHealthy, max(c.MinHealthy, c.Deadline)+1
	case rollout.CommandReplaceVM, rollout.CommandDeleteVM:
		from, to = 20*time.Second, 3*time.Minute
	}
	return from + time.Duration(w.hash(c.OpID, "latency")%uint64(to-from+1))
}

// chance is 0 to 99.
func (w *world) chance(of ...string) uint64 { return w.hash(of...) % 100 }

func (w *world) hash(of ...string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(strconv.FormatUint(w.options.Seed, 10)))
	for _, s := range of {
		h.Write([]byte{0})
		h.Write([]byte(s))
	}
	// FNV's low bits are poorly mixed for inputs that end alike.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd // finaliser of MurmurHash3, public domain, Austin Appleby
	x ^= x >> 33
	return x
}

func (w *world) report(s rollout.State) Report {
	r := Report{State: s, Duration: w.now, Steps: w.steps, Operations: w.begun, Broken: w.problems}
	for g := range w.groups {
		for _, x := range w.instances {
			if x.spec != nil && x.group == g && x.touched {
				w.groups[g].Touched++
			}
		}
	}
	r.Groups = w.groups
	for _, x := range w.instances {
		r.Instances = append(r.Instances, InstanceReport{
			ID: x.id, Generation: x.active, Healthy: x.healthy, Deleted: x.deleted, Unfinished: x.unfinished, Before: x.before, Changes: x.changes, PostDeploys: x.postDeploys,
		})
	}
	return r
}

// item is something that happens at a virtual time. With nothing set, the
// deployer starts.
type item struct {
	at       time.Duration
	sequence int
	ends     *operation
	health   *Health
	pause    int // one more, or one less
	// What the deployer hears; one that was killed does not.
	deployer  int
	answers   *operation
	heartbeat *instance
	pauses    bool // whether to pause
}

func (w *world) push(in time.Duration, it item) {
	w.pushed++
	it.at, it.sequence = w.now+in, w.pushed
	heap.Push(&w.queue, it)
}

// queue is a heap by time, then by sequence.
type queue []item

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].sequence < q[j].sequence
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(item)) }
func (q *queue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}
