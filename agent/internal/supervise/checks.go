package supervise

import (
	"context"
	"slices"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/internal/health"
)

const (
	// firstProbes is the pause between probes until the first one passes.
	firstProbes = 100 * time.Millisecond
	// settled is the time that a process without checks must have stayed up.
	settled = 300 * time.Millisecond
)

// checksOf are the checks of a process, with the one that its control socket
// implies, and with defaults filled in.
func checksOf(p api.Process) []api.Check {
	checks := slices.Clone(p.Checks)
	isControl := func(c api.Check) bool { return c.Kind == api.CheckControl }
	if p.Control && !slices.ContainsFunc(checks, isControl) {
		checks = append(checks, api.Check{Kind: api.CheckControl})
	}
	for i := range checks {
		if checks[i].IntervalMS <= 0 {
			checks[i].IntervalMS = health.DefaultInterval.Milliseconds()
		}
		if checks[i].Failures <= 0 {
			checks[i].Failures = health.DefaultFailures
		}
	}
	return checks
}

// checklist describes what the checks of one start have answered so far.
type checklist struct {
	checks  []api.Check
	passed  []bool // at least once
	failed  []int  // times in a row
	reasons []string
	facts   map[string]string // as the last answer that had some told them
}

func newChecklist(checks []api.Check) *checklist {
	n := len(checks)
	return &checklist{checks: checks, passed: make([]bool, n), failed: make([]int, n), reasons: make([]string, n)}
}

// told returns the facts that the process has told; l may be nil.
func (l *checklist) told() map[string]string {
	if l == nil {
		return nil
	}
	return l.facts
}

// answered notes one answer; a nil error is a pass.
func (l *checklist) answered(a answer) {
	i, err := a.index, a.err
	if a.facts != nil {
		l.facts = a.facts
	}
	if err == nil {
		l.passed[i], l.failed[i], l.reasons[i] = true, 0, ""
		return
	}
	l.failed[i]++
	l.reasons[i] = err.Error()
}

// verdict is eventReady when all checks have passed and none has failed too
// often since, eventUnready when one has; sure is false while neither is known.
// The reason is that of the first check that does not pass.
func (l *checklist) verdict() (e event, sure bool, reason string) {
	pending := false
	for i, c := range l.checks {
		switch {
		case !l.passed[i]:
			pending = true
		case l.failed[i] >= c.Failures:
			return eventUnready, true, l.reasons[i]
		default:
			continue
		}
		if reason == "" {
			reason = l.reasons[i]
		}
	}
	return eventReady, !pending, reason
}

// answer is one answer of a check of a list.
type answer struct {
	of    *checklist
	index int
	facts map[string]string // nil: none
	err   error
}

// probe asks one check again and again until ctx ends.
func probe(ctx context.Context, l *checklist, index int, target health.Target, answers chan<- answer) {
	check, passed := l.checks[index], false
	for {
		facts, err := health.Run(ctx, check, target)
		select {
		case answers <- answer{l, index, facts, err}:
		case <-ctx.Done():
			return
		}
		passed = passed || err == nil
		pause := firstProbes
		if passed {
			pause = time.Duration(check.IntervalMS) * time.Millisecond
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}
