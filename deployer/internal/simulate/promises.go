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
	if w.total[exists] > 0 {
		for _, other := range w.find(exists) {
			w.broken("post_deploy of %s before %s is deleted", x.id, other.id)
		}
	}
	if w.total[owed] > 0 {
		for _, other := range w.find(owed) {
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
	if w.total[unprepared] > 0 {
		for _, other := range w.find(unprepared) {
			w.broken("%s is touched before %s is prepared", x.id, other.id)
		}
	}
	for i, other := range w.plan.Groups {
		if w.of[i][owed] > 0 && slices.Contains(g.Requires, other.Name) {
			w.broken("%s is touched before all of %s, which it requires", x.id, other.Name)
		}
	}
	if x.changing {
		return // a later step of a change that was checked as it began
	}
	w.checkLimits(op, x)
	if g.FirstDeploy {
		return
	}
	group := w.of[x.group]
	touched := group[tried]
	if !x.held {
		touched = w.others(x, tried) + 1
	}
	if x.held && !x.spec.Begun && group[passed] < min(g.Policy.Canaries, len(g.Instances)-group[held]) && group[showing] > 0 {
		w.broken("%s, which is held, is touched before the canaries have passed", x.id)
	}
	if !x.held && touched > g.Policy.Canaries && group[passed] < min(g.Policy.Canaries, len(g.Instances)) {
		w.broken("%s is touched as number %d while %d of %d canaries have passed", x.id, touched, group[passed], g.Policy.Canaries)
	}
}

// checkLimits: an instance is about to be away.
func (w *world) checkLimits(op *operation, x *instance) {
	g := w.plan.Groups[x.group]
	if g.FirstDeploy {
		return
	}
	inFlight := w.others(x, away) + 1
	if w.options.Forget { // that a first deploy was under way is forgotten with the memory
		inFlight = 1
		for _, other := range w.find(away) {
			if other != x && other.group == x.group && (other.busy == nil || other.busy.follower == w.deployer) {
				inFlight++
			}
		}
	}
	if inFlight > g.Policy.MaxInFlight {
		w.broken("%s of %s makes %d in flight, more than %d", op.command.Kind, x.id, inFlight, g.Policy.MaxInFlight)
	}
	if left, least := w.others(x, available), g.Policy.MinAvailable; x.told && left < least {
		w.broken("%s of %s leaves %d of %s available, fewer than %d", op.command.Kind, x.id, left, g.Name, least)
	}
}

// checkRemoval: an instance that is no longer wanted is about to be stopped or deleted.
func (w *world) checkRemoval(op *operation, x *instance) {
	removal := w.plan.Removals[x.group]
	if w.total[owed] > 0 {
		for _, other := range w.find(owed) {
			w.broken("%s is stopped before %s is updated", x.id, other.id)
		}
	}
	for i, other := range w.plan.Removals {
		if w.removals[i][runs] > 0 && slices.Contains(other.Requires, removal.Group) {
			w.broken("%s is stopped before all of %s, which requires it", x.id, other.Group)
		}
	}
	switch op.command.Kind {
	case rollout.CommandStop:
		if stopping := w.others(x, busy) + 1; stopping > removal.MaxInFlight {
			w.broken("stop of %s makes %d in flight, more than %d", x.id, stopping, removal.MaxInFlight)
		}
	case rollout.CommandDeleteVM:
		if !x.stopped {
			w.broken("%s is deleted before it is stopped", x.id)
		}
	}
}

func (w *world) broken(format string, args ...any) {
	w.problems = append(w.problems, fmt.Sprintf("%s: ", w.now)+fmt.Sprintf(format, args...))
}
