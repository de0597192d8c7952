package rollout

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/manifests"
)

// attempts is how often an operation is begun that its agent's own end interrupts.
const attempts = 3

// Step takes an event at a time to the next state and the commands to carry
// out once that state is saved. The state given is not changed. An event that
// no longer matters (an answer after the time-out, anything after the end)
// leaves the state as it is.
func Step(s State, e Event, now time.Time) (State, []Command) {
	if s.Outcome != "" && (s.Outcome != OutcomeInterrupted || e.Kind != EventStart) {
		return s, nil
	}
	m := machine{State: s.clone(), now: now.Round(0).UTC()}
	m.handle(e)
	m.expire()
	m.advance()
	return m.State, m.commands
}

// machine is one step in the making.
type machine struct {
	State
	now      time.Time
	commands []Command
}

func (m *machine) handle(e Event) {
	switch e.Kind {
	case EventStart:
		m.Interrupted, m.Outcome = false, ""
		for g := range m.Groups {
			m.Groups[g].BlockedUntil = time.Time{} // health is learnt anew
		}
		for at, p := range m.instances() {
			if healthy, asked := e.Found[p.ID]; asked && !p.InFlight { // in flight its command decides
				p.Healthy = healthy
			}
			if p.Running.Kind != "" {
				m.issue(p.Running.Kind, p.Running.OpID, p.Running.Attempt, at)
			}
		}
	case EventInterrupt, EventPause, EventResume:
		if e.Kind == EventInterrupt {
			m.Interrupted = true
		} else {
			m.Paused = e.Kind == EventPause
		}
		for g := range m.Groups {
			m.Groups[g].BlockedUntil = time.Time{} // nobody waits for health now, or anew
		}
	case EventDone:
		for at, p := range m.instances() {
			if p.Running.OpID == e.OpID && e.OpID != "" {
				m.done(at, p)
			}
		}
	case EventFailed:
		m.failed(e)
	case EventHealthy, EventSick:
		for _, p := range m.instances() {
			if p.ID == e.Instance && !p.InFlight {
				p.Healthy = e.Kind == EventHealthy
			}
		}
	case EventLost:
		for at, p := range m.instances() {
			vm := p.Running.Kind == CommandReplaceVM || p.Running.Kind == CommandDeleteVM
			if p.ID != e.Instance || vm { // silence is what is expected of a VM that goes away
				continue
			}
			p.Healthy = false
			owed := p.Status == StatusPending || p.Status == StatusPrepared
			if p.Running.Kind != "" || owed {
				m.fail(at, p, p.Running.Kind, &api.Error{Code: api.CodeInternal,
					Message: "agent does not answer; find out whether its VM is there, then apply again"}, false)
			}
		}
	}
}

// expire fails what has not been answered in time.
func (m *machine) expire() {
	for at, p := range m.instances() {
		if d := p.Running.Deadline; !d.IsZero() && !m.now.Before(d) {
			kind := p.Running.Kind
			m.fail(at, p, kind, &api.Error{Code: api.CodeInternal,
				Message: fmt.Sprintf("no answer to %s within %s", kind, m.timeout(kind, at))}, true)
		}
	}
	for g := range m.Groups {
		if until := m.Groups[g].BlockedUntil; !until.IsZero() && !m.now.Before(until) {
			m.Groups[g].BlockedUntil = time.Time{}
			m.failBlocked(g)
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
			m.fail(place{group: g, index: i}, p, CommandWatch, &api.Error{Code: api.CodeFailed,
				Message: "canary fell sick after it had passed, and did not recover"}, true)
		}
	}
	if canaries {
		return
	}
	group.Failure = &Failure{Group: spec.Name, Digest: spec.Digest, At: m.now, Error: &api.Error{
		Code: api.CodeFailed,
		Message: fmt.Sprintf("cannot go on updating %s: at least %d of its %d instances must stay healthy, and %d are (not: %s); bring them back, then apply again",
			spec.Name, spec.Policy.MinAvailable, len(spec.Instances), m.available(g), m.sick(g))}}
	m.stop(spec.Policy)
}

// done records the success of the command that an instance was running.
func (m *machine) done(at place, p *InstanceProgress) {
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
}

// failed records the failure that an agent, or Terraform, reported.
func (m *machine) failed(e Event) {
	err := e.Error
	if err == nil {
		err = &api.Error{Code: api.CodeInternal, Message: "failed without saying why"}
	}
	var again []place
	for at, p := range m.instances() {
		if p.Running.OpID != e.OpID || e.OpID == "" {
			continue
		}
		switch {
		case err.Code == api.CodeStaleEpoch:
			m.Outcome = OutcomeSuperseded
			return
		case err.Code == api.CodeInterrupted && p.Running.Attempt < attempts:
			again = append(again, at)
		default:
			m.fail(at, p, p.Running.Kind, err, true)
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
func (m *machine) fail(at place, p *InstanceProgress, kind CommandKind, err *api.Error, reachable bool) {
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
			m.rollBack(at.group)
		}
	}
}

// rollBack begins the rollbacks that instances of a group owe and that may begin.
func (m *machine) rollBack(g int) {
	spec := m.Plan.Groups[g]
	for i := range m.Groups[g].Instances {
		p := &m.Groups[g].Instances[i]
		if p.OwesRollback && (spec.FirstDeploy || m.count(g, inFlight) < spec.Policy.MaxInFlight) {
			p.OwesRollback = false
			m.begin(CommandRollback, 1, place{group: g, index: i})
		}
	}
}

// stop begins nothing new any more.
func (m *machine) stop(policy Policy) {
	m.Failing = true
	m.RevertAll = m.RevertAll || policy.OnFailure == manifests.OnFailureRollbackAll
}

// advance begins whatever may begin now.
func (m *machine) advance() {
	for m.Outcome == "" {
		var next Phase
		switch m.Phase {
		case PhasePrepare:
			next = m.prepare()
		case PhaseUpdate:
			next = m.update()
		case PhaseWatch:
			next = m.watch()
		case PhaseRemove:
			next = m.remove()
		case PhasePostDeploy:
			next = m.postDeploy()
		case PhaseRevert:
			next = m.revert()
		}
		if next == m.Phase {
			return
		}
		m.Phase = next
	}
}

// end is the last thing a phase does.
func (m *machine) end(o Outcome) Phase {
	m.Outcome = o
	return m.Phase
}

// halted: nothing new may begin, now or, if it is paused, until it goes on.
func (m *machine) halted() bool { return m.Failing || m.Interrupted || m.Paused }

// endFailed leaves the phase in which something failed.
func (m *machine) endFailed() Phase {
	if m.RevertAll {
		return PhaseRevert
	}
	return m.end(OutcomeFailed)
}

func (m *machine) prepare() Phase {
	running, failed := 0, false
	for _, p := range m.instances() {
		if p.Running.Kind != "" {
			running++
		}
		failed = failed || p.Status == StatusFailed
	}
	left := false
	for at, p := range m.instances() {
		if at.removal || p.Status != StatusPending || p.Running.Kind != "" || !m.instance(at).prepares() {
			continue
		}
		if m.Interrupted || m.Paused || running >= m.Plan.Parallel {
			left = true
			continue
		}
		m.begin(CommandPrepare, 1, at)
		running++
	}
	switch {
	case running > 0:
		return PhasePrepare
	case failed:
		return m.end(OutcomeFailed)
	case left && m.Interrupted:
		return m.end(OutcomeInterrupted)
	case left: // paused
		return PhasePrepare
	}
	return PhaseUpdate
}

// prepares: it is staged before anything is touched. A VM that goes away need
// not be, and a restart has nothing to stage.
func (x Instance) prepares() bool { return x.Action == ActionCreate || x.Action == ActionUpdate }

func (m *machine) update() Phase {
	if !m.halted() {
		for g := range m.Groups {
			if m.mayStart(g) {
				m.startGroup(g)
			}
		}
	}
	m.continueRecreates()
	owed, busy := false, false
	for g := range m.Groups {
		m.rollBack(g)
		busy = busy || m.count(g, inFlight) > 0
		owed = owed || m.count(g, isOwed) > 0
	}
	switch {
	case busy:
		return PhaseUpdate
	case m.Failing:
		return m.endFailed()
	case owed && m.Interrupted:
		return m.end(OutcomeInterrupted)
	case owed:
		return PhaseUpdate // paused, or blocked until health returns or BlockedUntil
	}
	return PhaseWatch
}

// mayStart: all groups that g requires are done.
func (m *machine) mayStart(g int) bool {
	for other := range m.Groups {
		if slices.Contains(m.Plan.Groups[g].Requires, m.Plan.Groups[other].Name) &&
			m.count(other, isOwed)+m.count(other, inFlight) > 0 {
			return false
		}
	}
	return true
}

// startGroup begins as many instances of a group as may go now.
func (m *machine) startGroup(g int) {
	m.Groups[g].BlockedUntil = m.blocked(g, m.startInstances(g))
}

func (m *machine) startInstances(g int) (started bool) {
	spec, group := m.Plan.Groups[g], &m.Groups[g]
	for {
		next, canary := m.candidate(g)
		if next < 0 {
			return started
		}
		started = true
		p := &group.Instances[next]
		p.Canary = canary
		if spec.Instances[next].Beside {
			p.Status, p.InFlight, p.Touched = StatusBeside, true, true
			continue
		}
		kind := CommandUpdate
		switch spec.Instances[next].Action {
		case ActionRecreate:
			kind = CommandStop
		case ActionRestart:
			kind = CommandRestart
		}
		m.begin(kind, 1, place{group: g, index: next})
	}
}

// blocked is until when a group that cannot go on waits for health to return,
// zero if it can.
func (m *machine) blocked(g int, started bool) time.Time {
	group, policy := m.Groups[g], m.Plan.Groups[g].Policy
	switch {
	case started || m.count(g, isOwed) == 0 || m.count(g, inFlight) > 0:
		return time.Time{}
	case !m.mayRecover(g):
		return m.now // nothing comes of waiting
	case group.BlockedUntil.IsZero():
		return m.now.Add(policy.deadline() + m.Plan.Timeouts.Answer)
	}
	return group.BlockedUntil
}

// mayRecover: an instance that does not serve may do so again by itself. One that
// an operator has stopped does not.
func (m *machine) mayRecover(g int) bool {
	for i, p := range m.Groups[g].Instances {
		if !p.Healthy && !p.InFlight && !m.Plan.Groups[g].Instances[i].Held {
			return true
		}
	}
	return false
}

// candidate is the instance of a group that goes next, -1 if none may go now,
// and whether it goes as a canary.
//
// What an earlier run has begun to change goes first. Then sick instances: they
// cost no availability, and waiting for them to recover could last for ever. Then
// zone by zone, by index; a zone begins when
// those before it are done.
func (m *machine) candidate(g int) (index int, canary bool) {
	spec, group := m.Plan.Groups[g], &m.Groups[g]
	if spec.FirstDeploy {
		return slices.IndexFunc(group.Instances, isOwed), false
	}
	if m.count(g, inFlight) >= spec.Policy.MaxInFlight {
		return -1, false
	}
	// As long as canaries are missing, nothing else goes.
	// One that passed and fell sick is not made up for by another: it holds the
	// rest until it recovers.
	canary = m.count(g, func(p InstanceProgress) bool { return p.Canary && isUpdated(p) && p.Healthy }) < spec.Policy.Canaries
	if canary {
		waiting := m.count(g, func(p InstanceProgress) bool { return p.Canary && (p.InFlight || isUpdated(p) && !p.Healthy) })
		passed := m.count(g, func(p InstanceProgress) bool { return p.Canary && isUpdated(p) && p.Healthy })
		if waiting+passed >= spec.Policy.Canaries {
			return -1, false
		}
		shows := false
		for i, p := range group.Instances {
			shows = shows || isOwed(p) && !spec.Instances[i].Held
		}
		switch {
		case !shows && waiting > 0:
			return -1, false
		case !shows: // what is left will not run, so it cannot show anything
			canary = false
		}
	}
	for i := range group.Instances {
		if spec.Instances[i].Begun && isOwed(group.Instances[i]) && !group.Instances[i].Healthy {
			return i, canary && !spec.Instances[i].Held
		}
	}
	may := func(i int) bool { return isOwed(group.Instances[i]) && !(canary && spec.Instances[i].Held) }
	var zones []string
	for _, x := range spec.Instances {
		if !slices.Contains(zones, x.AZ) {
			zones = append(zones, x.AZ)
		}
	}
	for _, zone := range zones {
		for i, p := range group.Instances {
			if spec.Instances[i].AZ == zone && may(i) && !p.Healthy {
				return i, canary
			}
		}
	}
	if m.available(g)-1 < spec.Policy.MinAvailable {
		return -1, false
	}
	for _, zone := range zones {
		busy := false
		for i, p := range group.Instances {
			if spec.Instances[i].AZ != zone {
				continue
			}
			if may(i) {
				return i, canary
			}
			busy = busy || p.InFlight
		}
		if busy {
			return -1, false
		}
	}
	return -1, false
}

// continueRecreates takes instances whose VM is replaced to their next step.
// VMs are replaced in batches, one run of Terraform at a time, once all that
// are being stopped for it have stopped.
func (m *machine) continueRecreates() {
	var ready []place
	wait := false
	for at, p := range m.instances() {
		if at.removal || !p.InFlight {
			continue
		}
		switch p.Running.Kind {
		case CommandStop, CommandReplaceVM:
			wait = true
		case "":
			switch p.Status {
			case StatusStopped, StatusBeside:
				ready = append(ready, at)
			case StatusReplaced:
				m.begin(CommandPrepare, 1, at)
			case StatusPrepared:
				m.begin(CommandUpdate, 1, at)
			}
		}
	}
	if len(ready) > 0 && !wait {
		m.beginVMs(CommandReplaceVM, ready)
	}
}

func (m *machine) watch() Phase {
	busy, unwatched := false, false
	for at, p := range m.instances() {
		if at.removal {
			continue
		}
		x := m.instance(at)
		owed := m.Plan.Groups[at.group].FirstDeploy && !p.Watched && isUpdated(*p) && !x.Exempt && !x.Held
		if owed && p.Running.Kind == "" && !m.halted() {
			m.begin(CommandWatch, 1, at)
		}
		unwatched = unwatched || owed
		busy = busy || p.Running.Kind != ""
	}
	switch {
	case busy:
		return PhaseWatch
	case m.Failing:
		return m.endFailed()
	case unwatched && m.Interrupted:
		return m.end(OutcomeInterrupted)
	case unwatched: // paused
		return PhaseWatch
	}
	return PhaseRemove
}

func (m *machine) remove() Phase {
	busy, owed := false, false
	var stopped []place
	for g, spec := range m.Plan.Removals {
		stopping := 0
		for _, p := range m.Removals[g].Instances {
			if p.Running.Kind != "" {
				stopping++
			}
		}
		for _, begun := range []bool{true, false} {
			for i, p := range m.Removals[g].Instances {
				at := place{true, g, i}
				if spec.Instances[i].Begun != begun {
					continue
				}
				switch p.Status {
				case StatusPending:
					if p.Running.Kind == "" && stopping < spec.MaxInFlight && !m.halted() && !m.needed(g) {
						m.begin(CommandStop, 1, at)
						stopping++
					}
					owed = true
				case StatusStopped:
					stopped = append(stopped, at)
					owed = true
				}
			}
		}
		busy = busy || stopping > 0
	}
	switch {
	case busy:
		return PhaseRemove
	case m.Failing:
		return m.end(OutcomeFailed)
	case !owed:
		return PhasePostDeploy
	case m.Interrupted:
		return m.end(OutcomeInterrupted)
	case m.Paused:
		return PhaseRemove
	}
	m.beginVMs(CommandDeleteVM, stopped)
	return PhaseRemove
}

// postDeploy runs the hooks of all instances of groups that changed, side by
// side. One that fails is reported; there is nothing to go back to.
func (m *machine) postDeploy() Phase {
	running, failed, owed := 0, false, false
	for _, p := range m.instances() {
		if p.Running.Kind != "" {
			running++
		}
		failed = failed || p.Failure != nil
	}
	for g := range m.Groups {
		if !m.postDeployOwed(g) {
			continue
		}
		for i, p := range m.Groups[g].Instances {
			if !m.Plan.Groups[g].Instances[i].runsPostDeploy() || p.PostDeployed || p.Failure != nil || p.Running.Kind != "" {
				continue
			}
			if m.Interrupted || m.Paused || running >= m.Plan.Parallel {
				owed = true
				continue
			}
			m.begin(CommandPostDeploy, 1, place{group: g, index: i})
			running++
		}
	}
	switch {
	case running > 0:
		return PhasePostDeploy
	case owed && m.Interrupted:
		return m.end(OutcomeInterrupted)
	case owed: // paused
		return PhasePostDeploy
	case failed:
		return m.end(OutcomeFailed)
	}
	return m.end(OutcomeDone)
}

// needed: instances that are to be removed and run still require the removal group g.
func (m *machine) needed(g int) bool {
	for other, spec := range m.Plan.Removals {
		if slices.Contains(spec.Requires, m.Plan.Removals[g].Group) &&
			slices.ContainsFunc(m.Removals[other].Instances, func(p InstanceProgress) bool { return p.Status == StatusPending }) {
			return true
		}
	}
	return false
}

// revert takes back everything that was touched, dependents first, in batches
// as it came. It stops short of taking a group below what must be available:
// then what serves is left as it is.
func (m *machine) revert() Phase {
	busy, left := false, false
	for g := len(m.Groups) - 1; g >= 0; g-- {
		spec := m.Plan.Groups[g]
		for i := len(spec.Instances) - 1; i >= 0; i-- {
			p := m.Groups[g].Instances[i]
			if !isToRevert(p) {
				continue
			}
			full := m.count(g, inFlight) >= spec.Policy.MaxInFlight
			short := p.Healthy && m.available(g)-1 < spec.Policy.MinAvailable
			if m.Interrupted || m.Paused || m.dependentsTouched(g) || !spec.FirstDeploy && (full || short) {
				left = true
				continue
			}
			m.begin(CommandRollback, 1, place{group: g, index: i})
		}
		busy = busy || m.count(g, inFlight) > 0
	}
	if busy {
		return PhaseRevert
	}
	if left && !m.Interrupted {
		if m.Paused {
			return PhaseRevert
		}
		m.noteLeft()
	}
	return m.end(OutcomeFailed)
}

// noteLeft says which instances a revert had to leave.
func (m *machine) noteLeft() {
	for g := range m.Groups {
		spec, group := m.Plan.Groups[g], &m.Groups[g]
		if group.Failure != nil || m.count(g, isToRevert) == 0 {
			continue
		}
		group.Failure = &Failure{Group: spec.Name, Digest: spec.Digest, At: m.now, Error: &api.Error{
			Code: api.CodeFailed,
			Message: fmt.Sprintf("did not take back %d instances of %s: too few are healthy, there or in a group that requires it; bring them back, then apply the earlier manifest",
				m.count(g, isToRevert), spec.Name)}}
	}
}

// dependentsTouched: a group that requires g has instances still to go back.
func (m *machine) dependentsTouched(g int) bool {
	for other, spec := range m.Plan.Groups {
		if slices.Contains(spec.Requires, m.Plan.Groups[g].Name) &&
			m.count(other, isToRevert)+m.count(other, inFlight) > 0 {
			return true
		}
	}
	return false
}

func inFlight(p InstanceProgress) bool { return p.InFlight }

// isOwed: its change has not begun.
func isOwed(p InstanceProgress) bool {
	return !p.InFlight && (p.Status == StatusPending || p.Status == StatusPrepared)
}

// isUpdated: it has what is wanted.
func isUpdated(p InstanceProgress) bool {
	return p.Status == StatusUpdated || p.Status == StatusUnchanged
}

func isToRevert(p InstanceProgress) bool { return p.Touched && !p.InFlight && isUpdated(p) }

func (m *machine) count(g int, which func(InstanceProgress) bool) int {
	n := 0
	for _, p := range m.Groups[g].Instances {
		if which(p) {
			n++
		}
	}
	return n
}

// available is how many instances of a group serve.
func (m *machine) available(g int) int {
	return m.count(g, func(p InstanceProgress) bool { return p.Healthy && !p.InFlight })
}

// sick names the instances of a group that do not serve.
func (m *machine) sick(g int) string {
	var ids []string
	for i, p := range m.Groups[g].Instances {
		switch x := m.Plan.Groups[g].Instances[i]; {
		case p.Healthy:
		case x.Held:
			ids = append(ids, p.ID+" (stopped by an operator)")
		case x.Exempt:
			ids = append(ids, p.ID+" (not touched by this run)")
		default:
			ids = append(ids, p.ID)
		}
	}
	return strings.Join(ids, ", ")
}

func (m *machine) instance(at place) Instance { return m.Plan.Groups[at.group].Instances[at.index] }

func (m *machine) progress(at place) *InstanceProgress {
	if at.removal {
		return &m.Removals[at.group].Instances[at.index]
	}
	return &m.Groups[at.group].Instances[at.index]
}

// begin issues a command to one instance.
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
	for i := range m.commands {
		if m.commands[i].OpID == opID {
			m.commands[i].Instances = append(m.commands[i].Instances, p.ID)
			return
		}
	}
	c := Command{Kind: kind, OpID: opID, Instances: []string{p.ID}, Timeout: timeout}
	switch {
	case at.removal:
		c.Next = m.Plan.Removals[at.group].Next
	case kind == CommandStop:
		c.Next = "recreate"
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
	m.commands = append(m.commands, c)
}

// timeout is how long the machine waits for the answer to a command.
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
