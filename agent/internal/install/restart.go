package install

import (
	"context"
	"fmt"
	"slices"

	"github.com/clusterworks/deploy/agent/api"
)

// Start starts what the active generation wants and what does not run, and
// ends a hold.
func (i *Installer) Start(ctx context.Context, start api.Start, report Report) error {
	active, err := i.activeSpec("start")
	if err != nil {
		return err
	}
	t := i.plan(active, api.NextRestart, false, report)
	return t.run(ctx, milliseconds(start.MinHealthyMS), milliseconds(start.DeadlineMS))
}

// activeSpec returns what an operator's wish is about.
func (i *Installer) activeSpec(wish string) (api.Spec, error) {
	if i.snapshot().Active == "" {
		return api.Spec{}, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("cannot %s: nothing is installed here yet; apply first", wish)}
	}
	return i.Spec("")
}

// Restart ends processes of the active generation and starts them anew. What
// else may be owed stays so.
func (i *Installer) Restart(ctx context.Context, restart api.RestartProcesses, report Report) error {
	active, err := i.activeSpec("restart")
	if err != nil {
		return err
	}
	if i.snapshot().Stopped {
		return &api.Error{Code: api.CodeConflict, Message: "cannot restart: the instance is stopped; start it"}
	}
	t := &transition{
		Installer: i, report: report, from: active, to: active, jobs: runnable(active), next: api.NextRestart,
		skipDrain: restart.SkipDrain, part: true, resumed: i.snapshot().Pending != nil,
	}
	there := byProcess(i.Supervisor.Statuses())
	for _, job := range t.jobs {
		for _, p := range job.Processes {
			if restart.Job != "" && restart.Job != job.Name || restart.Process != "" && restart.Process != p.Name {
				continue
			}
			r := ref{job.Name, p.Name}
			t.start = append(t.start, r)
			if status, ok := there[r]; ok && status.State != api.ProcessStopped {
				t.stop = append(t.stop, r)
			}
		}
	}
	if len(t.start) == 0 {
		return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("cannot restart %s: the active generation has no such process; it has %s",
			ref{restart.Job, restart.Process}, listed(t.jobs))}
	}
	slices.Reverse(t.stop)
	healthy := step{"healthy", func(ctx context.Context) error {
		return i.waitHealthy(ctx, milliseconds(restart.MinHealthyMS), milliseconds(restart.DeadlineMS), report)
	}}
	return runSteps(ctx, report, slices.Concat([]step{{"begin", t.begin}}, t.stopping(), []step{
		{"expect", func(context.Context) error { i.Supervisor.Expect(t.jobs); return nil }},
		{"pre_start", t.preStart},
		{"start", t.startProcesses},
		healthy,
		{"post_start", t.postStart},
		{"end", t.end},
	}))
}

// listed names all processes.
func listed(jobs []api.Job) string {
	var all []string
	for _, job := range jobs {
		for _, p := range job.Processes {
			all = append(all, ref{job.Name, p.Name}.String())
		}
	}
	return enumerate(all)
}
