package install

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
)

// PostDeploy runs the post_deploy hooks of the active generation.
func (i *Installer) PostDeploy(ctx context.Context, report Report) error {
	s := i.snapshot()
	if s.Held {
		report.Event(string(api.HookPostDeploy), "left out: the instance was stopped on request")
		return nil
	}
	active, err := i.activeSpec("run post_deploy")
	if err != nil {
		return err
	}
	var steps []step
	for _, job := range active.Jobs {
		steps = append(steps, step{string(api.HookPostDeploy), func(ctx context.Context) error {
			return i.hooks.runAll(ctx, report, active, job, api.HookPostDeploy, nil)
		}})
	}
	return runSteps(ctx, report, steps)
}

// Errand runs one errand of the active generation.
func (i *Installer) Errand(ctx context.Context, e api.Errand, report Report) error {
	active, err := i.activeSpec("run errand " + e.Name)
	if err != nil {
		return err
	}
	for name := range e.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.HasPrefix(name, "DEPLOY_") {
			return &api.Error{Code: api.CodeBadRequest, Message: fmt.Sprintf("cannot run errand %s with variable %q: not a name that can be given", e.Name, name)}
		}
	}
	var all []string
	for _, job := range active.Jobs {
		for _, hook := range job.Hooks {
			if hook.Kind != api.HookErrand {
				continue
			}
			all = append(all, job.Name+"/"+hook.Name)
			if job.Name != e.Job || hook.Name != e.Name {
				continue
			}
			hook.Command = slices.Clone(hook.Command)
			for _, a := range e.Arguments {
				hook.Command = append(hook.Command, string(a))
			}
			if e.TimeoutMS > 0 {
				hook.TimeoutMS = e.TimeoutMS
			}
			return runSteps(ctx, report, []step{{string(api.HookErrand), func(ctx context.Context) error {
				report.Event(string(api.HookErrand), job.Name+"/"+hook.Name)
				err := i.hooks.run(ctx, report, active, job, hook, e.Env)
				if err != nil && ctx.Err() != nil {
					return context.Cause(ctx)
				}
				return err
			}}})
		}
	}
	return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("cannot run errand %s of job %s: the active generation has no such errand; it has %s",
		e.Name, e.Job, enumerate(all))}
}

// enumerate is "none", or all of them.
func enumerate(all []string) string {
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}
