package cli

import (
	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

func rotateCACommand(a *app) *cobra.Command {
	var autoApprove bool
	cmd := &cobra.Command{
		Use:   "rotate-ca MANIFEST",
		Short: "Replace the deployment's own CA without restarting a process",
		Long: `Replaces the CA of agents, the bus and jobs' certificate blocks in three passes that
are each like an apply: all trust the new CA, all get its certificates, all stop
trusting the old CA. No process restarts. If it is interrupted, the same command
continues; an apply also completes the last pass.

For CAs among the manifest's secrets, use deploy secret rotate.`,
		Example: "  deploy rotate-ca cluster.hcl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			progress := a.progress()
			defer progress.Close()
			d, err := a.deployer(args[0], progress.Event)
			if err != nil {
				return err
			}
			result, err := d.RotateCA(cmd.Context(), deployer.RotateRequest{
				Approve: func(pass string, p *plan.Plan) (bool, error) {
					return a.approve(progress, p, autoApprove, "Pass "+pass+". Make these changes?")
				},
			})
			progress.Close()
			return a.result(result, err)
		},
	}
	return a.changing(approvable(cmd, &autoApprove))
}
