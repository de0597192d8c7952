package cli

import (
	"github.com/spf13/cobra"
)

func metricsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "metrics MANIFEST",
		Short: "Print the metrics of all agents for Prometheus",
		Long: `Prints the metrics of all VMs, agents and processes in the text format of
Prometheus, each with the label "instance". deploy_agent_up is 0 for an agent that
does not answer. To let a Prometheus server scrape every agent, add this block to
the deployment: metrics { port = 9100 }.`,
		Example: `  deploy metrics examples/cluster.hcl
  deploy metrics cluster.hcl > /var/lib/prometheus/node-exporter/cluster.prom`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], a.aloud())
			if err != nil {
				return err
			}
			m, err := d.Metrics(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.answer(m, nil)
			}
			return m.WriteText(a.out)
		},
	}
}
