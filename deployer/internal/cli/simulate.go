package cli

import (
	"os"

	"github.com/spf13/cobra"

	"deploy/deployer"
	"deploy/deployer/internal/cli/views"
)

func (a *app) simulate() *cobra.Command {
	var q deployer.SimulateRequest
	cmd := &cobra.Command{
		Use:   "simulate MANIFEST",
		Short: "Try a rollout out on simulated agents and virtual time",
		Long: `Runs the machine that apply runs, with the manifest's own policies, against
simulated agents: an update of every instance, or a first deploy. Latencies
follow from the seed. Exit code 1 if a promise of the rollout did not hold.`,
		Example: `  deploy simulate cluster.hcl --agents 2000
  deploy simulate cluster.hcl --fail router/2@start --seed 7
  deploy simulate cluster.hcl --bad hello          a release that never gets healthy`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], nil)
			if err != nil {
				return err
			}
			s, err := d.Simulate(q)
			if err != nil {
				return err
			}
			if a.json {
				err = views.JSON(os.Stdout, s)
			} else {
				views.Simulation(os.Stdout, s)
			}
			if err == nil && len(s.Broken) > 0 {
				return exitCode(exitError)
			}
			return err
		},
	}
	cmd.Flags().IntVar(&q.Agents, "agents", 0, "scale the groups to `N` instances in all")
	cmd.Flags().BoolVar(&q.First, "first", false, "a first deploy instead of an update")
	cmd.Flags().StringArrayVar(&q.Faults, "fail", nil, "`group/index@moment` that fails: prepare, start, watch, rollback, stop; with :silent no answer comes")
	cmd.Flags().StringArrayVar(&q.Bad, "bad", nil, "`group` whose new generation never becomes healthy")
	cmd.Flags().Uint64Var(&q.Seed, "seed", 1, "of latencies; the same seed gives the same run")
	return cmd
}
