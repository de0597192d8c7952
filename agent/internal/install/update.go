package install

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// Update makes a staged generation the active one.
func (i *Installer) Update(ctx context.Context, u api.Update, report Report) error {
	target, err := i.Spec(u.Generation)
	if err != nil {
		return err
	}
	s := i.snapshot()
	known := u.Generation == s.Active || u.Generation == s.Previous || slices.Contains(s.Staged, u.Generation)
	if u.Generation == "" || !known {
		return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("cannot update to generation %q: its preparation has not ended well; prepare it again", u.Generation)}
	}
	if u.Back && len(s.PreStarted) > 0 && (s.Pending != nil || s.Active != u.Generation) {
		return irreversible(s.PreStarted)
	}
	t := i.plan(target, orUpdate(u.Next), u.Hold || s.Held, report)
	t.skipDrain, t.returns = u.SkipDrain, u.Back
	return t.run(ctx, milliseconds(u.MinHealthyMS), milliseconds(u.DeadlineMS))
}

func irreversible(jobs []string) *api.Error {
	return &api.Error{Code: api.CodeIrreversible, Message: fmt.Sprintf(
		"not put back to what ran before: pre_start of job %s has run, and what it did to data may not suit that (its hook does not say rollback = \"compatible\"); "+
			"repair the new version and apply again, or, if you know that the data can be used, apply the earlier one", strings.Join(jobs, ", "))}
}

func orUpdate(next api.Next) api.Next {
	if next == "" {
		return api.NextUpdate
	}
	return next
}

// Rollback returns to what was active before the update that is pending, or
// before the last one. Where there was nothing, everything is stopped and
// removed. It may be repeated: having ended well, it leaves Previous at what it
// returned to.
func (i *Installer) Rollback(ctx context.Context, r api.Rollback, report Report) error {
	s := i.snapshot()
	if s.backTo() == "" {
		return i.remove(ctx, report)
	}
	target, err := i.Spec(s.backTo())
	if err != nil {
		return err
	}
	t := i.plan(target, api.NextUpdate, s.Held, report)
	t.back = true
	return t.run(ctx, milliseconds(r.MinHealthyMS), milliseconds(r.DeadlineMS))
}

// Watch waits until the instance has been healthy without a break.
func (i *Installer) Watch(ctx context.Context, w api.Watch, report Report) error {
	return runSteps(ctx, report, []step{{"healthy", func(ctx context.Context) error {
		return i.waitHealthy(ctx, milliseconds(w.MinHealthyMS), milliseconds(w.DeadlineMS), report)
	}}})
}

func milliseconds(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }

// transition is one way from what runs to a target.
type transition struct {
	*Installer
	report Report
	// from is the spec that was active, to the target; either may be empty.
	from, to api.Spec
	jobs     []api.Job // of to, runnable; none if it is held
	next     api.Next
	// held: the target is activated and nothing of it started.
	held      bool
	skipDrain bool
	// part: only some jobs are concerned (a restart), so those without a process
	// are not.
	part bool

	stop   []ref // run and must end
	forget []ref // are not in the target
	start  []ref // do not run, or are in stop
	reload []ref
	drift  []api.Drift // what was changed by hand and is repaired with this
	// resumed: an earlier update has not ended well, so it is not known which
	// of its hooks have run.
	resumed bool
	// back: this is a rollback, which leaves Previous as it is.
	back bool
	// returns: this is an update back to what ran before.
	returns bool
	// rewrite are the files of the image with other URIs of the bus than wanted,
	// and unreadable says why that cannot be told.
	rewrite    []rewriting
	unreadable error
}

// run is the update itself: only processes whose digests differ are touched.
func (t *transition) run(ctx context.Context, minHealthy, deadline time.Duration) error {
	healthy := step{"healthy", func(ctx context.Context) error {
		if t.held {
			return nil
		}
		return t.waitHealthy(ctx, minHealthy, deadline, t.report)
	}}
	if t.nothing() {
		return runSteps(ctx, t.report, []step{healthy})
	}
	return runSteps(ctx, t.report, slices.Concat(
		[]step{{"mbus", func(context.Context) error { return t.unreadable }}, {"begin", t.begin}},
		t.stopping(),
		[]step{
			{"activate", t.activate},
			{"firewall", t.guard},
			{"mbus", t.rewriteURIs},
			{"pre_start", t.preStart},
			{"start", t.startProcesses},
			{"reload", t.reloadProcesses},
			healthy,
			{"post_start", t.postStart},
			{"end", t.end},
		}))
}

// stopping are the steps that end what must stop.
func (t *transition) stopping() []step {
	steps := []step{{"pre_stop", t.preStop}, {"drain", t.drain}, {"stop", t.stopProcesses}, {"post_stop", t.postStop}}
	if t.skipDrain {
		steps = steps[2:]
	}
	return steps
}

// plan compares the target with what runs.
func (i *Installer) plan(to api.Spec, next api.Next, held bool, report Report) *transition {
	s := i.snapshot()
	t := &transition{Installer: i, report: report, to: to, jobs: runnable(to), next: next, held: held, resumed: s.Pending != nil}
	if held {
		t.jobs = nil
	}
	if s.Active != "" {
		// What cannot be read has no hooks that could be run; the way forward
		// stays open.
		var err error
		if t.from, err = i.Spec(s.Active); err != nil {
			report.Event("plan", fmt.Sprintf("what was active is not known, its hooks are left out: %v", err))
		}
	}
	t.rewrite, t.unreadable = rewritings(to)
	owed := owedFor(t.rewrite)
	there := byProcess(i.Supervisor.Statuses())
	wanted := make(map[ref]bool)
	for _, job := range t.jobs {
		for _, p := range job.Processes {
			r := ref{job.Name, p.Name}
			wanted[r] = true
			status, ok := there[r]
			switch {
			case !ok || status.State == api.ProcessStopped:
				t.start = append(t.start, r)
			case owed[r], status.Digest != p.Digest, status.State == api.ProcessBackoff, status.State == api.ProcessStopping,
				status.ReloadDigest != p.ReloadDigest && p.Reload == nil:
				t.stop = append(t.stop, r)
				t.start = append(t.start, r)
			case status.ReloadDigest != p.ReloadDigest:
				t.reload = append(t.reload, r)
			}
		}
	}
	for _, status := range i.Supervisor.Statuses() {
		r := ref{status.Job, status.Name}
		if wanted[r] {
			continue
		}
		if !held {
			t.forget = append(t.forget, r)
		}
		if status.State != api.ProcessStopped {
			t.stop = append(t.stop, r)
		}
	}
	t.planMending(there)
	// Consumers come after providers in a spec, so they stop first.
	slices.Reverse(t.stop)
	return t
}

// planMending adds the processes that may have loaded what was changed by hand.
func (t *transition) planMending(there map[ref]api.ProcessStatus) {
	restart, reload := map[string]bool{}, map[string]bool{}
	for _, d := range t.Drift(false) {
		if d.Left {
			continue
		}
		t.drift = append(t.drift, d)
		for _, name := range d.Restart {
			restart[name] = true
		}
		for _, name := range d.Reload {
			reload[name] = true
		}
	}
	for _, job := range t.jobs {
		for _, p := range job.Processes {
			r := ref{job.Name, p.Name}
			if slices.Contains(t.start, r) || there[r].State == api.ProcessStopped {
				continue // it starts anyway
			}
			switch {
			case restart[r.String()], reload[r.String()] && p.Reload == nil:
				t.reload = slices.DeleteFunc(t.reload, func(other ref) bool { return other == r })
				t.stop, t.start = append(t.stop, r), append(t.start, r)
			case reload[r.String()] && !slices.Contains(t.reload, r):
				t.reload = append(t.reload, r)
			}
		}
	}
}

// nothing tells whether the target is what is active and runs.
func (t *transition) nothing() bool {
	s := t.snapshot()
	return s.Active == t.to.Generation && s.Pending == nil && t.Lost() == "" && s.Stopped == t.held && s.Held == t.held &&
		len(t.stop)+len(t.forget)+len(t.start)+len(t.reload)+len(t.rewrite)+len(t.drift) == 0 && t.unreadable == nil
}

// begin notes that the update is owed until it has ended well.
func (t *transition) begin(context.Context) error {
	return t.change(func(s *state) {
		if s.Pending == nil && !t.back && s.Active != t.to.Generation {
			s.Previous, s.PreStarted = s.Active, nil
		}
		switch was := s.Active; {
		case s.Pending == nil && !t.back:
			s.Pending = &pending{Target: t.to.Generation, From: &was}
		case s.Pending == nil:
			s.Pending = &pending{Target: t.to.Generation}
		case !t.part:
			s.Pending = &pending{Target: t.to.Generation, From: s.Pending.From}
		}
		s.Stopped, s.Held = t.held, t.held
	})
}

// touched tells whether a job has one of these processes.
func touched(job string, refs []ref) bool {
	return slices.ContainsFunc(refs, func(r ref) bool { return r.job == job })
}

// preStop runs the hooks of what was active for the jobs that stop.
func (t *transition) preStop(ctx context.Context) error {
	return t.oldHooks(ctx, api.HookPreStop)
}

func (t *transition) postStop(ctx context.Context) error {
	return t.oldHooks(ctx, api.HookPostStop)
}

func (t *transition) oldHooks(ctx context.Context, kind api.HookKind) error {
	for n := len(t.from.Jobs) - 1; n >= 0; n-- {
		job := t.from.Jobs[n]
		if !touched(job.Name, t.stop) {
			continue
		}
		err := t.hooks.runAll(ctx, t.report, t.from, job, kind, map[string]string{"DEPLOY_NEXT": string(t.next)})
		if err != nil && (t.back || t.returns) && ctx.Err() == nil {
			// What is bad about a version does not keep it from being replaced by the
			// one that served.
			t.report.Event(string(kind), fmt.Sprintf("rolling back %s anyway: %v", job.Name, err))
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// activate leads the links of all jobs to the target.
func (t *transition) activate(context.Context) error {
	t.swapping.Lock()
	defer t.swapping.Unlock()
	if err := t.link(t.to); err != nil {
		return err
	}
	if err := t.change(func(s *state) { s.Active = t.to.Generation }); err != nil {
		return err
	}
	t.Supervisor.Expect(t.jobs)
	t.lose("")
	t.report.Event("activate", "generation "+t.to.Generation)
	return nil
}

// guard makes the VM's firewall the target's, before anything of it starts.
func (t *transition) guard(ctx context.Context) error {
	if t.Guard == nil {
		return nil
	}
	return t.Guard(ctx, t.to.Firewall)
}

// preStart runs the hooks of jobs that start, and of those without a process,
// for which this is the only moment.
func (t *transition) preStart(ctx context.Context) error {
	for _, job := range t.to.Jobs {
		if !t.starts(job) {
			continue
		}
		if err := t.notePreStart(job); err != nil {
			return err
		}
		if err := t.hooks.runAll(ctx, t.report, t.to, job, api.HookPreStart, nil); err != nil {
			return err
		}
	}
	return nil
}

// notePreStart notes that a job's data may not be what its earlier version
// left, before that is so.
func (t *transition) notePreStart(job api.Job) error {
	incompatible := slices.ContainsFunc(job.Hooks, func(h api.Hook) bool { return h.Kind == api.HookPreStart && !h.RollbackCompatible })
	if !incompatible || t.returns || t.back || slices.Contains(t.snapshot().PreStarted, job.Name) {
		return nil
	}
	return t.change(func(s *state) { s.PreStarted = append(slices.Clone(s.PreStarted), job.Name) })
}

// starts tells whether a job's start hooks are due.
func (t *transition) starts(job api.Job) bool {
	if t.held {
		return false
	}
	return touched(job.Name, t.start) || len(job.Processes) == 0 && !t.part
}

func (t *transition) postStart(ctx context.Context) error {
	for _, job := range t.to.Jobs {
		if !t.starts(job) && (!t.resumed || t.part || t.held) {
			continue
		}
		if err := t.hooks.runAll(ctx, t.report, t.to, job, api.HookPostStart, nil); err != nil {
			return err
		}
	}
	return nil
}

// startProcesses starts what does not run. What runs on is given its spec all
// the same: its checks may be others now, and one that was drained by an update
// that failed must start anew.
func (t *transition) startProcesses(ctx context.Context) error {
	var all []ref
	for _, job := range t.jobs {
		for _, p := range job.Processes {
			all = append(all, ref{job.Name, p.Name})
		}
	}
	return t.eachWanted(all, func(job string, p api.Process) error {
		if t.Rejoin != nil {
			defer t.Rejoin(job, p.Name)
		}
		if slices.Contains(t.start, ref{job, p.Name}) {
			t.report.Event("start", job+"/"+p.Name)
		} else if t.part {
			return nil
		}
		if err := t.Supervisor.Start(ctx, job, p, t.to.Generation); err != nil {
			return t.processError(err.Error(), ref{job, p.Name}, err)
		}
		return nil
	})
}

func (t *transition) reloadProcesses(ctx context.Context) error {
	return t.eachWanted(t.reload, func(job string, p api.Process) error {
		t.report.Event("reload", job+"/"+p.Name)
		if err := t.Supervisor.Reload(ctx, job, p); err != nil {
			return t.processError(err.Error(), ref{job, p.Name}, err)
		}
		return nil
	})
}

// eachWanted calls f for those of the target's processes that are listed, in
// the order of the spec.
func (t *transition) eachWanted(listed []ref, f func(job string, p api.Process) error) error {
	for _, job := range t.jobs {
		for _, p := range job.Processes {
			if slices.Contains(listed, ref{job.Name, p.Name}) {
				if err := f(job.Name, p); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// end notes that nothing is owed and removes what is not kept.
func (t *transition) end(context.Context) error {
	err := t.change(func(s *state) {
		if !t.part {
			s.Mended = nil
		}
		if !t.part || !t.resumed {
			s.Pending = nil
		}
		s.Staged = slices.DeleteFunc(s.Staged, func(g string) bool { return g == s.Active || g == s.Previous })
	})
	if err != nil {
		return err
	}
	return t.collect()
}
