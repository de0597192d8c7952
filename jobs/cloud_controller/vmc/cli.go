// Package vmc is the command line of the cloud controller's users: a file a group
// of commands. Results go to standard output, what is being done to standard
// error, and the exit status is 0 only if all that was asked for is so.
package vmc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
)

// Main runs a command line and returns the exit status. The version is what the
// program shows as its own.
func Main(version string, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second one ends the process
	return Run(ctx, version, args, os.Stdin, os.Stdout, os.Stderr)
}

// Run is Main with all that it reads and writes.
func Run(ctx context.Context, version string, args []string, in io.Reader, out, errOut io.Writer) int {
	v := &vmc{version: version, in: in, out: out, err: errOut}
	root := rootCommand(v)
	root.SetArgs(negativeLast(args))
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var ended exitStatus
	if errors.As(err, &ended) {
		return int(ended)
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	fmt.Fprintln(errOut, "Error:", v.explain(err))
	return 1
}

var negative = regexp.MustCompile(`^-[0-9]+$`)

// negativeLast lets "scale APP -1" be what it looks like, and not a flag 1: such a
// number is always a command's last argument.
func negativeLast(args []string) []string {
	i := slices.IndexFunc(args, negative.MatchString)
	if i < 0 || slices.Contains(args, "--") {
		return args
	}
	return append(slices.Delete(slices.Clone(args), i, i+1), "--", args[i])
}

func rootCommand(v *vmc) *cobra.Command {
	root := &cobra.Command{
		Use:   "vmc",
		Short: "Push apps to a Cloud Foundry of the first generation, and manage them",
		Example: `  vmc target api.cf.localhost:8080
  vmc register me@example.com
  vmc push                            the app in this folder, as its manifest.yml says
  vmc push hello --path app --memory 64M
  vmc scale hello 3
  vmc logs -f hello
  vmc apps --json`,
		Version:       v.version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	flags := root.PersistentFlags()
	flags.BoolVar(&v.json, "json", false, "print the result as JSON")
	flags.StringVar(&v.target, "target", "", "`host` of the cloud controller's API, for this command only (VMC_TARGET)")
	flags.StringVarP(&v.as, "as", "u", "", "act as the user with this `email` (administrators only)")
	flags.BoolVar(&v.trace, "trace", false, "show each request")
	root.AddGroup(
		&cobra.Group{ID: "account", Title: "The cloud and you:"},
		&cobra.Group{ID: "app", Title: "Apps:"},
		&cobra.Group{ID: "look", Title: "What apps do:"},
		&cobra.Group{ID: "service", Title: "Services:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("account", targetCommand(v), loginCommand(v), logoutCommand(v), registerCommand(v), passwdCommand(v),
		infoCommand(v), runtimesCommand(v), frameworksCommand(v), usersCommand(v), deleteUserCommand(v))
	add("app", pushCommand(v), updateCommand(v), appsCommand(v), startCommand(v), stopCommand(v), restartCommand(v), openCommand(v),
		deleteCommand(v), releasesCommand(v), rollbackCommand(v), promoteCommand(v), scaleCommand(v), memCommand(v), envCommand(v), healthCommand(v), renameCommand(v), mapCommand(v), domainsCommand(v), unmapCommand(v))
	add("look", appCommand(v), eventsCommand(v), instancesCommand(v), statsCommand(v), logsCommand(v), filesCommand(v), crashesCommand(v), crashlogsCommand(v), sshCommand(v), runCommand(v))
	add("service", servicesCommand(v), createServiceCommand(v), deleteServiceCommand(v), bindServiceCommand(v), unbindServiceCommand(v),
		snapshotsCommand(v), snapshotCommand(v), rollbackSnapshotCommand(v), deleteSnapshotCommand(v), tunnelCommand(v))
	root.AddCommand(versionCommand(v))
	return root
}

// versionCommand prints the version of this program, not the cloud's.
func versionCommand(v *vmc) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of vmc",
		Example: `  vmc version
  vmc info                            the cloud's version`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if v.json {
				return v.printJSON(map[string]string{"version": v.version})
			}
			_, err := fmt.Fprintf(v.out, "vmc version %s\n", v.version)
			return err
		},
	}
}
