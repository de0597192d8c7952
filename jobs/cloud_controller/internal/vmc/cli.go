// Package vmc is the command line of the cloud controller's users: a file a group
// of commands. Results go to standard output, what is being done to standard
// error, and the exit status is 0 only if all that was asked for is so.
package vmc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
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
	root := v.root()
	root.SetArgs(negativeLast(args))
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
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

// vmc is what the commands share.
type vmc struct {
	version string // of this program

	in       io.Reader
	out, err io.Writer

	json   bool
	trace  bool
	target string // flag
	as     string // flag
}

func (v *vmc) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "vmc",
		Short: "Push apps to a Cloud Foundry of the first generation, and look after them",
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
	flags.StringVarP(&v.as, "as", "u", "", "act as the user with this `email`; administrators can")
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
	add("account", v.targetCommand(), v.loginCommand(), v.logoutCommand(), v.registerCommand(), v.passwdCommand(),
		v.infoCommand(), v.runtimesCommand(), v.frameworksCommand(), v.usersCommand(), v.deleteUserCommand())
	add("app", v.pushCommand(), v.updateCommand(), v.appsCommand(), v.startCommand(), v.stopCommand(), v.restartCommand(),
		v.deleteCommand(), v.scaleCommand(), v.memCommand(), v.envCommand(), v.mapCommand(), v.unmapCommand())
	add("look", v.instancesCommand(), v.statsCommand(), v.logsCommand(), v.filesCommand(), v.crashesCommand(), v.crashlogsCommand())
	add("service", v.servicesCommand(), v.createServiceCommand(), v.deleteServiceCommand(), v.bindServiceCommand(), v.unbindServiceCommand())
	root.AddCommand(v.versionCommand())
	return root
}

// client returns one for whoever is logged in, or nobody.
func (v *vmc) client() (*client.Client, error) {
	saved, err := loadSettings()
	if err != nil {
		return nil, err
	}
	target := saved.Target
	for _, other := range []string{os.Getenv("VMC_TARGET"), v.target} {
		if other == "" {
			continue
		}
		if target, err = client.ParseTarget(other); err != nil {
			return nil, err
		}
	}
	if target == "" {
		return nil, errors.New("there is no target yet: vmc target HOST says where the cloud is, such as api.cf.localhost:8080")
	}
	token := saved.Tokens[target]
	if given := os.Getenv("VMC_TOKEN"); given != "" {
		token = given
	}
	c, err := client.New(target, token)
	if err != nil {
		return nil, err
	}
	c.As = v.as
	c.Retrying = func(err error) { fmt.Fprintf(v.err, "Trying again: %v\n", err) }
	if v.trace {
		c.Trace = func(method, path string, status int, took time.Duration) {
			fmt.Fprintf(v.err, "%s %s: %d, %v\n", method, path, status, took.Round(time.Millisecond))
		}
	}
	return c, nil
}

// command makes a command that has a client.
func (v *vmc) command(c *cobra.Command, run func(ctx context.Context, c *client.Client, args []string) error) *cobra.Command {
	c.RunE = func(cmd *cobra.Command, args []string) error {
		api, err := v.client()
		if err != nil {
			return err
		}
		defer api.Close()
		return run(cmd.Context(), api, args)
	}
	if c.ValidArgsFunction == nil {
		c.ValidArgsFunction = cobra.NoFileCompletions
	}
	return c
}

// completeApps completes names of apps.
func (v *vmc) completeApps(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 && !strings.Contains(cmd.Use, "APP...") {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	api, err := v.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer api.Close()
	api.Retrying = nil
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	apps, err := api.Apps(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := []string{}
	for _, app := range apps {
		names = append(names, app.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// explain adds what to do next, where that is known.
func (v *vmc) explain(err error) string {
	text := err.Error()
	if client.Is(err, client.CodeForbidden) && !strings.Contains(text, "too many attempts") {
		text += "\nLog in with vmc login, if you have not or a while ago; vmc register makes an account."
	}
	return text
}

// printJSON prints a result for machines.
func (v *vmc) printJSON(result any) error {
	e := json.NewEncoder(v.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(result)
}

// say tells what is being done.
func (v *vmc) say(format string, args ...any) { fmt.Fprintf(v.err, format+"\n", args...) }

// terminal returns the file that a stream is, if it is a terminal.
func terminal(stream any) (*os.File, bool) {
	f, ok := stream.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// versionCommand prints the version of this program, not the cloud's.
func (v *vmc) versionCommand() *cobra.Command {
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
