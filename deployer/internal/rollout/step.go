package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/manifests"
)

// attempts is the number of times that an operation is begun which its agent's own end interrupts.
const attempts = 3

// Step takes an event at a time to the next state and the commands to carry
// out once that state is saved. The state given is not changed. An event that
// no longer matters (an answer after the time-out, anything after the end)
// leaves the state as it is.
func Step(s State, e Event, now time.Time) (State, []Command) {
	m := NewMachine(s)
	commands := m.Step(e, now)
	return m.m.State, commands
}

// Machine is a rollout that is stepped in place: its steps are those of Step,
// at a cost that does not grow with the number of instances.
type Machine struct{ m machine }

// NewMachine continues a rollout from a state, which it copies.
func NewMachine(s State) *Machine {
	m := &Machine{machine{State: s.clone()}}
	m.m.index = newIndex(&m.m.State)
	for at, p := range m.m.instances() {
		m.m.note(at)
		m.m.places[p.ID] = at
		if p.Running.OpID != "" {
			m.m.operations[p.Running.OpID] = append(m.m.operations[p.Running.OpID], at)
		}
		m.m.expect(p.Running.Deadline, at)
	}
	for g := range m.m.Groups {
		m.m.expect(m.m.Groups[g].BlockedUntil, place{group: g, index: -1})
	}
	m.m.stale.fill(len(m.m.Groups))
	return m
}

// Step takes an event to the commands to carry out once the state is saved.
func (x *Machine) Step(e Event, now time.Time) []Command {
	m := &x.m
	if m.Outcome != "" && (m.Outcome != OutcomeInterrupted || e.Kind != EventStart) {
		return nil
	}
	m.now, m.commands, m.issued = now.Round(0).UTC(), nil, map[string]int{}
	m.handle(e)
	m.expire()
	m.advance()
	return m.commands
}

// State returns a copy of the rollout as it stands.
func (x *Machine) State() State { return x.m.State.clone() }

// Outcome is empty as long as the rollout runs.
func (x *Machine) Outcome() Outcome { return x.m.Outcome }

// Paused reports whether an operator has asked to begin nothing new.
func (x *Machine) Paused() bool { return x.m.State.Paused }

// NextDeadline returns when EventTick is owed, zero if never.
func (x *Machine) NextDeadline() time.Time {
	d, _ := x.m.earliest(&x.m.State)
	return d.when
}

// machine is a rollout's state, its index, and the step in the making.
type machine struct {
	State
	*index
	now      time.Time
	commands []Command
	issued   map[string]int // operation id to its place among commands
}

// note brings the index up to date with an instance. It follows each change.
func (m *machine) note(at place) {
	if at.removal {
		m.put(at, judgeRemoved(m.progress(at)))
		return
	}
	g := m.Plan.Groups[at.group]
	m.put(at, judge(m.progress(at), g.Instances[at.index], g))
}

// reconsider has all groups decided about anew.
func (m *machine) reconsider() { m.stale.fill(len(m.Groups)) }

func (m *machine) handle(e Event) {
	switch e.Kind {
	case EventStart:
		m.Interrupted, m.Outcome = false, ""
		m.forgetBlocked() // health is learnt anew
		for at, p := range m.instances() {
			if healthy, asked := e.Found[p.ID]; asked && !p.InFlight { // in flight its command decides
				p.Healthy = healthy
				m.note(at)
			}
			if p.Running.Kind != "" {
				m.issue(p.Running.Kind, p.Running.OpID, p.Running.Attempt, at)
			}
		}
	case EventInterrupt:
		m.Interrupted = true
		m.forgetBlocked() // nobody waits for health now
	case EventPause, EventResume:
		m.Paused = e.Kind == EventPause
		m.forgetBlocked() // nobody waits for health now, or the wait begins anew
	case EventDone:
		for _, at := range m.runningOperation(e.OpID) {
			m.done(at)
		}
	case EventFailed:
		m.failed(e)
	case EventHealthy, EventSick:
		if at, known := m.places[e.Instance]; known && !m.progress(at).InFlight {
			m.progress(at).Healthy = e.Kind == EventHealthy
			m.note(at)
		}
	case EventLost:
		if at, known := m.places[e.Instance]; known {
			m.lost(at)
		}
	}
}

// forgetBlocked ends all waits for health.
func (m *machine) forgetBlocked() {
	for g := range m.Groups {
		m.Groups[g].BlockedUntil = time.Time{}
	}
	m.reconsider()
}

// runningOperation returns the instances that run an operation, in the order of
// the plan.
func (m *machine) runningOperation(opID string) []place {
	if opID == "" {
		return nil
	}
	places := slices.DeleteFunc(slices.Clone(m.operations[opID]), func(at place) bool { return m.progress(at).Running.OpID != opID })
	slices.SortFunc(places, place.compare)
	return slices.Compact(places)
}

// lost takes up that the agent of an instance is silent.
func (m *machine) lost(at place) {
	p := m.progress(at)
	if p.Running.Kind == CommandReplaceVM || p.Running.Kind == CommandDeleteVM {
		return // silence is what is expected of a VM that is being deleted
	}
	p.Healthy = false
	m.note(at)
	if p.Running.Kind != "" || p.Status == StatusPending || p.Status == StatusPrepared {
		m.fail(at, p.Running.Kind, &api.Error{Code: api.CodeInternal,
			Message: "agent does not answer; find out whether its VM is there, then apply again"}, false)
	}
}

// expire fails what has not been answered in time.
func (m *machine) expire() {
	var expired []place
	for {
		d, any := m.earliest(&m.State)
		if !any || m.now.Before(d.when) {
			break
		}
		m.removeEarliest()
		expired = append(expired, d.at)
	}
	slices.SortFunc(expired, place.compare)
	expired = slices.Compact(expired) // a command issued again at the same time has two
	for _, at := range expired {
		if at.index < 0 {
			continue
		}
		if kind := m.progress(at).Running.Kind; kind != "" {
			m.fail(at, kind, &api.Error{Code: api.CodeInternal,
				Message: fmt.Sprintf("no answer to %s within %s", kind, m.timeout(kind, at))}, true)
		}
	}
	for _, at := range expired {
		if at.index < 0 {
			m.Groups[at.group].BlockedUntil = time.Time{}
			m.failBlocked(at.group)
		}
	}
}

// failBlocked fails a group to which health has not returned in time: its
// canaries if they are what holds it, they have shown that the digest is bad.
func (m *machine) failBlocked(g int) {
	spec, group := m.Plan.Groups[g], &m.Groups[g]
	canaries := false
	for i := range group.Instances {
		if p := &group.Instances[i]; p.Canary && isUpdated(*p) && !p.Healthy {
			canaries = true
			m.fail(place{group: g, index: i}, CommandWatch, &api.Error{Code: api.CodeFailed,
				Message: "canary fell sick after it had passed, and did not recover"}, true)
		}
	}
	if canaries {
		return
	}
	group.Failure = &Failure{Group: spec.Name, Digest: spec.Digest, At: m.now, Error: &api.Error{
		Code: api.CodeFailed,
		Message: fmt.Sprintf("cannot continue to update %s: at least %d of its %d instances must stay healthy, and %d are (not: %s); repair them, then apply again",
			spec.Name, spec.Policy.MinAvailable, len(spec.Instances), m.count(g, factAvailable), m.sick(g))}}
	m.stop(spec.Policy)
}

// done records the success of the command that an instance was running.
func (m *machine) done(at place) {
	p := m.progress(at)
	kind := p.Running.Kind
	p.Running = Running{}
	switch kind {
	case CommandPrepare:
		p.Status = StatusPrepared
	case CommandStop:
		p.Status, p.Healthy = StatusStopped, false
		p.InFlight = !at.removal
	case CommandReplaceVM:
		p.Status = StatusReplaced
	case CommandUpdate, CommandRestart:
		p.Status, p.Healthy, p.InFlight = StatusUpdated, !m.instance(at).Held, false
	case CommandPostDeploy:
		p.PostDeployed = true
	case CommandWatch:
		p.Healthy, p.Watched = true, true
	case CommandRollback:
		p.Status, p.InFlight = StatusRolledBack, false
		p.Healthy = m.instance(at).Previous != "" && !m.instance(at).Held
	case CommandDeleteVM:
		p.Status = StatusDeleted
	}
	m.note(at)
}

// failed records the failure that an agent, or Terraform, reported.
func (m *machine) failed(e Event) {
	err := e.Error
	if err == nil {
		err = &api.Error{Code: api.CodeInternal, Message: "failed without saying why"}
	}
	var again []place
	for _, at := range m.runningOperation(e.OpID) {
		running := m.progress(at).Running
		switch {
		case err.Code == api.CodeStaleEpoch:
			m.Outcome = OutcomeSuperseded
			return
		case err.Code == api.CodeInterrupted && running.Attempt < attempts:
			again = append(again, at)
		default:
			m.fail(at, running.Kind, err, true)
		}
	}
	if len(again) > 0 {
		running := m.progress(again[0]).Running
		m.begin(running.Kind, running.Attempt+1, again...)
	}
}

// fail records that an instance failed, in a command or (if kind is empty)
// before any, and starts what its group's policy asks for. It cannot be brought
// back unless its agent is reachable.
func (m *machine) fail(at place, kind CommandKind, err *api.Error, reachable bool) {
	defer m.note(at)
	p := m.progress(at)
	p.Running = Running{}
	f := &Failure{Instance: p.ID, Command: kind, Error: err, At: m.now}
	var policy Policy
	if at.removal {
		f.Group = m.Plan.Removals[at.group].Group
	} else {
		g := m.Plan.Groups[at.group]
		f.Group, f.Digest, f.Generation = g.Name, g.Digest, g.Instances[at.index].Generation
		policy = g.Policy
	}
	if kind == CommandPostDeploy {
		p.Failure = f // it is as it shall be all the same, and the others go on
		return
	}
	p.Status = StatusFailed
	if kind == CommandRollback {
		p.RollbackFailure, p.InFlight, p.Healthy = f, false, false
		m.Failing = true
		return
	}
	p.Failure = f
	if m.Phase == PhasePrepare {
		return // the others are still prepared, so that all problems are shown at once
	}
	p.Healthy = p.Healthy && !p.InFlight && kind != CommandWatch
	p.InFlight = false
	m.stop(policy)
	back := policy.OnFailure == manifests.OnFailureRollback || policy.OnFailure == manifests.OnFailureRollbackAll
	beside := !at.removal && m.instance(at).Beside // the way back is over its old VM, which runs
	switch kind {
	case CommandUpdate, CommandWatch, CommandStop, CommandReplaceVM, CommandPrepare:
		if back && (beside || reachable && kind != CommandReplaceVM && kind != CommandPrepare) {
			p.OwesRollback = true
			m.note(at)
			m.rollBack(at.group)
		}
	}
}

// rollBack begins the rollbacks that instances of a group owe and that may begin.
func (m *machine) rollBack(g int) {
	spec, part := m.Plan.Groups[g], &m.groups[g]
	if part.facts[factOwesRollback].n == 0 {
		return
	}
	for i := range part.facts[factOwesRollback].members() {
		if spec.FirstDeploy || m.count(g, factInFlight) < spec.Policy.MaxInFlight {
			at := place{group: g, index: i}
			m.progress(at).OwesRollback = false
			m.begin(CommandRollback, 1, at)
		}
	}
}

// stop begins nothing new any more.
func (m *machine) stop(policy Policy) {
	m.Failing = true
	m.RevertAll = m.RevertAll || policy.OnFailure == manifests.OnFailureRollbackAll
}

// begin issues a command to one instance, or one command to several.
func (m *machine) begin(kind CommandKind, attempt int, at ...place) {
	id := OpID(m.Plan.ID, m.progress(at[0]).ID, kind, attempt)
	for _, a := range at {
		p := m.progress(a)
		switch kind {
		case CommandStop, CommandUpdate, CommandRollback:
			p.InFlight, p.Touched = true, true
		case CommandRestart:
			p.InFlight = true
		}
		m.issue(kind, id, attempt, a)
	}
}

// beginVMs issues a command for a batch of VMs.
func (m *machine) beginVMs(kind CommandKind, batch []place) {
	m.VMRuns++
	id := m.Plan.ID + "." + string(kind) + "." + strconv.Itoa(m.VMRuns)
	for _, at := range batch {
		m.issue(kind, id, 1, at)
	}
}

// issue notes that an instance runs a command and adds the command, or adds
// the instance to the batch that the command is for.
func (m *machine) issue(kind CommandKind, opID string, attempt int, at place) {
	timeout := m.timeout(kind, at)
	p := m.progress(at)
	p.Running = Running{Kind: kind, OpID: opID, Attempt: attempt, Deadline: m.now.Add(timeout)}
	m.note(at)
	m.operations[opID] = append(m.operations[opID], at)
	m.expect(p.Running.Deadline, at)
	if i, known := m.issued[opID]; known {
		m.commands[i].Instances = append(m.commands[i].Instances, p.ID)
		return
	}
	c := Command{Kind: kind, OpID: opID, Instances: []string{p.ID}, Timeout: timeout}
	switch {
	case at.removal:
		c.Next = m.Plan.Removals[at.group].Next
	case kind == CommandStop:
		c.Next = api.NextRecreate
	case kind == CommandPrepare:
		c.Generation = m.instance(at).Generation
	case kind == CommandUpdate, kind == CommandRestart, kind == CommandWatch, kind == CommandRollback:
		g := m.Plan.Groups[at.group]
		c.Generation = g.Instances[at.index].Generation
		c.MinHealthy, c.Deadline = g.Policy.minHealthy(), g.Policy.deadline()
		c.Hold = g.Instances[at.index].Held
		if kind == CommandUpdate && g.FirstDeploy {
			c.MinHealthy = 0 // the watch at the end is for all
		}
		if kind == CommandRollback {
			c.Generation = g.Instances[at.index].Previous
		}
	}
	m.issued[opID] = len(m.commands)
	m.commands = append(m.commands, c)
}

// timeout returns the time that the machine waits for the answer to a command.
func (m *machine) timeout(kind CommandKind, at place) time.Duration {
	t := m.Plan.Timeouts
	switch kind {
	case CommandPrepare:
		return t.Prepare
	case CommandStop, CommandPostDeploy:
		return t.Change + t.Answer
	case CommandReplaceVM, CommandDeleteVM:
		return t.VM
	}
	wait := m.Plan.Groups[at.group].Policy.deadline() + t.Answer
	if kind == CommandWatch {
		return wait
	}
	return t.Change + wait
}

func (m *machine) instance(at place) Instance { return m.Plan.Groups[at.group].Instances[at.index] }

// compare orders places as the plan does.
func (at place) compare(other place) int {
	if at.removal != other.removal {
		if at.removal {
			return 1
		}
		return -1
	}
	return cmp.Or(cmp.Compare(at.group, other.group), cmp.Compare(at.index, other.index))
}
