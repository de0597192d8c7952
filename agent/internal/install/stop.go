package install

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/clusterworks/deploy/agent/api"
)

// defaultDrain bounds the drain of a process whose job has no drain hook that
// says how long it may take.
const defaultDrain = 45 * time.Second

// Stop drains and stops every process. They stay stopped until the next
// update, or, if they are held, until they are started.
func (i *Installer) Stop(ctx context.Context, stop api.Stop, report Report) error {
	t := i.plan(api.Spec{}, stop.Next, false, report)
	t.skipDrain = stop.SkipDrain
	t.forget = nil
	hold := stop.Hold || i.snapshot().Held
	steps := t.stopping()
	expect := step{"expect", func(context.Context) error { i.Supervisor.Expect(nil); return nil }}
	return runSteps(ctx, report, slices.Concat(
		[]step{{"begin", func(context.Context) error {
			return i.change(func(s *state) { s.Stopped, s.Held = true, hold })
		}}},
		steps[:len(steps)-2], []step{expect}, steps[len(steps)-2:]))
}

// remove takes everything away that a first update has begun.
func (i *Installer) remove(ctx context.Context, report Report) error {
	t := i.plan(api.Spec{}, api.NextUpdate, false, report)
	t.back = true
	return runSteps(ctx, report, slices.Concat([]step{{"begin", t.begin}}, t.stopping(),
		[]step{{"activate", t.activate}, {"firewall", t.guard}, {"end", t.end}}))
}

// drain lets all processes that will stop end their work, side by side. One
// that does not manage is stopped all the same: it may be the reason for the
// update.
func (t *transition) drain(ctx context.Context) error {
	if len(t.stop) == 0 {
		return nil
	}
	if t.Withdraw != nil {
		processes := make([][2]string, len(t.stop))
		for n, r := range t.stop {
			processes[n] = [2]string{r.job, r.name}
		}
		if t.Withdraw(ctx, processes) {
			t.report.Event("drain", "taken off the routers")
		}
	}
	there := byProcess(t.Supervisor.Statuses())
	var group errgroup.Group
	for _, r := range t.stop {
		if there[r].PID == 0 || !t.drains(r) {
			continue
		}
		t.report.Event("drain", r.String())
		group.Go(func() error {
			if err := t.Supervisor.Drain(ctx, r.job, r.name, t.drainTime(r.job)); err != nil && ctx.Err() == nil {
				t.report.Event("drain", fmt.Sprintf("%s has not drained; stopping it anyway: %v", r, err))
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return t.oldHooks(ctx, api.HookDrain)
}

// drains tells whether the process serves the drain contract. What is not in
// the active spec is asked too; the supervisor knows what it started.
func (t *transition) drains(r ref) bool {
	for _, job := range t.from.Jobs {
		for _, p := range job.Processes {
			if job.Name == r.job && p.Name == r.name {
				return p.Control
			}
		}
	}
	return true
}

func (t *transition) drainTime(job string) time.Duration {
	for _, j := range t.from.Jobs {
		for _, h := range j.Hooks {
			if j.Name == job && h.Kind == api.HookDrain && h.TimeoutMS > 0 {
				return milliseconds(h.TimeoutMS)
			}
		}
	}
	return defaultDrain
}

// stopProcesses stops what must end and forgets what is not wanted any more.
func (t *transition) stopProcesses(ctx context.Context) error {
	if err := t.stopEach(ctx); err != nil {
		return err
	}
	for _, r := range t.forget {
		if err := t.Supervisor.Forget(ctx, r.job, r.name); err != nil {
			return fmt.Errorf("cannot forget %s: %w", r, err)
		}
	}
	return nil
}

func (t *transition) stopEach(ctx context.Context) error {
	for _, r := range slices.Clone(t.stop) {
		t.report.Event("stop", r.String())
		if err := t.Supervisor.Stop(ctx, r.job, r.name); err != nil {
			return t.processError(err.Error(), r, err)
		}
	}
	return nil
}
