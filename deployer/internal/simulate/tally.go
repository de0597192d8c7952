package simulate

import (
	"slices"

	"github.com/clusterworks/deploy/deployer/internal/rollout"
)

// What the promises count is kept in tallies, since counting anew at each command
// would cost n² for n instances.
const (
	serves     = iota // healthy, and not being changed
	away              // being changed, and not silent
	available         // healthy as far as the deployer knows, and not being changed
	held              // stopped by an operator
	passed            // took what is wanted; held ones show nothing
	tried             // touched by the present deployer; held ones show nothing
	owed              // not what it shall be
	unprepared        // not touched, and what it shall be is not staged
	showing           // not what it shall be, and free to show whether it works
	runs              // to be removed, and not stopped
	exists            // to be removed, and not deleted
	busy              // an operation is under way
	marks
)

// tally counts the instances that each mark is true of.
type tally [marks]int

// tallies are of all groups, of all groups that lose instances, and of everything.
type tallies struct {
	of, removals []tally
	total        tally
}

func judge(x *instance) (is [marks]bool) {
	is[busy] = x.busy != nil
	if x.spec == nil {
		is[runs], is[exists] = !x.stopped, !x.deleted
		return is
	}
	action := x.spec.Action
	is[serves] = x.healthy && !x.changing
	is[away] = x.changing && !x.silent
	is[available] = x.told && !x.changing
	is[held] = x.held
	is[passed] = x.passed && !x.held
	is[tried] = x.tried && !x.held
	is[owed] = action != rollout.ActionNone && !x.passed
	is[unprepared] = !x.touched && (action == rollout.ActionCreate || action == rollout.ActionUpdate) && x.staged != x.spec.Generation
	is[showing] = is[owed] && !x.held && !x.exempt
	return is
}

// recount brings the tallies up to date with instances that have changed.
func (w *world) recount(changed ...*instance) {
	for _, x := range changed {
		group := w.of
		if x.spec == nil {
			group = w.removals
		}
		is := judge(x)
		for m := range is {
			if is[m] == x.counted[m] {
				continue
			}
			by := 1
			if !is[m] {
				by = -1
			}
			group[x.group][m] += by
			w.total[m] += by
		}
		x.counted = is
	}
}

// others returns how many instances of x's group, x apart, a mark is true of.
func (w *world) others(x *instance, mark int) int {
	groups := w.of
	if x.spec == nil {
		groups = w.removals
	}
	n := groups[x.group][mark]
	if x.counted[mark] {
		n--
	}
	return n
}

// find returns the instances that a mark is true of, for the text of a problem.
func (w *world) find(mark int) []*instance {
	return slices.DeleteFunc(slices.Clone(w.instances), func(x *instance) bool { return !x.counted[mark] })
}
