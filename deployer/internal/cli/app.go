package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/zclconf/go-cty/cty"
	"golang.org/x/term"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

// app describes what the commands share: the global flags, and where they read and
// print.
type app struct {
	builtin    Builtin
	signals    *signals
	in         *os.File
	out        io.Writer                          // answers
	errOut     io.Writer                          // progress, questions, errors
	passphrase func(confirm bool) (string, error) // asks for that of an encrypted state

	stateDir string
	json     bool
	verbose  bool
	vars     []string
	varFiles []string
	values   map[string]cty.Value // of variables, from a saved plan
	lockWait time.Duration
	takeover bool
	// autoApprove: the command was told not to ask.
	autoApprove bool
	shown       views.Progress // of the command that runs, nil if it has none
	// answered: the answer, or how the run ended, was printed for machines.
	answered bool
	// acceptDataLoss lets an empty disk take the place of one that is gone, and what
	// lives on instances be lost.
	acceptDataLoss bool
}

// changingMark is the annotation of a command that changes something.
const changingMark = "changing"

// changing gives a command that changes something the flags for when another one
// does too.
func (a *app) changing(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().DurationVar(&a.lockWait, "lock-wait", 0, "how long to wait for another deploy that works on this deployment")
	cmd.Flags().BoolVar(&a.takeover, "takeover", false, "take over from another deploy that works on this deployment, which agents and state then refuse")
	cmd.Annotations = map[string]string{changingMark: "yes"}
	return cmd
}

// approvable gives a command that asks first the flag to do without.
func approvable(cmd *cobra.Command, auto *bool) *cobra.Command {
	cmd.Flags().BoolVar(auto, "auto-approve", false, "do not ask")
	return cmd
}

// aloud prints what a command without progress has to say beside its answer.
func (a *app) aloud() func(deployer.Event) { return views.NewPlainProgress(a.errOut).Event }

// deployer makes the deployer of a manifest.
func (a *app) deployer(manifest string, report func(deployer.Event)) (*deployer.Deployer, error) {
	vars := map[string]string{}
	for _, v := range a.vars {
		name, value, found := strings.Cut(v, "=")
		if !found {
			return nil, fmt.Errorf("cannot use --var %q: it must be name=value", v)
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
		Interrupt:  a.signals.interrupt,
		AskBuild:   a.askBuild(),
		LockWait:   a.lockWait,
		Takeover:   a.takeover,
		Passphrase: a.passphrase,
		Identity:   os.Getenv(identityVariable),
		Log:        slog.New(slog.NewTextHandler(a.errOut, &slog.HandlerOptions{Level: level})),
	})
}

// progress is the view of a run's events.
func (a *app) progress() views.Progress {
	switch {
	case a.json:
		a.shown = views.NewJSONProgress(a.out)
	case isTerminal(a.errOut) && os.Getenv("TERM") != "dumb": // which shows escapes as they are
		a.shown = views.NewLiveProgress(a.errOut, color(a.errOut), func() int { return width(a.errOut) })
	default:
		a.shown = views.NewPlainProgress(a.errOut)
	}
	return a.shown
}

// quiet is progress for commands whose standard output is their answer.
func (a *app) quiet() views.Progress {
	if a.json {
		return views.NoProgress{}
	}
	return a.progress()
}

// isTerminal reports whether a person reads w. Tests print to buffers.
func isTerminal(w io.Writer) bool {
	f, ok := w.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}

func color(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(w)
}

// width returns the columns of a terminal, 80 of anything else.
func width(w io.Writer) int {
	if f, ok := w.(interface{ Fd() uintptr }); ok {
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 20 {
			return columns
		}
	}
	return 80
}

// answer prints what a command was asked for: v for machines, else what text
// prints for people.
func (a *app) answer(v any, text func(w io.Writer, color bool)) error {
	if a.json {
		a.answered = true
		return views.JSON(a.out, v)
	}
	return a.print(text)
}

// print prints for people, all of it or an error.
func (a *app) print(text func(w io.Writer, color bool)) error {
	var b bytes.Buffer
	text(&b, color(a.out))
	if _, err := a.out.Write(b.Bytes()); err != nil {
		return fmt.Errorf("cannot print: %w", err)
	}
	return nil
}

// result prints how a run ended.
func (a *app) result(r *deployer.Result, err error) error {
	if r == nil {
		return err
	}
	if a.json {
		a.answered = true
		return errors.Join(err, views.ResultJSON(a.out, r, err))
	}
	if err == nil {
		return a.print(func(w io.Writer, _ bool) { views.Result(w, r) })
	}
	return err
}

// approve shows the plan and asks, unless told not to.
func (a *app) approve(progress views.Progress, p *plan.Plan, auto bool, question string) (bool, error) {
	progress.Pause()
	defer progress.Resume()
	if !a.json {
		if err := a.print(func(w io.Writer, color bool) { views.Plan(w, p, color) }); err != nil {
			return false, err
		}
	}
	if lost := views.Bereaved(p); auto && len(lost) > 0 && !a.acceptDataLoss {
		return false, fmt.Errorf("cannot take away without approval what lives on %s: move it first, or use --accept-data-loss: %w", strings.Join(lost, ", "), deployer.ErrNotApproved)
	}
	if auto && p.LostDisk() && !a.acceptDataLoss {
		return false, fmt.Errorf("cannot replace a lost disk by an empty one without approval: restore the disk, or use deploy apply --accept-data-loss: %w", deployer.ErrNotApproved)
	}
	wanted, warn := "yes", (*plan.Plan)(nil)
	if p.LosesData() {
		wanted, warn = p.Deployment, p
	}
	return a.ask(auto, question, wanted, warn)
}

// ask asks on the terminal, unless told not to, and reports whether the answer is
// the wanted one. If warn is not nil, it first says what data the plan loses.
func (a *app) ask(auto bool, question, wanted string, warn *plan.Plan) (bool, error) {
	if auto {
		return true, nil
	}
	if a.json || !term.IsTerminal(int(a.in.Fd())) {
		return false, fmt.Errorf("cannot ask for approval: standard input is not a terminal; use --auto-approve: %w", deployer.ErrNotApproved)
	}
	if err := a.print(func(w io.Writer, color bool) { views.Question(w, warn, question, wanted, color) }); err != nil {
		return false, err
	}
	answer := make(chan string, 1) // the reader ends with the process if nobody answers
	go func() {
		line, _ := bufio.NewReader(a.in).ReadString('\n')
		answer <- strings.TrimSpace(line)
	}()
	select {
	case line := <-answer:
		return line == wanted, nil
	case <-a.signals.interrupt:
		return false, a.print(func(w io.Writer, _ bool) { views.Line(w, "") })
	}
}
