package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
)

func stateCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "state",
		Short: "Check, repair, encrypt, export and import the state",
		Example: `  deploy state check cluster.hcl
  deploy state export --out cf.backup cluster.hcl`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.changing(stateEncryptCommand(a)), a.changing(stateDecryptCommand(a)), a.changing(stateExportCommand(a)), a.changing(stateImportCommand(a)), a.changing(stateForgetCommand(a)), stateRevisionsCommand(a),
		stateCheckCommand(a), a.changing(stateRepairCommand(a)), a.changing(stateAdoptCommand(a)))
	return cmd
}

// encryptionFlags are --passphrase and --recipient; nil if neither is given.
func encryptionFlags(cmd *cobra.Command) func() *deployer.Encryption {
	var e deployer.Encryption
	cmd.Flags().BoolVar(&e.Passphrase, "passphrase", false, "encrypt with a passphrase: asked for, or "+passphraseVariable)
	cmd.Flags().StringArrayVar(&e.Recipients, "recipient", nil, "encrypt for an age `recipient`, age1... (may be repeated)")
	return func() *deployer.Encryption {
		if !e.Passphrase && len(e.Recipients) == 0 {
			return nil
		}
		return &e
	}
}

func stateEncryptCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "encrypt MANIFEST --passphrase | --recipient RECIPIENT...",
		Short: "Encrypt the secrets in the state folder from now on",
		Long: `Encrypts secrets.json with age. From then on every command needs the passphrase
(` + passphraseVariable + `, or it is asked for) or an identity of one of the recipients
(` + identityVariable + ` is the path of the file).`,
		Example: `  deploy state encrypt cluster.hcl --passphrase
  deploy state encrypt cluster.hcl --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p`,
		Args: cobra.ExactArgs(1),
	}
	how := encryptionFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if how() == nil {
			return errors.New("cannot encrypt: --passphrase or --recipient is missing")
		}
		return encryptState(cmd.Context(), a, args[0], how())
	}
	return cmd
}

func stateDecryptCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "decrypt MANIFEST",
		Short:   "Keep the secrets unencrypted (mode 0600) from now on",
		Example: "  deploy state decrypt cluster.hcl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return encryptState(cmd.Context(), a, args[0], nil)
		},
	}
}

func encryptState(ctx context.Context, a *app, manifest string, how *deployer.Encryption) error {
	d, err := a.deployer(manifest, a.aloud())
	if err != nil {
		return err
	}
	if err := d.StateFolder().Encrypt(ctx, how); err != nil {
		return err
	}
	said := "The secrets are encrypted."
	if how == nil {
		said = "The secrets are kept unencrypted."
	}
	return a.answer(map[string]bool{"encrypted": how != nil}, func(w io.Writer, _ bool) { views.Line(w, "%s", said) })
}

func stateExportCommand(a *app) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "export MANIFEST --out FILE | > FILE",
		Short: "Export state, secrets and the engine's state to one file",
		Long: `Writes a tar archive of the state, the secrets, the engine's state and the journal to
a new file or to standard output. It is encrypted if the state is, or if you ask for
it. Packages and local VMs are not in it. deploy refuses to write an unencrypted
archive where others could read it.`,
		Example: `  deploy state export --out cf.backup cluster.hcl
  deploy state export cluster.hcl --recipient age1... > cf.backup.age`,
		Args: cobra.ExactArgs(1),
	}
	how := encryptionFlags(cmd)
	cmd.Flags().StringVarP(&out, "out", "o", "", "write to this new `file`, which only its owner can read")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d, err := a.deployer(args[0], a.aloud())
		if err != nil {
			return err
		}
		w, encrypt, finish, err := exportTarget(a, out)
		if err != nil {
			return err
		}
		return finish(d.StateFolder().Export(cmd.Context(), w, how(), encrypt))
	}
	return cmd
}

func stateImportCommand(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "import MANIFEST < FILE",
		Short: "Restore an exported state",
		Long: `Reads an export of deploy state export from standard input. It overwrites the state
of another deployment, or a later state of the same one, only with --force.`,
		Example: "  deploy state import cluster.hcl < cf.backup",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], a.aloud())
			if err != nil {
				return err
			}
			s, err := d.StateFolder().Import(cmd.Context(), a.in, force)
			if err != nil {
				return err
			}
			return a.answer(s, func(w io.Writer, _ bool) {
				views.Line(w, "Imported the state of %s (id %.8s, epoch %d) into %s.", s.Deployment, s.DeploymentID, s.Epoch, s.Dir)
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "overwrite the state of another deployment, or a later one")
	return cmd
}

func stateForgetCommand(a *app) *cobra.Command {
	var autoApprove bool
	return approvable(&cobra.Command{
		Use:   "forget MANIFEST",
		Short: "Forget the VMs, when the engine's state is lost",
		Long: `Forgets the VMs in the state; the next apply creates new ones. Use it only if the
engine's state (terraform.tfstate) is lost for good. VMs of the template local are
ended. All other VMs and their disks stay: delete them yourself.`,
		Example: "  deploy state forget cluster.hcl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], a.aloud())
			if err != nil {
				return err
			}
			ids, err := d.StateFolder().ForgetVMs(cmd.Context(), func(ids []string) (bool, error) {
				question := fmt.Sprintf("Forget the VMs of %s, with the data on them?", strings.Join(ids, ", "))
				return a.ask(autoApprove, question, "yes", nil)
			})
			if err != nil {
				return err
			}
			return a.answer(map[string][]string{"forgotten": ids}, func(w io.Writer, _ bool) {
				views.Changed(w, ids, "Forgotten: the VMs of %s. The next apply makes others.", "There was no VM to forget.")
			})
		},
	}, &autoApprove)
}

func stateRevisionsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "revisions MANIFEST",
		Short:   "List the revisions that rollback can return to",
		Example: "  deploy state revisions cluster.hcl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], nil)
			if err != nil {
				return err
			}
			revisions, err := d.StateFolder().Revisions()
			if err != nil {
				return err
			}
			return a.answer(map[string]any{"revisions": revisions}, func(w io.Writer, _ bool) { views.Revisions(w, revisions) })
		},
	}
}
