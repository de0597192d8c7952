package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
)

func (a *app) state() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "state",
		Short: "Encrypt, export and import the state",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.changing(a.stateEncrypt()), a.changing(a.stateDecrypt()), a.changing(a.stateExport()), a.changing(a.stateImport()), a.changing(a.stateForget()), a.stateRevisions())
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

func (a *app) stateEncrypt() *cobra.Command {
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
			return errors.New("cannot encrypt: give --passphrase or --recipient")
		}
		return a.encryptState(cmd.Context(), args[0], how())
	}
	return cmd
}

func (a *app) stateDecrypt() *cobra.Command {
	return &cobra.Command{
		Use:     "decrypt MANIFEST",
		Short:   "Keep the secrets unencrypted (mode 0600) from now on",
		Example: "  deploy state decrypt cluster.hcl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.encryptState(cmd.Context(), args[0], nil)
		},
	}
}

func (a *app) encryptState(ctx context.Context, manifest string, how *deployer.Encryption) error {
	d, err := a.deployer(manifest, a.aloud())
	if err != nil {
		return err
	}
	if err := d.EncryptState(ctx, how); err != nil {
		return err
	}
	if a.json {
		return views.JSON(os.Stdout, map[string]bool{"encrypted": how != nil})
	}
	if how == nil {
		fmt.Println("The secrets are kept unencrypted.")
	} else {
		fmt.Println("The secrets are encrypted.")
	}
	return nil
}

func (a *app) stateExport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export MANIFEST > FILE",
		Short: "Write state, secrets and the engine's state as one file",
		Long: `Writes a tar archive of the state, the secrets, the engine's state and the
journal to standard output, encrypted if the state is or if asked. Packages and
local VMs are not in it. Keep an unencrypted one as you keep a key: umask 077.`,
		Example: `  (umask 077; deploy state export cluster.hcl > cf.backup)
  deploy state export cluster.hcl --recipient age1... > cf.backup.age`,
		Args: cobra.ExactArgs(1),
	}
	how := encryptionFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if term.IsTerminal(int(os.Stdout.Fd())) {
			return errors.New("cannot export to a terminal: it holds secrets; redirect it to a file")
		}
		d, err := a.deployer(args[0], a.aloud())
		if err != nil {
			return err
		}
		return d.ExportState(cmd.Context(), os.Stdout, how())
	}
	return cmd
}

func (a *app) stateImport() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "import MANIFEST < FILE",
		Short: "Put an exported state in place",
		Long: `Reads what deploy state export has written from standard input. The state of
another deployment, or a later one of the same, is overwritten only with --force.`,
		Example: "  deploy state import cluster.hcl < cf.backup",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], a.aloud())
			if err != nil {
				return err
			}
			s, err := d.ImportState(cmd.Context(), os.Stdin, force)
			if err != nil {
				return err
			}
			if a.json {
				return views.JSON(os.Stdout, s)
			}
			fmt.Printf("Imported the state of %s (id %.8s, epoch %d) into %s.\n", s.Deployment, s.DeploymentID, s.Epoch, s.Dir)
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "overwrite the state of another deployment, or a later one")
	return cmd
}

func (a *app) stateForget() *cobra.Command {
	var autoApprove bool
	cmd := &cobra.Command{
		Use:   "forget MANIFEST",
		Short: "Give up the VMs, when the engine's state is lost",
		Long: `Gives up the VMs that the state has: the next apply makes others. It is for an
engine's state (terraform.tfstate) that is lost for good. VMs on this machine are
ended; those elsewhere stay, and so do their disks: delete them yourself.`,
		Example: "  deploy state forget cluster.hcl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], a.aloud())
			if err != nil {
				return err
			}
			ids, err := d.ForgetVMs(cmd.Context(), func(ids []string) (bool, error) {
				return a.ask(autoApprove, fmt.Sprintf("Give up the VMs of %s, with what is on them?", strings.Join(ids, ", ")), "yes")
			})
			if err != nil {
				return err
			}
			if a.json {
				return views.JSON(os.Stdout, map[string][]string{"forgotten": ids})
			}
			fmt.Printf("Forgotten: the VMs of %s. The next apply makes others.\n", strings.Join(ids, ", "))
			return nil
		},
	}
	cmd.Flags().BoolVar(&autoApprove, "auto-approve", false, "do not ask")
	return cmd
}

func (a *app) stateRevisions() *cobra.Command {
	return &cobra.Command{
		Use:     "revisions MANIFEST",
		Short:   "List the applies that can be returned to",
		Example: "  deploy state revisions cluster.hcl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], nil)
			if err != nil {
				return err
			}
			revisions, err := d.Revisions()
			if err != nil {
				return err
			}
			if a.json {
				return views.JSON(os.Stdout, map[string]any{"revisions": revisions})
			}
			out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(out, "REVISION\tAT\tMANIFEST\tINSTANCES\tPACKAGES")
			for _, r := range revisions {
				fmt.Fprintf(out, "%d\t%s\t%.12s\t%d\t%d\n", r.Number, r.At.Local().Format(time.DateTime), r.Manifest, len(r.Generations), len(r.Packages))
			}
			return out.Flush()
		},
	}
}
