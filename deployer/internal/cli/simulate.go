package cli

import (
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
)

func simulateCommand(a *app) *cobra.Command {
	var q deployer.SimulateRequest
	var trace bool
	cmd := &cobra.Command{
		Use:   "simulate MANIFEST",
		Short: "Try a rollout with simulated agents in virtual time",
		Long: `Runs the rollout of an apply, with the manifest's own policies, against simulated
agents: an update of every instance, a restart, or a first deploy. The seed decides
the latencies. The exit code is 1 if the rollout broke a promise: at least
min_available instances serve, at most max_in_flight are changed at once, canaries go
first, no other instance is changed, and the rollout ends.`,
		Example: `  deploy simulate cluster.hcl --agents 2000
  deploy simulate cluster.hcl --fail router/2@start --seed 7
  deploy simulate cluster.hcl --bad hello                   a release that never gets healthy
  deploy simulate cluster.hcl --kill 20 --kill 40           the deployer dies at these events
  deploy simulate cluster.hcl --sick router/1@30s-2m --pause 60s-90s --trace`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], nil)
			if err != nil {
				return err
			}
			if trace {
				q.Trace = func(at time.Duration, event string, commands []string) {
					views.SimulationEvent(a.errOut, at, event, commands)
				}
			}
			s, err := d.Simulate(q)
			if err != nil {
				return err
			}
			err = a.answer(s, func(w io.Writer, _ bool) { views.Simulation(w, s) })
			if err == nil && len(s.Broken) > 0 {
				return exitCode(exitError)
			}
			return err
		},
	}
	cmd.Flags().IntVar(&q.Agents, "agents", 0, "scale the groups to `N` instances in all")
	cmd.Flags().BoolVar(&q.First, "first", false, "simulate a first deploy instead of an update")
	cmd.Flags().BoolVar(&q.Restart, "restart", false, "simulate a restart instead of an update")
	cmd.Flags().StringArrayVar(&q.Faults, "fail", nil, "`group/index@moment` that fails: "+strings.Join(deployer.SimulatedMoments(), ", ")+"; with :silent no answer comes")
	cmd.Flags().StringArrayVar(&q.Bad, "bad", nil, "`group` whose new generation never becomes healthy")
	cmd.Flags().StringArrayVar(&q.Sick, "sick", nil, "`group/index` that does not serve; with @30s from then on, with @30s-2m for a while")
	cmd.Flags().StringSliceVar(&q.Held, "hold", nil, "`group/index` that an operator has stopped")
	cmd.Flags().StringSliceVar(&q.Ignored, "ignore", nil, "`group/index` that an operator ignores")
	cmd.Flags().StringArrayVar(&q.Pauses, "pause", nil, "an operator's pause, `60s-90s`")
	cmd.Flags().IntSliceVar(&q.Kills, "kill", nil, "`event` at which the deployer is killed, to be followed by another apply 5 s later")
	cmd.Flags().BoolVar(&trace, "trace", false, "print every event, and the commands that follow, to stderr")
	cmd.Flags().Uint64Var(&q.Seed, "seed", 1, "seed of the latencies; the same seed gives the same run")
	return cmd
}
