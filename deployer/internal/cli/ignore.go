package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
)

func ignoreCommand(a *app) *cobra.Command {
	return ignoring(a, &cobra.Command{
		Use:   "ignore MANIFEST GROUP[/INDEX]...",
		Short: "Exclude instances from all changes until unignore",
		Long: `Excludes instances from all changes: no apply, restart, stop or rollback changes or
removes them. They count for min_available if they are healthy. The plan shows which
changes are pending for them.`,
		Example: `  deploy ignore cluster.hcl router/2         while somebody looks into it`,
	}, (*deployer.Deployer).Ignore, "Ignored from now on: %s", "They were ignored already.")
}

func unignoreCommand(a *app) *cobra.Command {
	return ignoring(a, &cobra.Command{
		Use:     "unignore MANIFEST GROUP[/INDEX]...",
		Short:   "Include ignored instances again; the next apply updates them",
		Example: `  deploy unignore cluster.hcl router/2 && deploy apply cluster.hcl`,
	}, (*deployer.Deployer).Unignore, "No longer ignored: %s", "None of them was ignored.")
}

func ignoring(a *app, cmd *cobra.Command, change func(*deployer.Deployer, context.Context, []string) ([]string, error), done, nothing string) *cobra.Command {
	cmd.Args = cobra.MinimumNArgs(2)
	cmd.ValidArgsFunction = completeInstances(a, true)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d, err := a.deployer(args[0], a.aloud())
		if err != nil {
			return err
		}
		changed, err := change(d, cmd.Context(), args[1:])
		if err != nil {
			return err
		}
		return a.answer(map[string][]string{"changed": changed}, func(w io.Writer, _ bool) { views.Changed(w, changed, done, nothing) })
	}
	return a.changing(cmd)
}
