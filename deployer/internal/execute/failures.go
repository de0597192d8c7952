package execute

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// failure returns how a rollout of a manifest failed, nil if it did not: what
// failed and why, where the manifest says what that is about, what was changed there since it worked, and what to do next.
func failure(s rollout.State, changes []plan.InstanceChange, manifest string, places func(message string) []string) error {
	switch s.Outcome {
	case rollout.OutcomeDone:
		return nil
	case rollout.OutcomeInterrupted:
		return session.ErrInterrupted
	case rollout.OutcomeSuperseded:
		return state.ErrSuperseded
	}
	var errs []error
	failed := "" // the first instance, whose log tells most
	told := map[string]bool{}
	for _, f := range s.Failures() {
		what := f.Instance
		if what == "" {
			what = "group " + f.Group
		} else if failed == "" {
			failed = f.Instance
		}
		if f.Command != "" {
			what += ": " + string(f.Command)
		}
		errs = append(errs, fmt.Errorf("%s failed: %w", what, f.Error))
		if said := places(words(f.Error)); len(said) > 0 && !told["places "+f.Group] {
			told["places "+f.Group] = true
			errs = append(errs, fmt.Errorf("the manifest has it at %s", strings.Join(said, ", ")))
		}
		i := slices.IndexFunc(changes, func(c plan.InstanceChange) bool { return c.Instance == f.Instance })
		ran := f.Command == rollout.CommandUpdate || f.Command == rollout.CommandWatch
		if i >= 0 && ran && changes[i].From != "" && !told[f.Group] {
			told[f.Group] = true // others of a group have the same changes
			errs = append(errs, errors.New(changed(changes[i])))
		}
	}
	logs := "deploy logs " + manifest
	if failed != "" {
		logs += " " + failed
	}
	next := fmt.Sprintf("see %s, remove the cause, then deploy apply %s", logs, manifest)
	back := 0
	for _, g := range s.Groups {
		for _, p := range g.Instances {
			if p.Status == rollout.StatusRolledBack {
				back++
			}
		}
	}
	switch {
	case s.Phase == rollout.PhasePrepare:
		errs = append(errs, errors.New("nothing was touched: everything is staged and checked before the first instance changes"))
	case back > 0:
		errs = append(errs, fmt.Errorf("%d put back to what ran before, the rest was not begun; %s", back, next))
	default:
		errs = append(errs, errors.New(next))
	}
	return errors.Join(errs...)
}

// words returns all that an agent says of a failure, the last lines of a process's
// log included.
func words(err error) string {
	text := err.Error()
	var failed *api.Error
	if errors.As(err, &failed) && failed.Process != nil {
		text += "\n" + strings.Join(failed.Process.Log, "\n")
	}
	return text
}

// changedLines limits the lines of diffs that an error shows.
const changedLines = 20

// changed returns what a change does to an instance that ran before it: why it is
// made, and the diffs of its files, in which secrets are redacted.
func changed(c plan.InstanceChange) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s ran before this change: %s", c.Instance, strings.Join(c.Causes, "; "))
	lines := 0
	for _, f := range c.Files {
		for line := range strings.Lines(f.Diff) {
			if lines++; lines <= changedLines {
				fmt.Fprintf(&b, "\n    %s", strings.TrimSuffix(line, "\n"))
			}
		}
	}
	if lines > changedLines {
		fmt.Fprintf(&b, "\n    and %d more lines, which deploy plan shows", lines-changedLines)
	}
	return b.String()
}
