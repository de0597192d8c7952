package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
)

func stateCheckCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check MANIFEST",
		Short: "Check the state folder against the engine and the agents",
		Long: `Reads every file of the state folder and its copies, and compares them with each
other, with the engine's state and with the agents. It changes nothing. The exit
code is 1 if the state cannot be used as it is.`,
		Example: "  deploy state check cluster.hcl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], a.aloud())
			if err != nil {
				return err
			}
			diagnosis, err := d.StateFolder().Check(cmd.Context())
			if err != nil {
				return err
			}
			if err := a.answer(diagnosis, func(w io.Writer, color bool) { views.Diagnosis(w, diagnosis, color) }); err != nil {
				return err
			}
			if diagnosis.Failed() {
				return exitCode(exitError)
			}
			return nil
		},
	}
}

func stateRepairCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "repair MANIFEST",
		Short: "Restore missing and damaged files of the state folder",
		Long: `Restores state.json, secrets.json and the engine's state from the newest copy that
fits the undamaged files, or from the engine's own backup. Without a copy, it
rebuilds state.json from the engine's state. Replaced files are renamed, never
deleted. Keys and passwords are only in secrets.json, its copies and exports.`,
		Example: "  deploy state repair cluster.hcl && deploy state check cluster.hcl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], a.aloud())
			if err != nil {
				return err
			}
			done, err := d.StateFolder().Repair(cmd.Context())
			if err != nil && len(done) == 0 {
				return err
			}
			if done == nil {
				done = []deployer.Repaired{}
			}
			return errors.Join(err, a.answer(map[string]any{"repaired": done}, func(w io.Writer, _ bool) { views.Repaired(w, done) }))
		},
	}
}

func stateAdoptCommand(a *app) *cobra.Command {
	var autoApprove bool
	return approvable(&cobra.Command{
		Use:   "adopt MANIFEST",
		Short: "Let another manifest own the deployment's state",
		Long: `Two manifests that name the same deployment would share a state, and each would
delete what the other one describes. So a state belongs to the manifest that made
it. This command gives it to another manifest; run deploy plan before you apply.`,
		Example: "  deploy state adopt cluster-2.hcl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], a.aloud())
			if err != nil {
				return err
			}
			if ok, err := a.ask(autoApprove, fmt.Sprintf("Let %s be the manifest of this deployment from now on?", args[0]), "yes", nil); err != nil {
				return err
			} else if !ok {
				return deployer.ErrNotApproved
			}
			before, err := d.StateFolder().Adopt(cmd.Context())
			if err != nil {
				return err
			}
			return a.answer(map[string]string{"before": before, "now": args[0]}, func(w io.Writer, _ bool) {
				views.Line(w, "The state is that of %s now. What it would change: deploy plan %s", args[0], args[0])
			})
		},
	}, &autoApprove)
}

// exportTarget returns where an export goes: the file that is named, or standard output.
// One that others can read must be encrypted.
func exportTarget(a *app, name string) (w io.Writer, encrypt bool, finish func(error) error, err error) {
	if name != "" {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, false, nil, fmt.Errorf("cannot export: %w; name a file that does not exist", err)
		}
		return f, false, func(err error) error {
			if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
				err = errors.Join(err, os.Remove(name))
			}
			return err
		}, nil
	}
	if isTerminal(a.out) {
		return nil, false, nil, errors.New("cannot export secrets to a terminal; redirect the output to a file, or name one with --out")
	}
	finish = func(err error) error { return err }
	if f, ok := file(a.out).(*os.File); ok {
		info, err := f.Stat()
		if err != nil {
			return nil, false, nil, fmt.Errorf("cannot export: %w", err)
		}
		encrypt = info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0
	}
	return a.out, encrypt, finish, nil
}
