package cli

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

func applyCommand(a *app) *cobra.Command {
	var autoApprove bool
	var q deployer.ApplyRequest
	cmd := &cobra.Command{
		Use:   "apply MANIFEST|PLAN",
		Short: "Change the cluster to match the manifest, or carry out a saved plan",
		Long: `Changes the cluster to match the manifest. Shows the plan and asks first. Interrupt
once to finish the running step, save and stop; twice to stop at once. The next
apply continues from what is really there.

Instances that fail without a change are restarted. Exit codes: 0 done, 3 done, but
something is failing, 1 error.

With --target, only these groups and instances are changed, in the order and within
the limits of a whole apply.

A plan saved by plan --out is applied without asking. If anything has changed since
it was saved, nothing is done. Sensitive variables must be given again.`,
		Example: `  deploy apply examples/cluster.hcl
  deploy apply --auto-approve --var version=2 cluster.hcl
  deploy apply --target router/0 cluster.hcl        one instance first
  deploy apply --lock-wait 10m cluster.hcl          after the deploy that runs now
  deploy plan --out next.plan cluster.hcl && deploy apply next.plan`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			progress := a.progress()
			defer progress.Close()
			manifest := args[0]
			if deployer.IsPlan(manifest) {
				var err error
				if manifest, err = openPlan(a, cmd, manifest, &q); err != nil {
					return err
				}
				autoApprove = true
			}
			d, err := a.deployer(manifest, progress.Event)
			if err != nil {
				return err
			}
			first := true
			q.Approve = func(p *plan.Plan) (bool, error) {
				if !first && q.Saved != nil {
					return false, fmt.Errorf("cannot continue: now that the VMs exist, the saved plan would change more than it shows; plan again: %w", deployer.ErrNotApproved)
				}
				first = false
				return a.approve(progress, p, autoApprove, "Make these changes?")
			}
			result, err := d.Apply(cmd.Context(), q)
			progress.Close()
			return a.result(result, err)
		},
	}
	cmd.Flags().BoolVar(&q.DeleteDisks, "delete-disks", false, "delete persistent disks without an instance, with all data on them")
	dataLossFlag(a, cmd)
	cmd.Flags().BoolVar(&q.Refresh, "refresh", false, "ask the engine about the VMs even if every agent answers")
	targetFlag(a, cmd, &q.Targets)
	return a.changing(approvable(cmd, &autoApprove))
}

// dataLossFlag is --accept-data-loss.
func dataLossFlag(a *app, cmd *cobra.Command) {
	cmd.Flags().BoolVar(&a.acceptDataLoss, "accept-data-loss", false, "replace a lost persistent disk by an empty one, and lose what lives on instances that are removed, without asking")
}

// openPlan makes the request of a saved plan and returns its manifest.
func openPlan(a *app, cmd *cobra.Command, path string, q *deployer.ApplyRequest) (string, error) {
	for _, flag := range []string{"target", "delete-disks", "var-file"} {
		if cmd.Flags().Changed(flag) {
			return "", fmt.Errorf("cannot use --%s with a saved plan, which already contains the changes; plan again with it", flag)
		}
	}
	saved, err := deployer.OpenPlan(path)
	if err != nil {
		return "", err
	}
	if a.stateDir == "" {
		a.stateDir = saved.StateDir
	}
	if a.values, err = saved.Values(); err != nil {
		return "", err
	}
	q.Saved, q.Targets = saved, saved.Targets
	return saved.Manifest, nil
}

func destroyCommand(a *app) *cobra.Command {
	var autoApprove, forget, deleteDisks bool
	cmd := &cobra.Command{
		Use:   "destroy MANIFEST",
		Short: "Stop everything and remove the VMs and the state",
		Long: `Stops everything and removes the VMs and the state. Persistent disks are kept, and
so is the state that knows them: the next apply uses the disks again. With
--delete-disks the disks are deleted, with all data on them. What lives on the
instances (databases, apps, streams) is named; if there is any, the deployment's name
must be typed, or --accept-data-loss given.`,
		Example: `  deploy destroy examples/cluster.hcl
  deploy destroy --auto-approve --accept-data-loss examples/cluster.hcl`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			progress := a.progress()
			defer progress.Close()
			d, err := a.deployer(args[0], progress.Event)
			if err != nil {
				return err
			}
			result, err := d.Destroy(cmd.Context(), deployer.DestroyRequest{
				Approve: func(p *plan.Plan) (bool, error) {
					return a.approve(progress, p, autoApprove, "Destroy all of this? It cannot be undone.")
				},
				ForgetUnreachable: forget,
				DeleteDisks:       deleteDisks,
			})
			progress.Close()
			return a.result(result, err)
		},
	}
	cmd.Flags().BoolVar(&deleteDisks, "delete-disks", false, "also delete persistent disks, with all data on them")
	dataLossFlag(a, cmd)
	cmd.Flags().BoolVar(&forget, "forget-unreachable", false, "leave your own machines that cannot be reached as they are")
	return a.changing(approvable(cmd, &autoApprove))
}

func planCommand(a *app) *cobra.Command {
	var out string
	var q deployer.PlanRequest
	cmd := &cobra.Command{
		Use:   "plan MANIFEST",
		Short: "Show what an apply would change, without changing anything",
		Long: `Shows what an apply would change, without changing anything.
Exit codes: 0 nothing to do, 2 there are changes, 3 nothing to change but something
is failing, 1 error.

With --out the plan is also saved to a file. deploy apply FILE carries it out, and
refuses if manifest, state or cluster have changed since. The file holds no secrets:
they are redacted, and sensitive variables must be given again.`,
		Example: `  deploy plan examples/cluster.hcl
  deploy plan --target router cluster.hcl
  deploy plan --out next.plan cluster.hcl && deploy apply next.plan
  deploy plan --json cluster.hcl | jq '.instances[] | select(.action != "none")' `,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			progress := a.quiet()
			defer progress.Close()
			manifest := args[0]
			if out != "" { // whoever applies it may be elsewhere
				var err error
				if manifest, err = filepath.Abs(manifest); err != nil {
					return fmt.Errorf("cannot find the manifest: %w", err)
				}
			}
			d, err := a.deployer(manifest, progress.Event)
			if err != nil {
				return err
			}
			var p *plan.Plan
			if out == "" {
				p, err = d.Plan(cmd.Context(), q)
			} else {
				var saved *deployer.SavedPlan
				if saved, err = d.SavePlan(cmd.Context(), q); err == nil {
					p, err = saved.Plan, saved.Write(out)
				}
			}
			progress.Close()
			if err != nil {
				return err
			}
			err = a.answer(p, func(w io.Writer, color bool) {
				views.Plan(w, p, color)
				if out != "" {
					views.Line(w, "Saved. To do just this: deploy apply %s", out)
				}
			})
			switch {
			case err == nil && !p.Empty():
				return exitCode(exitChanges)
			case err == nil && len(p.Failing) > 0:
				return exitCode(exitFailing)
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "save the plan as `FILE`, for deploy apply FILE")
	targetFlag(a, cmd, &q.Targets)
	return cmd
}

// targetFlag is --target, with completion.
func targetFlag(a *app, cmd *cobra.Command, targets *[]string) {
	cmd.Flags().StringArrayVar(targets, "target", nil, "change only `GROUP[/INDEX]` (may be repeated)")
	_ = cmd.RegisterFlagCompletionFunc("target", completeInstances(a, true)) // the flag exists
}
