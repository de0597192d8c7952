// Package cli is the command line: one file a command, each from flags to one
// request, one call and one view.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/zclconf/go-cty/cty"
	"golang.org/x/term"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
	"github.com/clusterworks/deploy/deployer/internal/localvm"
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
)

// exitCode is an error that carries an exit code and has been shown already.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Main runs the command line and returns the exit code.
func Main(args []string, b Builtin) int {
	// The provider serves under its own name when an engine is run by hand.
	if localvm.IsProvider(args[0]) {
		return localvm.ProviderMain()
	}
	if len(args) > 1 {
		switch args[1] { // processes of local VMs: not commands for people
		case "local-init":
			return localvm.InitMain(args[2:])
		case "local-publish":
			return localvm.PublishMain(args[2:])
		}
	}
	ctx, interrupt, stop := signals()
	defer stop()
	a := &app{builtin: b, interrupt: interrupt, passphrase: takePassphrase()}
	root := a.root()
	root.SetArgs(args[1:])
	err := root.ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	}
	views.Error(os.Stderr, err, colorOn(os.Stderr), width(os.Stderr))
	return exitError
}

// signals returns a context that ends at the second interrupt, and a channel
// that closes at the first: finish the step, save, leave.
func signals() (context.Context, <-chan struct{}, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	interrupt := make(chan struct{})
	in := make(chan os.Signal, 2)
	signal.Notify(in, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-in:
			close(interrupt)
		case <-ctx.Done():
			return
		}
		select {
		case <-in:
			cancel(interruptedTwice{})
		case <-ctx.Done():
		}
	}()
	return ctx, interrupt, func() {
		signal.Stop(in)
		cancel(nil)
		<-done
	}
}

// interruptedTwice is why a run was left at once.
type interruptedTwice struct{}

func (interruptedTwice) Error() string {
	return "interrupted twice: what agents have begun, they finish; the next apply continues from there"
}

// Is lets whoever looks for the end of a context find it.
func (interruptedTwice) Is(err error) bool { return err == context.Canceled }

// app is what the commands share: the global flags.
type app struct {
	builtin   Builtin
	interrupt <-chan struct{}
	// passphrase asks for that of an encrypted state.
	passphrase func(confirm bool) (string, error)

	stateDir string
	json     bool
	verbose  bool
	vars     []string
	varFiles []string
	values   map[string]cty.Value // of variables, from a saved plan
	lockWait time.Duration
	takeover bool
	// acceptDataLoss: an empty disk may take the place of one that is gone.
	acceptDataLoss bool
}

// changing gives a command that changes something the flags for when another one
// does too.
func (a *app) changing(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().DurationVar(&a.lockWait, "lock-wait", 0, "how long to wait while another deploy works on this deployment")
	cmd.Flags().BoolVar(&a.takeover, "takeover", false, "take over from a deploy that works on this deployment: agents and state refuse it from then on")
	return cmd
}

// aloud reports what a command without progress has to say beside its answer.
func (a *app) aloud() func(deployer.Event) { return views.NewPlainProgress(os.Stderr).Event }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "deploy",
		Short: "Make a cluster what its manifest says",
		Long: `deploy makes a cluster what its manifest says: VMs by Terraform, an agent on
each, jobs installed, supervised and updated without losing a request.`,
		Example: `  deploy apply examples/cluster.hcl     make it so
  deploy plan examples/cluster.hcl      show what apply would do
  deploy status examples/cluster.hcl    what is there and how it does
  deploy logs -f examples/cluster.hcl router/0`,
		Version:       a.builtin.version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.PersistentFlags().StringVar(&a.stateDir, "state", "", "state folder (default: .deploy beside the manifest)")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print for machines")
	root.PersistentFlags().BoolVarP(&a.verbose, "verbose", "v", false, "log what is done in detail to stderr")
	root.PersistentFlags().StringArrayVar(&a.vars, "var", nil, "set a manifest variable, `name=value` (may be repeated)")
	root.PersistentFlags().StringArrayVar(&a.varFiles, "var-file", nil, "`file` with values of manifest variables (may be repeated)")
	root.AddCommand(a.changing(a.apply()), a.plan(), a.changing(a.destroy()), a.status(), a.metrics(), a.doctor(), a.logs(), a.ssh(), a.bus(), a.stop(), a.start(), a.restart(), a.recreate(), a.run(), a.pause(), a.resume(), a.rollback(), a.history(), a.diff(), a.ignore(), a.unignore(), a.validate(), a.format(), a.simulate(), a.version(),
		a.secret(), a.changing(a.rotateCA()), a.state(), a.release())
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

// deployer makes the engine for a manifest.
func (a *app) deployer(manifest string, report func(deployer.Event)) (*deployer.Deployer, error) {
	vars := map[string]string{}
	for _, v := range a.vars {
		name, value, found := strings.Cut(v, "=")
		if !found {
			return nil, fmt.Errorf("cannot use --var %q: want name=value", v)
		}
		vars[name] = value
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("cannot find this program's own file: %w", err)
	}
	packages := os.Getenv("DEPLOY_PACKAGES")
	if packages == "" {
		packages = filepath.Join(filepath.Dir(executable), "packages")
	}
	level := slog.LevelWarn
	if a.verbose {
		level = slog.LevelDebug
	}
	return deployer.New(deployer.Config{
		Manifest:   manifest,
		StateDir:   a.stateDir,
		Vars:       vars,
		VarFiles:   a.varFiles,
		Values:     a.values,
		Environ:    os.Environ(),
		Jobs:       a.builtin.Jobs,
		Templates:  a.builtin.Templates,
		Packages:   packages,
		Executable: executable,
		Report:     report,
		Interrupt:  a.interrupt,
		LockWait:   a.lockWait,
		Takeover:   a.takeover,
		Passphrase: a.passphrase,
		Identity:   os.Getenv(identityVariable),
		Log:        slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
	})
}

// progress is the view of a run's events.
func (a *app) progress() views.Progress {
	if a.json {
		return views.NewJSONProgress(os.Stdout)
	}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		return views.NewLiveProgress(os.Stderr, colorOn(os.Stderr), func() int { return int(width(os.Stderr)) })
	}
	return views.NewPlainProgress(os.Stderr)
}

func colorOn(f *os.File) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

func width(f *os.File) uint {
	if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 20 {
		return uint(w)
	}
	return 80
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

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			version := a.builtin.version()
			if a.json {
				return views.JSON(os.Stdout, map[string]string{"version": version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
			}
			_, err := fmt.Printf("deploy %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
