package cli

import (
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

func rollbackCommand(a *app) *cobra.Command {
	var autoApprove bool
	cmd := &cobra.Command{
		Use:   "rollback MANIFEST [REVISION]",
		Short: "Return to an earlier revision of the deployment",
		Long: `Applies the manifest, jobs and programs of an earlier revision: of the named one, or
of the last apply that succeeded; if that is what runs, of the one before. It uses
the update policies of that manifest, and becomes a new revision. Data on disks,
secrets and addresses stay as they are.

The manifest file is not touched: correct it before the next apply, which would
otherwise repeat what was rolled back.`,
		Example: `  deploy rollback cluster.hcl
  deploy history cluster.hcl && deploy diff cluster.hcl 3 && deploy rollback cluster.hcl 3`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			progress := a.progress()
			defer progress.Close()
			d, err := a.deployer(args[0], progress.Event)
			if err != nil {
				return err
			}
			var q deployer.RollbackRequest
			if len(args) > 1 {
				if q.Revision, err = revisionNumber(args[1]); err != nil {
					return err
				}
			}
			q.Approve = func(p *plan.Plan) (bool, error) {
				return a.approve(progress, p, autoApprove, "Roll back like this?")
			}
			result, err := d.Rollback(cmd.Context(), q)
			progress.Close()
			err = a.result(result, err)
			if err == nil && !a.json && result != nil && result.Changed {
				return a.print(func(w io.Writer, _ bool) {
					views.Line(w, "%s still has what was rolled back: correct it before the next apply.", args[0])
				})
			}
			return err
		},
		ValidArgsFunction: completeRevisions(a, 1),
	}
	dataLossFlag(a, cmd)
	return a.changing(approvable(cmd, &autoApprove))
}

func revisionNumber(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("cannot read revision %q: it must be a number from deploy history", text)
	}
	return n, nil
}

func historyCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "history MANIFEST",
		Short: "List the changes of the deployment: who made them and how they ended",
		Long: `Lists the changes of the deployment, who made them and how they ended. deploy
rollback can return to revisions with a star, and deploy diff can compare them.`,
		Example: `  deploy history cluster.hcl
  deploy history --json cluster.hcl | jq '.entries[] | select(.result != "done")'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], nil)
			if err != nil {
				return err
			}
			h, err := d.History()
			if err != nil {
				return err
			}
			return a.answer(h, func(w io.Writer, _ bool) { views.History(w, h) })
		},
	}
}

func diffCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "diff MANIFEST REVISION [REVISION]",
		Short: "Show the differences between a revision and the manifest, or another revision",
		Long: `Shows the differences between a revision and the manifest, or another revision:
instances, files as diffs, processes. Both are rendered with today's addresses,
secrets and certificates, and no agent is asked; deploy plan compares with what
runs. Exit codes: 0 the same, 2 there are differences, 1 error.`,
		Example: `  deploy diff cluster.hcl 3
  deploy diff cluster.hcl 3 4`,
		Args: cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], nil)
			if err != nil {
				return err
			}
			from, err := revisionNumber(args[1])
			if err != nil {
				return err
			}
			to := 0
			if len(args) > 2 {
				if to, err = revisionNumber(args[2]); err != nil {
					return err
				}
			}
			diff, err := d.Diff(from, to)
			if err != nil {
				return err
			}
			err = a.answer(diff, func(w io.Writer, color bool) { views.Diff(w, diff, color) })
			if err == nil && !diff.Plan.Empty() {
				return exitCode(exitChanges)
			}
			return err
		},
		ValidArgsFunction: completeRevisions(a, 2),
	}
}
