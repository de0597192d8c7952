package rollout

import (
	"container/heap"
	"iter"
	"math/bits"
	"slices"
	"time"
)

// A step must not look at every instance, or a rollout of n instances costs n²:
// the index answers the machine's questions from sets of instances that are
// brought up to date with each change.

// fact is a yes or no about an instance that the machine decides by.
type fact int

const (
	factPending       fact = iota // nothing has been done to it
	factOwed                      // its change has not begun
	factInFlight                  // its change has begun and has not ended
	factRunning                   // a command to it is in progress
	factHealthy                   // it serves, as last known
	factAvailable                 // it serves and is not in flight
	factMayRecover                // it may come to serve by itself
	factUpdated                   // it has what is wanted
	factFailed                    // its status is failed
	factFailure                   // something went wrong with it
	factCanaryPassed              // it is a canary that has passed and serves
	factCanaryWaiting             // it is a canary that is in flight, or has fallen sick
	factOwesRollback              // it returns to the previous generation when it may
	factToRevert                  // a revert of everything includes it
	factVMBusy                    // it is being stopped, or its VM replaced
	factAwaitsVM                  // it has stopped and waits for its VM to be replaced
	factHasVM                     // it has its new VM, or is prepared there, and waits for its next command
	factUnprepared                // its generation is to be staged, and no command does so yet
	factUnwatched                 // it owes the watch of a first deploy
	factStopped                   // it has stopped
	factChanged                   // its change is one that post_deploy hooks hear of
	factHookOwed                  // its post_deploy hooks have not run
	facts
)

// judge returns the facts about an instance of a group.
func judge(p *InstanceProgress, x Instance, g Group) (is [facts]bool) {
	idle := p.Running.Kind == ""
	updated := isUpdated(*p)
	is[factPending] = p.Status == StatusPending
	is[factOwed] = isOwed(*p)
	is[factInFlight] = p.InFlight
	is[factRunning] = !idle
	is[factHealthy] = p.Healthy
	is[factAvailable] = p.Healthy && !p.InFlight
	is[factMayRecover] = !p.Healthy && !p.InFlight && !x.Held
	is[factUpdated] = updated
	is[factFailed] = p.Status == StatusFailed
	is[factFailure] = p.Failure != nil
	is[factCanaryPassed] = p.Canary && updated && p.Healthy
	is[factCanaryWaiting] = p.Canary && (p.InFlight || updated && !p.Healthy)
	is[factOwesRollback] = p.OwesRollback
	is[factToRevert] = isToRevert(*p)
	is[factVMBusy] = p.InFlight && (p.Running.Kind == CommandStop || p.Running.Kind == CommandReplaceVM)
	is[factAwaitsVM] = p.InFlight && idle && (p.Status == StatusStopped || p.Status == StatusBeside)
	is[factHasVM] = p.InFlight && idle && (p.Status == StatusReplaced || p.Status == StatusPrepared)
	is[factUnprepared] = p.Status == StatusPending && idle && x.prepares()
	is[factUnwatched] = g.FirstDeploy && !p.Watched && updated && !x.Exempt && !x.Held
	is[factStopped] = p.Status == StatusStopped
	is[factChanged] = p.reportsChange(x)
	is[factHookOwed] = x.runsPostDeploy() && !p.PostDeployed
	return is
}

// judgeRemoved returns the facts about an instance that is no longer wanted.
func judgeRemoved(p *InstanceProgress) (is [facts]bool) {
	is[factPending] = p.Status == StatusPending
	is[factRunning] = p.Running.Kind != ""
	is[factFailed] = p.Status == StatusFailed
	is[factFailure] = p.Failure != nil
	is[factStopped] = p.Status == StatusStopped
	return is
}

// set is a set of indexes of instances or groups.
type set struct {
	words []uint64
	n     int // members
}

func newSet(size int) set { return set{words: make([]uint64, (size+63)/64)} }

func (s *set) has(i int) bool { return s.words[i/64]&(1<<(i%64)) != 0 }

func (s *set) put(i int, in bool) {
	if s.has(i) == in {
		return
	}
	s.words[i/64] ^= 1 << (i % 64)
	if in {
		s.n++
	} else {
		s.n--
	}
}

func (s *set) fill(size int) {
	for i := range size {
		s.put(i, true)
	}
}

// members are in ascending order; changes of the set meanwhile are not seen.
func (s *set) members() iter.Seq[int] {
	words := slices.Clone(s.words)
	return func(yield func(int) bool) {
		for k, w := range words {
			for ; w != 0; w &= w - 1 {
				if !yield(k*64 + bits.TrailingZeros64(w)) {
					return
				}
			}
		}
	}
}

// query selects what is in all of some sets and in none of others.
type query struct{ all, none []*set }

func (q query) word(k int) uint64 {
	w := ^uint64(0)
	for _, s := range q.all {
		w &= s.words[k]
	}
	for _, s := range q.none {
		w &^= s.words[k]
	}
	return w
}

// first returns the lowest index that is selected, -1 if none is. all must not
// be empty.
func (q query) first() int {
	for k := range q.all[0].words {
		if w := q.word(k); w != 0 {
			return k*64 + bits.TrailingZeros64(w)
		}
	}
	return -1
}

// last returns the highest index that is selected, -1 if none is.
func (q query) last() int {
	for k := len(q.all[0].words) - 1; k >= 0; k-- {
		if w := q.word(k); w != 0 {
			return k*64 + 63 - bits.LeadingZeros64(w)
		}
	}
	return -1
}

// members returns what is selected, in ascending order.
func (q query) members() []int {
	var all []int
	for k := range q.all[0].words {
		for w := q.word(k); w != 0; w &= w - 1 {
			all = append(all, k*64+bits.TrailingZeros64(w))
		}
	}
	return all
}

// part is the index of one group, or of one group's removals.
type part struct {
	facts [facts]set
	held  set // stopped by an operator
	begun set // an earlier run has begun to change it
	zones []set
	// requires are the indexes of the groups that must be done before this one;
	// dependents are those that wait for this one.
	requires, dependents []int
}

// index finds instances without looking at all of them.
type index struct {
	groups, removals []part
	places           map[string]place   // by instance id
	operations       map[string][]place // by operation id, in the order of the plan
	deadlines        deadlines
	totals           [facts]int // of all groups; removals apart
	removalTotals    [facts]int
	stale            set // groups about which nothing has been decided since they changed
}

func newIndex(s *State) *index {
	x := &index{places: map[string]place{}, operations: map[string][]place{}, stale: newSet(len(s.Groups))}
	byName := map[string]int{}
	for g, spec := range s.Plan.Groups {
		p := newPart(len(spec.Instances))
		zones := map[string]int{}
		for i, in := range spec.Instances {
			p.held.put(i, in.Held)
			p.begun.put(i, in.Begun)
			zone, known := zones[in.AZ]
			if !known {
				zone = len(p.zones)
				zones[in.AZ] = zone
				p.zones = append(p.zones, newSet(len(spec.Instances)))
			}
			p.zones[zone].put(i, true)
		}
		x.groups = append(x.groups, p)
		byName[spec.Name] = g
	}
	for g, spec := range s.Plan.Groups {
		connect(x.groups, g, spec.Requires, byName)
	}
	byName = map[string]int{}
	for g, spec := range s.Plan.Removals {
		p := newPart(len(spec.Instances))
		for i, in := range spec.Instances {
			p.begun.put(i, in.Begun)
		}
		x.removals = append(x.removals, p)
		byName[spec.Group] = g
	}
	for g, spec := range s.Plan.Removals {
		connect(x.removals, g, spec.Requires, byName)
	}
	return x
}

func newPart(instances int) part {
	p := part{held: newSet(instances), begun: newSet(instances)}
	for f := range p.facts {
		p.facts[f] = newSet(instances)
	}
	return p
}

// connect notes which groups wait for each other.
func connect(parts []part, g int, requires []string, byName map[string]int) {
	for _, name := range requires {
		if other, there := byName[name]; there {
			parts[g].requires = append(parts[g].requires, other)
			parts[other].dependents = append(parts[other].dependents, g)
		}
	}
}

// put brings the index up to date with one instance.
func (x *index) put(at place, is [facts]bool) {
	parts, totals := x.groups, &x.totals
	if at.removal {
		parts, totals = x.removals, &x.removalTotals
	}
	p := &parts[at.group]
	for f := range p.facts {
		before := p.facts[f].n
		p.facts[f].put(at.index, is[f])
		totals[f] += p.facts[f].n - before
	}
	if at.removal {
		return
	}
	x.stale.put(at.group, true)
	if p.done() {
		for _, other := range p.dependents {
			x.stale.put(other, true)
		}
	}
}

// first returns the lowest index of which f is true and nothing of not, -1 if
// there is none.
func (p *part) first(f fact, not ...fact) int {
	q := query{all: []*set{&p.facts[f]}}
	for _, n := range not {
		q.none = append(q.none, &p.facts[n])
	}
	return q.first()
}

// done reports whether no instance of the group is still to be changed.
func (p *part) done() bool { return p.facts[factOwed].n+p.facts[factInFlight].n == 0 }

// due is when an answer to a command (or, with index -1, health of a group) is
// no longer waited for.
type due struct {
	when time.Time
	at   place
}

// deadlines is a heap of them, the earliest first. One that no longer holds
// stays until it comes first.
type deadlines []due

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].when.Before(d[j].when) }
func (d deadlines) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *deadlines) Push(x any)        { *d = append(*d, x.(due)) }
func (d *deadlines) Pop() any {
	old := *d
	last := old[len(old)-1]
	*d = old[:len(old)-1]
	return last
}

func (x *index) expect(when time.Time, at place) {
	if !when.IsZero() {
		heap.Push(&x.deadlines, due{when, at})
	}
}

// earliest drops deadlines that no longer hold and returns the first that does.
func (x *index) earliest(s *State) (due, bool) {
	for len(x.deadlines) > 0 {
		d := x.deadlines[0]
		var until time.Time
		if d.at.index < 0 {
			until = s.Groups[d.at.group].BlockedUntil
		} else {
			until = s.progress(d.at).Running.Deadline
		}
		if until.Equal(d.when) {
			return d, true
		}
		x.removeEarliest()
	}
	return due{}, false
}

func (x *index) removeEarliest() { heap.Pop(&x.deadlines) }
