package cli

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
	"github.com/clusterworks/deploy/deployer/internal/packages"
)

func releaseCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "release",
		Short:   "Create releases: archives of jobs with their programs",
		Example: `  deploy release create examples/jobs -o hello-1.2.tar.gz --version 1.2`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(releaseCreateCommand(a))
	return cmd
}

func releaseCreateCommand(a *app) *cobra.Command {
	var request deployer.ReleaseRequest
	cmd := &cobra.Command{
		Use:   "create DIR -o FILE.tar.gz",
		Short: "Create an archive of a folder of jobs and the programs that they need",
		Long: `Creates an archive of a folder of jobs with the programs that they need, as built by
make build. The same jobs and programs give the same archive. Prints the block that
pins it in a manifest.`,
		Example: `  deploy release create examples/jobs -o hello-1.2.tar.gz --version 1.2`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			request.Jobs = args[0]
			if request.Packages, err = packages.DefaultDir(); err != nil {
				return err
			}
			r, err := deployer.CreateRelease(request)
			if err != nil {
				return err
			}
			if !a.json {
				views.ReleaseMade(a.errOut, r)
			}
			return a.answer(r, func(w io.Writer, _ bool) { views.ReleaseBlock(w, r) })
		},
	}
	cmd.Flags().StringVarP(&request.Out, "output", "o", "", "the archive's `file`")
	cmd.Flags().StringVar(&request.Version, "version", "", "its version (default: derived from the content)")
	_ = cmd.MarkFlagRequired("output") // the flag exists
	return cmd
}
