// Package vmc is the command line of the cloud controller's users: a file a group
// of commands. Results go to standard output, what is being done to standard
// error, and the exit status is 0 only if all that was asked for is so.
package vmc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

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
	root := rootCommand(v)
	usageErrors(root)
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
	status := statusOf(ctx, err)
	if status == exitInterrupted {
		if goesOn := (continues{}); errors.As(err, &goesOn) {
			err = goesOn
		} else {
			err = errors.New("interrupted")
		}
	}
	fmt.Fprintln(errOut, "Error:", v.explain(err))
	if v.json {
		if err := v.printJSONLine(failure{err.Error(), status}); err != nil {
			fmt.Fprintln(errOut, "Error:", err)
		}
	}
	return status
}

// The exit statuses, which the help lists; ssh and run end with their command's.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitLogin       = 3
	exitUnreachable = 4
	exitInterrupted = 130
)

const exitHelp = `
Exit status:
  0    all that was asked for is done, and runs
  1    it was refused or has failed; the error says why
  2    the command line is wrong; nothing was done
  3    you are not logged in, or may not do this
  4    the cloud cannot be reached
  130  interrupted
  vmc ssh and vmc run end with the status of their command.
`

// exitHelpTemplate shows the exit statuses in the help of vmc itself.
const exitHelpTemplate = "{{if not .HasParent}}" + exitHelp + "{{end}}"

// failure is an error for machines.
type failure struct {
	Error  string `json:"error"`
	Status int    `json:"status"` // the exit status
}

// statusOf returns the exit status for an error.
func statusOf(ctx context.Context, err error) int {
	var wrong usageError
	var refused denied
	var unreachable *net.OpError
	switch {
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &wrong), strings.HasPrefix(err.Error(), "unknown command "): // which cobra says
		return exitUsage
	case errors.Is(err, errNotLoggedIn), errors.As(err, &refused), client.Is(err, client.CodeForbidden):
		return exitLogin
	case errors.As(err, &unreachable) && unreachable.Op == "dial":
		return exitUnreachable
	}
	return exitFailed
}

// continues is an interruption of vmc that does not interrupt what it had begun.
type continues struct{ what string }

func (e continues) Error() string { return "interrupted; " + e.what }

func (e continues) Unwrap() error { return context.Canceled }

// errNotLoggedIn says that nobody is logged in where somebody must be.
var errNotLoggedIn = errors.New("you are not logged in: vmc login EMAIL, or vmc register EMAIL to make an account")

// usageError describes what is wrong with a command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// usageErrors marks what is wrong with flags and arguments, and says which command's
// help tells more.
func usageErrors(c *cobra.Command) {
	wrong := func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see %s -h", err, c.CommandPath())}
	}
	c.SetFlagErrorFunc(wrong)
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return wrong(c, fmt.Errorf("%w; usage: %s", err, c.UseLine()))
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		usageErrors(sub)
	}
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
	root.SetUsageTemplate(root.UsageTemplate() + exitHelpTemplate)
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
		snapshotsCommand(v), snapshotCommand(v), rollbackSnapshotCommand(v), deleteSnapshotCommand(v), exportServiceCommand(v), importServiceCommand(v), tunnelCommand(v))
	root.AddCommand(versionCommand(v))
	for _, c := range root.Commands() {
		c.SuggestFor = elsewhere[c.Name()]
	}
	return root
}

// elsewhere are the names that commands have in the vmc of 2012 and in later clients: who
// types one is told ours.
var elsewhere = map[string][]string{
	"apps": {"ls"}, "app": {"status"}, "create-service": {"provision-service"}, "crashlogs": {"crash-logs"}, "delete": {"rm"}, "domains": {"routes"},
	"env": {"set-env", "unset-env", "env-add", "env-del"}, "files": {"cat"}, "health": {"get-health-check", "set-health-check"}, "login": {"auth"},
	"map": {"map-route", "create-route"}, "push": {"deploy"}, "register": {"add-user"}, "releases": {"revisions"}, "restart": {"restage", "restart-app-instance"},
	"services": {"marketplace"}, "target": {"api", "targets"}, "unmap": {"unmap-route", "delete-route"}, "update": {"upgrade"},
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
