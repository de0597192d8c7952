package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

// operating is a command that does something to instances.
func operating(a *app, cmd *cobra.Command, ask, question string, do func(*deployer.Deployer, context.Context, deployer.OperateRequest) (*deployer.Result, error)) *cobra.Command {
	var autoApprove bool
	var q deployer.OperateRequest
	cmd.Args = cobra.MinimumNArgs(2)
	cmd.ValidArgsFunction = completeInstances(a, true)
	approvable(cmd, &autoApprove) // start does not ask and takes it, as the others do
	if ask != "" {
		cmd.Flags().BoolVar(&q.SkipDrain, "skip-drain", false, "stop at once, without pre_stop and drain: "+ask)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		progress := a.progress()
		defer progress.Close()
		d, err := a.deployer(args[0], progress.Event)
		if err != nil {
			return err
		}
		q.Targets = args[1:]
		if question != "" {
			q.Approve = func(p *plan.Plan) (bool, error) { return a.approve(progress, p, autoApprove, question) }
		}
		result, err := do(d, cmd.Context(), q)
		progress.Close()
		return a.result(result, err)
	}
	return a.changing(cmd)
}

func stopCommand(a *app) *cobra.Command {
	return operating(a, &cobra.Command{
		Use:   "stop MANIFEST GROUP[/INDEX]...",
		Short: "Drain and stop instances, until start",
		Long: `Drains and stops instances, consumers before providers. They stay stopped,
through reboots and applies: an apply brings their files up to date and starts
nothing. Their VMs stay.`,
		Example: `  deploy stop cluster.hcl hello/2
  deploy stop cluster.hcl router hello           both groups`,
	}, "requests are lost", "Stop this?", (*deployer.Deployer).Stop)
}

func startCommand(a *app) *cobra.Command {
	return operating(a, &cobra.Command{
		Use:   "start MANIFEST GROUP[/INDEX]...",
		Short: "Start instances that were stopped",
		Long: `Starts stopped instances, and installed processes that do not run for another reason,
providers before consumers, and waits until they are healthy. It starts what is
installed; use apply for changes of the manifest.`,
		Example: `  deploy start cluster.hcl hello/2`,
	}, "", "", (*deployer.Deployer).Start)
}

func restartCommand(a *app) *cobra.Command {
	return operating(a, &cobra.Command{
		Use:   "restart MANIFEST GROUP[/INDEX]...",
		Short: "Restart instances, at the pace of their update policies",
		Long: `Drains, stops and starts all processes of instances, at the pace of an update: a
canary first, max_in_flight at a time, never fewer than min_available. It changes
nothing else.`,
		Example: `  deploy restart cluster.hcl hello               one after the other
  deploy restart --auto-approve cluster.hcl lb/0`,
	}, "requests are lost", "Restart this?", (*deployer.Deployer).Restart)
}

func recreateCommand(a *app) *cobra.Command {
	cmd := operating(a, &cobra.Command{
		Use:   "recreate MANIFEST GROUP[/INDEX]...",
		Short: "Replace the VMs of instances, at the pace of their update policies",
		Long: `Replaces the VMs of instances, in batches as an update does. Persistent disks stay;
everything else on the VM is lost. A VM whose agent does not answer is replaced
without draining it. The instances get what the manifest says now.`,
		Example: `  deploy recreate cluster.hcl router/1           a VM that misbehaves
  deploy recreate cluster.hcl hello`,
	}, "requests are lost", "Recreate this?", (*deployer.Deployer).Recreate)
	dataLossFlag(a, cmd)
	return cmd
}

func runCommand(a *app) *cobra.Command {
	var q deployer.RunRequest
	var env []string
	cmd := &cobra.Command{
		Use:   "run MANIFEST JOB/ERRAND [GROUP[/INDEX]...] [-- ARGUMENT...]",
		Short: "Run an errand of a job and show its output",
		Long: `Runs an errand of a job on an instance that has the job, or on all of them with
--all, and shows its output as it is written. Interrupt once to cancel it. The exit
status is the errand's own; with several, 1 if one fails.`,
		Example: `  deploy run cluster.hcl postgres/backup
  deploy run cluster.hcl --all dea/check dea
  deploy run cluster.hcl postgres/restore postgres/0 -- /backups/monday.sql`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if at := cmd.ArgsLenAtDash(); at >= 2 {
				q.Arguments = args[at:]
				args = args[:at]
			}
			var ok bool
			if q.Job, q.Errand, ok = strings.Cut(args[1], "/"); !ok {
				return fmt.Errorf("cannot run %q: it must name a job and its errand, JOB/ERRAND", args[1])
			}
			q.Targets = args[2:]
			q.Env = map[string]string{}
			for _, e := range env {
				name, value, found := strings.Cut(e, "=")
				if !found {
					return fmt.Errorf("cannot use --env %q: it must be NAME=value", e)
				}
				q.Env[name] = value
			}
			out := views.NewErrandOutput(a.out, a.errOut, a.json, q.All, color(a.out))
			d, err := a.deployer(args[0], a.aloud())
			if err != nil {
				return err
			}
			q.Output = func(instance string, o api.Output) { out.Write(instance, o) }
			result, err := d.Run(cmd.Context(), q)
			out.Close()
			if result != nil && a.json {
				a.answered = true
				err = errors.Join(err, views.JSONLine(a.out, result))
			}
			if err != nil || result == nil {
				return err
			}
			return errandsEnded(a, result)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return complete(a, 1, func(n deployer.Names) []string { return n.Errands })(cmd, args, toComplete)
			}
			return completeInstances(a, true)(cmd, args, toComplete)
		},
	}
	cmd.Flags().BoolVar(&q.All, "all", false, "run on all instances with the job, or all named ones, in parallel")
	cmd.Flags().StringArrayVarP(&env, "env", "e", nil, "`NAME=value` for the errand's environment (may be repeated)")
	cmd.Flags().DurationVar(&q.Timeout, "timeout", 0, "end it after this time (default: as the job says)")
	return a.changing(cmd)
}

// errandsEnded tells how errands ended, and makes that the exit code.
func errandsEnded(a *app, r *deployer.RunResult) error {
	failed := slices.DeleteFunc(slices.Clone(r.Runs), func(x deployer.ErrandRun) bool { return x.Error == "" })
	if !a.json {
		views.ErrandsEnded(a.errOut, r)
	}
	switch {
	case len(failed) == 0:
		return nil
	case len(r.Runs) == 1 && failed[0].Status > 0:
		return exitCode(failed[0].Status)
	}
	return exitCode(exitError)
}

func pauseCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "pause MANIFEST",
		Short: "Make the running rollout finish what is in flight, then wait",
		Long: `Asks the deploy that is changing the deployment, in another terminal or on another
machine with the same state folder, to finish what is in flight and to begin nothing
new until resume. That deploy keeps the deployment's lock. The pause ends with its
run.`,
		Example: `  deploy pause cluster.hcl && less /var/log/app && deploy resume cluster.hcl`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], nil)
			if err != nil {
				return err
			}
			holder, err := d.Pause(cmd.Context())
			if err != nil {
				return err
			}
			return a.answer(map[string]string{"paused": holder}, func(w io.Writer, _ bool) {
				views.Line(w, "Asked %s to pause. To continue: deploy resume %s", holder, args[0])
			})
		},
	}
}

func resumeCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "resume MANIFEST",
		Short:   "Let a paused rollout continue",
		Example: `  deploy resume cluster.hcl`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], nil)
			if err != nil {
				return err
			}
			if err := d.Resume(); err != nil {
				return err
			}
			return a.answer(map[string]bool{"resumed": true}, func(w io.Writer, _ bool) { views.Line(w, "The rollout continues.") })
		},
	}
}
