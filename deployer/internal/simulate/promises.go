package simulate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/deployer/internal/rollout"
)

// check holds an operation that is about to begin to the rollout's promises.
func (w *world) check(op *operation) {
	for _, x := range op.at {
		if x.silent {
			continue // it does not hear the command
		}
		if x.busy != nil && x.busy.follower == w.deployer && !x.busy.waited {
			w.broken("%s of %s begins while its %s runs", op.command.Kind, x.id, x.busy.command.Kind)
		}
		if x.deleted {
			w.broken("%s of %s, which is deleted", op.command.Kind, x.id)
		}
		if x.exempt {
			w.broken("%s of %s, which is not to be touched", op.command.Kind, x.id)
		}
		switch op.command.Kind {
		case rollout.CommandUpdate, rollout.CommandRollback:
			if op.command.Hold != x.held {
				w.broken("%s of %s with hold = %v", op.command.Kind, x.id, op.command.Hold)
			}
		}
		switch {
		case x.spec == nil:
			w.checkRemoval(op, x)
		case op.command.Kind == rollout.CommandUpdate, op.command.Kind == rollout.CommandStop, op.command.Kind == rollout.CommandRestart:
			w.checkChange(op, x)
		case op.command.Kind == rollout.CommandRollback:
			w.checkLimits(op, x)
		case op.command.Kind == rollout.CommandPostDeploy:
			w.checkPostDeploy(x)
		}
	}
}

// checkPaused: a command of a rollout that an operator has paused. What has
// begun goes on.
func (w *world) checkPaused(c rollout.Command) {
	for _, id := range c.Instances {
		x := w.byID[id]
		again := !strings.HasSuffix(c.OpID, ".1")
		if c.Kind != rollout.CommandRollback && c.Kind != rollout.CommandReplaceVM && !x.changing && !again {
			w.broken("%s of %s begins during a pause", c.Kind, id)
		}
	}
}

// checkPostDeploy: post_deploy comes when all the rest is done.
func (w *world) checkPostDeploy(x *instance) {
	if x.held {
		w.broken("post_deploy of %s, which is held", x.id)
	}
	for _, other := range w.instances {
		switch {
		case other.spec == nil && !other.deleted:
			w.broken("post_deploy of %s before %s is deleted", x.id, other.id)
		case other.spec != nil && other.spec.Action != rollout.ActionNone && !other.passed:
			w.broken("post_deploy of %s before %s is updated", x.id, other.id)
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
		if other.held {
			continue // shows nothing
		}
		if other.passed {
			passed++
		}
		if other.tried || other == x {
			touched++
		}
	}
	if held := w.count(x.group, func(other *instance) bool { return other.held }); x.held && !x.spec.Begun && passed < min(g.Policy.Canaries, len(g.Instances)-held) && w.shows(x.group) {
		w.broken("%s, which is held, is touched before the canaries have passed", x.id)
	}
	if !x.held && touched > g.Policy.Canaries && passed < min(g.Policy.Canaries, len(g.Instances)) {
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
	away := others(func(other *instance) bool {
		// That a first deploy was going on is forgotten with the memory.
		return isAway(other) && !(w.options.Forget && other.busy != nil && other.busy.follower != w.deployer)
	}) + 1
	if away > g.Policy.MaxInFlight {
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
		if other != x && other.group == x.group && other.busy != nil {
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

// shows tells whether instances of a group that can show something are still owed.
func (w *world) shows(g int) bool {
	return w.count(g, func(x *instance) bool {
		return !x.held && !x.exempt && x.spec.Action != rollout.ActionNone && !x.passed
	}) > 0
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
