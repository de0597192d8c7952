package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
)

func (a *app) ignore() *cobra.Command {
	return a.ignoring(&cobra.Command{
		Use:   "ignore MANIFEST GROUP[/INDEX]...",
		Short: "Leave instances alone, whatever the manifest says, until unignore",
		Long: `Leaves instances alone from now on: no apply, restart, stop or rollback touches
them, and none removes them. They count for what their group can do without, as
they are. The plan shows what they are owed.`,
		Example: `  deploy ignore cluster.hcl router/2         while somebody looks into it`,
	}, (*deployer.Deployer).Ignore, "Ignored from now on: ", "They were ignored already.")
}

func (a *app) unignore() *cobra.Command {
	return a.ignoring(&cobra.Command{
		Use:     "unignore MANIFEST GROUP[/INDEX]...",
		Short:   "End ignore: the next apply brings instances up to date",
		Example: `  deploy unignore cluster.hcl router/2 && deploy apply cluster.hcl`,
	}, (*deployer.Deployer).Unignore, "No longer ignored: ", "None of them was ignored.")
}

func (a *app) ignoring(cmd *cobra.Command, change func(*deployer.Deployer, context.Context, []string) ([]string, error), done, nothing string) *cobra.Command {
	cmd.Args = cobra.MinimumNArgs(2)
	cmd.ValidArgsFunction = a.completeInstances(true)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d, err := a.deployer(args[0], a.aloud())
		if err != nil {
			return err
		}
		changed, err := change(d, cmd.Context(), args[1:])
		if err != nil {
			return err
		}
		if a.json {
			return views.JSON(os.Stdout, map[string][]string{"changed": changed})
		}
		if len(changed) == 0 {
			fmt.Println(nothing)
			return nil
		}
		fmt.Println(done + strings.Join(changed, ", "))
		return nil
	}
	return a.changing(cmd)
}
