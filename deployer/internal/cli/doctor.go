package cli

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/deployer/internal/cli/views"
)

func doctorCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor MANIFEST",
		Short: "Check what an apply needs and what runs, and suggest what to do",
		Long: `Checks the engine, the built packages, the manifest, the state folder, addresses
to publish, the kernel and its limits, disks, clocks, certificates, the bus and
every agent, and changes nothing.
Exit codes: 0 nothing fails (there may be warnings), 1 something does.`,
		Example: `  deploy doctor examples/cluster.hcl
  deploy doctor --json cluster.hcl | jq '.findings[] | select(.level != "ok")'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], nil)
			if err != nil {
				return err
			}
			diagnosis := d.Doctor(cmd.Context())
			err = a.answer(diagnosis, func(w io.Writer, color bool) { views.Diagnosis(w, diagnosis, color) })
			if err == nil && diagnosis.Failed() {
				return exitCode(exitError)
			}
			return err
		},
	}
}
