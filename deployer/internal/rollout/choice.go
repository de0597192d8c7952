package rollout

import "time"

// mayStart reports whether all groups that g requires are done.
func (m *machine) mayStart(g int) bool {
	for _, other := range m.groups[g].requires {
		if !m.groups[other].done() {
			return false
		}
	}
	return true
}

// startGroup begins to change as many instances of a group as may be away now.
func (m *machine) startGroup(g int) {
	until := m.blocked(g, m.startInstances(g))
	if !until.Equal(m.Groups[g].BlockedUntil) {
		m.expect(until, place{group: g, index: -1})
	}
	m.Groups[g].BlockedUntil = until
}

func (m *machine) startInstances(g int) (started bool) {
	spec := m.Plan.Groups[g]
	for {
		next, canary := m.candidate(g)
		if next < 0 {
			return started
		}
		started = true
		at := place{group: g, index: next}
		p := m.progress(at)
		p.Canary = canary
		if spec.Instances[next].Beside {
			p.Status, p.InFlight, p.Touched = StatusBeside, true, true
			m.note(at)
			continue
		}
		kind := CommandUpdate
		switch spec.Instances[next].Action {
		case ActionRecreate:
			kind = CommandStop
		case ActionRestart:
			kind = CommandRestart
		}
		m.begin(kind, 1, at)
	}
}

// blocked returns until when a group that cannot be continued waits for health to
// return, zero if it need not wait.
func (m *machine) blocked(g int, started bool) time.Time {
	group, policy := m.Groups[g], m.Plan.Groups[g].Policy
	switch {
	case started || m.count(g, factOwed) == 0 || m.count(g, factInFlight) > 0:
		return time.Time{}
	case m.count(g, factMayRecover) == 0:
		return m.now // nothing comes of waiting
	case group.BlockedUntil.IsZero():
		return m.now.Add(policy.deadline() + m.Plan.Timeouts.Answer)
	}
	return group.BlockedUntil
}

// candidate returns the instance of a group that is changed next, -1 if none may
// be changed now, and whether it is a canary.
//
// What an earlier run has begun to change comes first. Then sick instances: they
// cost no availability, and waiting for them to recover could last for ever. Then
// zone by zone, by index; a zone begins when those before it are done.
func (m *machine) candidate(g int) (index int, canary bool) {
	spec, part := m.Plan.Groups[g], &m.groups[g]
	owed, healthy := &part.facts[factOwed], &part.facts[factHealthy]
	if owed.n == 0 {
		return -1, false
	}
	if spec.FirstDeploy {
		return part.first(factOwed), false
	}
	if m.count(g, factInFlight) >= spec.Policy.MaxInFlight {
		return -1, false
	}
	// As long as canaries are missing, nothing else is changed.
	// One that passed and fell sick is not made up for by another: it holds the
	// rest until it recovers.
	passed := m.count(g, factCanaryPassed)
	canary = passed < spec.Policy.Canaries
	if canary {
		waiting := m.count(g, factCanaryWaiting)
		if waiting+passed >= spec.Policy.Canaries {
			return -1, false
		}
		// What an operator has stopped will not run, so it cannot show anything.
		switch shows := (query{all: []*set{owed}, none: []*set{&part.held}}.first() >= 0); {
		case !shows && waiting > 0:
			return -1, false
		case !shows:
			canary = false
		}
	}
	if i := (query{all: []*set{owed, &part.begun}, none: []*set{healthy}}.first()); i >= 0 {
		return i, canary && !part.held.has(i)
	}
	var excluded []*set // no canaries
	if canary {
		excluded = append(excluded, &part.held)
	}
	sick := append([]*set{healthy}, excluded...)
	for z := range part.zones {
		if i := (query{all: []*set{owed, &part.zones[z]}, none: sick}.first()); i >= 0 {
			return i, canary
		}
	}
	if m.count(g, factAvailable)-1 < spec.Policy.MinAvailable {
		return -1, false
	}
	for z := range part.zones {
		zone := &part.zones[z]
		if i := (query{all: []*set{owed, zone}, none: excluded}.first()); i >= 0 {
			return i, canary
		}
		if (query{all: []*set{zone, &part.facts[factInFlight]}}.first()) >= 0 {
			return -1, false
		}
	}
	return -1, false
}

// count returns how many instances of a group a fact is true of.
func (m *machine) count(g int, f fact) int { return m.groups[g].facts[f].n }
