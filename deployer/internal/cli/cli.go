// Package cli is the command line: one file a command, each from flags to one
// request, one call and one view.
package cli

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/deployer/internal/cli/views"
	"github.com/clusterworks/deploy/deployer/internal/localvm/provider"
	"github.com/clusterworks/deploy/deployer/internal/localvm/publish"
	"github.com/clusterworks/deploy/deployer/internal/localvm/vminit"
)

// Builtin has what the binary carries: its version, the jobs and templates folders.
type Builtin struct {
	Version         string // "" if the build set none
	Jobs, Templates fs.FS
}

// Exit codes.
const (
	exitOK      = 0 // done, or nothing to do
	exitError   = 1
	exitChanges = 2 // plan: there are changes
	exitFailing = 3 // apply, plan, status, domains: nothing (more) to change, but something does not do what it should
)

// GCPercent is the growth of the heap after which a command collects garbage. Most
// commands are short: memory is cheaper than a fifth of the time of a large plan.
const GCPercent = 200

// Main runs the command line and returns the exit code.
func Main(args []string, b Builtin) int {
	// The provider serves under its own name when an engine is run by hand.
	if provider.IsProvider(args[0]) {
		return provider.Main()
	}
	if len(args) > 1 {
		switch args[1] { // processes of local VMs: not commands for people
		case "local-init":
			return vminit.Main(args[2:])
		case "local-publish":
			return publish.Main(args[2:])
		}
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(GCPercent)
	}
	ctx, signals, stop := listen()
	defer stop()
	a := &app{
		builtin: b, signals: signals, passphrase: takePassphrase(),
		in: os.Stdin, out: &pipe{File: os.Stdout, signals: signals}, errOut: &pipe{File: os.Stderr, signals: signals},
	}
	return a.run(ctx, args[1:])
}

// run runs one command and returns its exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := rootCommand(a)
	root.SetArgs(args)
	root.SetOut(a.out)
	root.SetErr(a.errOut)
	err := root.ExecuteContext(ctx)
	code, show := exitStatus(ctx, err)
	if show && a.json && !a.answered {
		_ = views.ErrorJSON(a.out, err) // and for people, below
	}
	if show {
		views.Error(a.errOut, err, color(a.errOut), uint(width(a.errOut)))
	}
	return code
}

func rootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "deploy",
		Short: "Deploy and update clusters that a manifest describes",
		Long: `deploy makes and updates the cluster that a manifest describes: it creates VMs with
Terraform, puts an agent on each, and updates jobs without losing a request.`,
		Example: `  deploy apply examples/cluster.hcl     make it so
  deploy plan examples/cluster.hcl      show what apply would do
  deploy status examples/cluster.hcl    what runs, and whether it is healthy
  deploy logs -f examples/cluster.hcl router/0`,
		Version:       a.builtin.version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.PersistentFlags().StringVar(&a.stateDir, "state", "", "state folder (default: .deploy beside the manifest)")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	root.PersistentFlags().BoolVarP(&a.verbose, "verbose", "v", false, "log details to stderr")
	root.PersistentFlags().StringArrayVar(&a.vars, "var", nil, "set a manifest variable, `name=value` (may be repeated)")
	root.PersistentFlags().StringArrayVar(&a.varFiles, "var-file", nil, "`file` with values of manifest variables (may be repeated)")
	for _, group := range []struct {
		title    string
		commands []*cobra.Command
	}{
		{"Change a cluster:", []*cobra.Command{
			applyCommand(a), planCommand(a), rollbackCommand(a), destroyCommand(a), pauseCommand(a), resumeCommand(a),
		}},
		{"Look at a cluster:", []*cobra.Command{
			statusCommand(a), logsCommand(a), doctorCommand(a), engineCommand(a), historyCommand(a), diffCommand(a), metricsCommand(a), domainsCommand(a),
		}},
		{"Operate instances:", []*cobra.Command{
			startCommand(a), stopCommand(a), restartCommand(a), recreateCommand(a), ignoreCommand(a), unignoreCommand(a),
			runCommand(a), sshCommand(a), scpCommand(a), sshConfigCommand(a), busCommand(a),
		}},
		{"Keep secrets and state:", []*cobra.Command{secretCommand(a), rotateCACommand(a), stateCommand(a)}},
		{"Write manifests and jobs:", []*cobra.Command{validateCommand(a), formatCommand(a), simulateCommand(a), releaseCommand(a)}},
	} {
		root.AddGroup(&cobra.Group{ID: group.title, Title: group.title})
		for _, cmd := range group.commands {
			cmd.GroupID = group.title
			root.AddCommand(cmd)
		}
	}
	root.AddCommand(versionCommand(a))
	root.PersistentPreRun = func(cmd *cobra.Command, _ []string) {
		a.signals.reads.Store(cmd.Annotations[changingMark] == "")
		a.autoApprove, _ = cmd.Flags().GetBool("auto-approve") // an error: the command never asks
	}
	explainArguments(root)
	completeManifests(root)
	return root
}

// completeManifests has commands complete the manifest's file that say nothing
// else about their arguments.
func completeManifests(cmd *cobra.Command) {
	if cmd.ValidArgsFunction == nil && strings.Contains(cmd.Use, "MANIFEST") {
		cmd.ValidArgsFunction = completeFiles
	}
	for _, sub := range cmd.Commands() {
		completeManifests(sub)
	}
}

// explainArguments makes a wrong number of arguments say what is expected.
func explainArguments(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return fmt.Errorf("cannot run %s: it %w; usage: %s", cmd.CommandPath(), err, cmd.UseLine())
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		explainArguments(sub)
	}
}

// version returns the version that the build set, else the module's when it was
// built by "go install", else "devel".
func (b Builtin) version() string {
	if b.Version != "" {
		return b.Version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Example: `  deploy version
  deploy version --json | jq -r .version`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			version := a.builtin.version()
			v := map[string]string{"version": version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH}
			return a.answer(v, func(w io.Writer, _ bool) {
				views.Line(w, "deploy %s (%s, %s/%s)", version, v["go"], v["os"], v["arch"])
			})
		},
	}
}
