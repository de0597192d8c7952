package rollout

import (
	"fmt"

	"github.com/clusterworks/deploy/agent/api"
)

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
		m.reconsider()
	}
}

// end is the last thing a phase does.
func (m *machine) end(o Outcome) Phase {
	m.Outcome = o
	return m.Phase
}

// halted reports whether nothing new may begin, ever or, if it is paused, until
// it is resumed.
func (m *machine) halted() bool { return m.Failing || m.Interrupted || m.Paused }

// endFailed leaves the phase in which something failed.
func (m *machine) endFailed() Phase {
	if m.RevertAll {
		return PhaseRevert
	}
	return m.end(OutcomeFailed)
}

// prepare stages what is to run on every instance, so many at a time.
func (m *machine) prepare() Phase {
	failed := m.totals[factFailed]+m.removalTotals[factFailed] > 0
	running := func() int { return m.totals[factRunning] + m.removalTotals[factRunning] }
	stopped := m.Interrupted || m.Paused
	for g := range m.groups {
		for !stopped && running() < m.Plan.Parallel && m.count(g, factUnprepared) > 0 {
			m.begin(CommandPrepare, 1, place{group: g, index: m.groups[g].first(factUnprepared)})
		}
	}
	left := m.totals[factUnprepared] > 0
	switch {
	case running() > 0:
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

// update changes groups in the order of what they require. Only groups that have
// changed since they were last decided about, or whose requirements are now met,
// are looked at.
func (m *machine) update() Phase {
	stale := m.stale.members()
	for g := range stale {
		m.stale.put(g, false)
	}
	if !m.halted() {
		for g := range stale {
			if m.mayStart(g) {
				m.startGroup(g)
			}
		}
	}
	m.continueRecreates()
	for g := range stale {
		m.rollBack(g)
	}
	busy, owed := m.totals[factInFlight] > 0, m.totals[factOwed] > 0
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

// continueRecreates takes instances whose VM is replaced to their next step.
// VMs are replaced in batches, one run of Terraform at a time, once all that
// are being stopped for it have stopped.
func (m *machine) continueRecreates() {
	if m.totals[factHasVM] > 0 {
		for g := range m.groups {
			for i := range m.groups[g].facts[factHasVM].members() {
				at := place{group: g, index: i}
				kind := CommandPrepare
				if m.progress(at).Status == StatusPrepared {
					kind = CommandUpdate
				}
				m.begin(kind, 1, at)
			}
		}
	}
	if m.totals[factAwaitsVM] == 0 || m.totals[factVMBusy] > 0 {
		return
	}
	var batch []place
	for g := range m.groups {
		for i := range m.groups[g].facts[factAwaitsVM].members() {
			batch = append(batch, place{group: g, index: i})
		}
	}
	m.beginVMs(CommandReplaceVM, batch)
}

// watch gives all instances of groups that had never served their one watch.
func (m *machine) watch() Phase {
	if !m.halted() && m.totals[factUnwatched] > 0 {
		for g := range m.stale.members() {
			m.stale.put(g, false)
			for {
				i := m.groups[g].first(factUnwatched, factRunning)
				if i < 0 {
					break
				}
				m.begin(CommandWatch, 1, place{group: g, index: i})
			}
		}
	}
	unwatched := m.totals[factUnwatched] > 0
	switch {
	case m.totals[factRunning] > 0:
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

// remove stops what is no longer wanted, so many at a time, and deletes all the
// VMs together.
func (m *machine) remove() Phase {
	for g, spec := range m.Plan.Removals {
		part := &m.removals[g]
		for !m.halted() && part.facts[factRunning].n < spec.MaxInFlight && !m.needed(g) {
			pending, running := &part.facts[factPending], &part.facts[factRunning]
			i := query{all: []*set{pending, &part.begun}, none: []*set{running}}.first()
			if i < 0 {
				i = query{all: []*set{pending}, none: []*set{running}}.first()
			}
			if i < 0 {
				break
			}
			m.begin(CommandStop, 1, place{true, g, i})
		}
	}
	switch {
	case m.removalTotals[factRunning] > 0:
		return PhaseRemove
	case m.Failing:
		return m.end(OutcomeFailed)
	case m.removalTotals[factPending]+m.removalTotals[factStopped] == 0:
		return PhasePostDeploy
	case m.Interrupted:
		return m.end(OutcomeInterrupted)
	case m.Paused:
		return PhaseRemove
	}
	var stopped []place
	for g := range m.removals {
		// What an earlier run has begun to stop comes first, as it was stopped.
		for _, q := range []query{
			{all: []*set{&m.removals[g].facts[factStopped], &m.removals[g].begun}},
			{all: []*set{&m.removals[g].facts[factStopped]}, none: []*set{&m.removals[g].begun}},
		} {
			for _, i := range q.members() {
				stopped = append(stopped, place{true, g, i})
			}
		}
	}
	m.beginVMs(CommandDeleteVM, stopped)
	return PhaseRemove
}

// needed reports whether instances that are to be removed and still run require
// the removal group g.
func (m *machine) needed(g int) bool {
	for _, other := range m.removals[g].dependents {
		if m.removals[other].facts[factPending].n > 0 {
			return true
		}
	}
	return false
}

// postDeploy runs the hooks of all instances of groups that changed, side by
// side. One that fails is reported; there is nothing to return to.
func (m *machine) postDeploy() Phase {
	running := func() int { return m.totals[factRunning] + m.removalTotals[factRunning] }
	failed := m.totals[factFailure]+m.removalTotals[factFailure] > 0
	owed := false
	for g := range m.groups {
		part := &m.groups[g]
		if part.facts[factHookOwed].n == 0 || !m.postDeployOwed(g) {
			continue
		}
		for {
			i := part.first(factHookOwed, factRunning, factFailure)
			if i < 0 {
				break
			}
			if m.Interrupted || m.Paused || running() >= m.Plan.Parallel {
				owed = true
				break
			}
			m.begin(CommandPostDeploy, 1, place{group: g, index: i})
		}
	}
	switch {
	case running() > 0:
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

// postDeployOwed reports what State.postDeployOwed does, from the index.
func (m *machine) postDeployOwed(g int) bool {
	known, _ := m.Remembered.Group(m.Plan.Groups[g].Name)
	facts := &m.groups[g].facts
	return facts[factHookOwed].n > 0 && (known.PostDeploy || facts[factChanged].n > 0)
}

// revert takes back everything that was touched, dependents first, in batches
// as it came. It stops short of taking a group below what must be available:
// then what serves is left as it is.
func (m *machine) revert() Phase {
	left := false
	for g := len(m.groups) - 1; g >= 0; g-- {
		m.revertGroup(g)
		left = left || m.count(g, factToRevert) > 0
	}
	if m.totals[factInFlight] > 0 {
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

// revertGroup begins as many of a group's rollbacks as may begin now, the highest
// index first.
func (m *machine) revertGroup(g int) {
	spec, part := m.Plan.Groups[g], &m.groups[g]
	for m.count(g, factToRevert) > 0 && !m.Interrupted && !m.Paused && !m.dependentsTouched(g) {
		q := query{all: []*set{&part.facts[factToRevert]}}
		if !spec.FirstDeploy {
			if m.count(g, factInFlight) >= spec.Policy.MaxInFlight {
				return
			}
			if m.count(g, factAvailable)-1 < spec.Policy.MinAvailable {
				q.none = []*set{&part.facts[factHealthy]} // those that serve are left
			}
		}
		i := q.last()
		if i < 0 {
			return
		}
		m.begin(CommandRollback, 1, place{group: g, index: i})
	}
}

// noteLeft says which instances a revert had to leave.
func (m *machine) noteLeft() {
	for g := range m.Groups {
		spec, group := m.Plan.Groups[g], &m.Groups[g]
		left := m.count(g, factToRevert)
		if group.Failure != nil || left == 0 {
			continue
		}
		group.Failure = &Failure{Group: spec.Name, Digest: spec.Digest, At: m.now, Error: &api.Error{
			Code: api.CodeFailed,
			Message: fmt.Sprintf("did not roll back %d instances of %s: too few are healthy, in this group or in one that requires it; repair them, then apply the earlier manifest",
				left, spec.Name)}}
	}
}

// dependentsTouched reports whether a group that requires g has instances that
// still have to be taken back.
func (m *machine) dependentsTouched(g int) bool {
	for _, other := range m.groups[g].dependents {
		if m.count(other, factToRevert)+m.count(other, factInFlight) > 0 {
			return true
		}
	}
	return false
}
