package simulate

import (
	"fmt"
	"slices"

	"deploy/deployer/internal/rollout"
)

// check holds an operation that is about to begin to the rollout's promises.
func (w *world) check(op *operation) {
	for _, x := range op.at {
		if x.silent {
			continue // it does not hear the command
		}
		if x.busy != nil {
			w.broken("%s of %s begins while its %s runs", op.command.Kind, x.id, x.busy.command.Kind)
		}
		if x.deleted {
			w.broken("%s of %s, which is deleted", op.command.Kind, x.id)
		}
		switch {
		case x.spec == nil:
			w.checkRemoval(op, x)
		case op.command.Kind == rollout.CommandUpdate, op.command.Kind == rollout.CommandStop:
			w.checkChange(op, x)
		case op.command.Kind == rollout.CommandRollback:
			w.checkLimits(op, x)
		}
	}
}

// checkChange: an instance is about to be changed.
func (w *world) checkChange(op *operation, x *instance) {
	g := w.plan.Groups[x.group]
	if op.command.Kind == rollout.CommandUpdate && x.staged != x.spec.Generation {
		w.broken("%s is updated but not prepared", x.id)
	}
	for _, other := range w.instances {
		if other.spec == nil {
			continue
		}
		action := other.spec.Action
		if !other.touched && (action == rollout.ActionCreate || action == rollout.ActionUpdate) && other.staged != other.spec.Generation {
			w.broken("%s is touched before %s is prepared", x.id, other.id)
		}
		if slices.Contains(g.Requires, w.plan.Groups[other.group].Name) && action != rollout.ActionNone && !other.passed {
			w.broken("%s is touched before %s, which it requires", x.id, other.id)
		}
	}
	if x.changing {
		return // a later step of a change that was checked as it began
	}
	w.checkLimits(op, x)
	if g.FirstDeploy {
		return
	}
	passed, touched := 0, 0
	for _, other := range w.instances {
		if other.spec == nil || other.group != x.group {
			continue
		}
		if other.passed {
			passed++
		}
		if other.touched || other.passed || other == x {
			touched++
		}
	}
	if touched > g.Policy.Canaries && passed < min(g.Policy.Canaries, len(g.Instances)) {
		w.broken("%s is touched as number %d while %d of %d canaries have passed", x.id, touched, passed, g.Policy.Canaries)
	}
}

// checkLimits: an instance is about to be away.
func (w *world) checkLimits(op *operation, x *instance) {
	g := w.plan.Groups[x.group]
	if g.FirstDeploy {
		return
	}
	others := func(which func(*instance) bool) int {
		return w.count(x.group, func(other *instance) bool { return other != x && which(other) })
	}
	if away := others(isAway) + 1; away > g.Policy.MaxInFlight {
		w.broken("%s of %s makes %d in flight, more than %d", op.command.Kind, x.id, away, g.Policy.MaxInFlight)
	}
	left := others(func(other *instance) bool { return other.told && !other.changing })
	if least := g.Policy.MinAvailable; x.told && left < least {
		w.broken("%s of %s leaves %d of %s available, fewer than %d", op.command.Kind, x.id, left, g.Name, least)
	}
}

// checkRemoval: an instance that is no longer wanted is about to be stopped or deleted.
func (w *world) checkRemoval(op *operation, x *instance) {
	removal := w.plan.Removals[x.group]
	stopping := 1
	for _, other := range w.instances {
		if other.spec != nil {
			if other.spec.Action != rollout.ActionNone && !other.passed {
				w.broken("%s is stopped before %s is updated", x.id, other.id)
			}
			continue
		}
		if other.group == x.group && other.busy != nil {
			stopping++
		}
		if slices.Contains(w.plan.Removals[other.group].Requires, removal.Group) && !other.stopped {
			w.broken("%s is stopped before %s, which requires it", x.id, other.id)
		}
	}
	switch op.command.Kind {
	case rollout.CommandStop:
		if stopping > removal.MaxInFlight {
			w.broken("stop of %s makes %d in flight, more than %d", x.id, stopping, removal.MaxInFlight)
		}
	case rollout.CommandDeleteVM:
		if !x.stopped {
			w.broken("%s is deleted before it is stopped", x.id)
		}
	}
}

func serves(x *instance) bool { return x.healthy && !x.changing }
func isAway(x *instance) bool { return x.changing && !x.silent }

// count is how many instances of a group are so.
func (w *world) count(g int, which func(*instance) bool) int {
	n := 0
	for _, x := range w.instances {
		if x.spec != nil && x.group == g && which(x) {
			n++
		}
	}
	return n
}

func (w *world) broken(format string, args ...any) {
	w.problems = append(w.problems, fmt.Sprintf("%s: ", w.now)+fmt.Sprintf(format, args...))
}
