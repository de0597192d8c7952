package cli

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
	"github.com/clusterworks/deploy/deployer/internal/packages"
)

func releaseCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "release",
		Short:   "Create releases: archives of jobs with their programs",
		Example: `  deploy release create examples/jobs -o hello-1.2.tar.gz --version 1.2`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(releaseCreateCommand(a), releaseKeyCommand(a), releaseSignCommand(a))
	return cmd
}

func releaseKeyCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "key FILE",
		Short: "Make a key that signs releases",
		Long: `Writes a new private key of minisign to FILE, which must not be there yet, and prints
the public key: name it in public_keys of the manifest's release blocks. Only the
file's owner can read it, and it is not encrypted; minisign -G makes an encrypted key,
whose passphrase is asked for, or ` + passphraseVariable + `.`,
		Example: `  deploy release key release.key`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			public, err := deployer.MakeSigningKey(args[0])
			if err != nil {
				return err
			}
			answer := struct {
				PublicKey string `json:"public_key"`
			}{public}
			return a.answer(answer, func(w io.Writer, _ bool) { views.Line(w, "%s", public) })
		},
	}
}

func releaseSignCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "sign KEY FILE...",
		Short: "Sign files, such as releases",
		Long: `Signs each FILE with the private key in KEY, which deploy release key or minisign made.
The signature of FILE is FILE.minisig; minisign verifies it as well.`,
		Example: `  deploy release sign release.key hello-1.2.tar.gz`,
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			signatures, err := deployer.SignFiles(args[0], a.signingPassphrase, args[1:])
			if err != nil {
				return err
			}
			answer := struct {
				Signatures []string `json:"signatures"`
			}{signatures}
			return a.answer(answer, func(w io.Writer, _ bool) {
				for _, s := range signatures {
					views.Line(w, "%s", s)
				}
			})
		},
	}
}

// signingPassphrase asks for the passphrase of a key that signs.
func (a *app) signingPassphrase() (string, error) { return a.passphrase(false) }

func releaseCreateCommand(a *app) *cobra.Command {
	var request deployer.ReleaseRequest
	cmd := &cobra.Command{
		Use:   "create DIR -o FILE.tar.gz",
		Short: "Create an archive of a folder of jobs and the programs that they need",
		Long: `Creates an archive of a folder of jobs with the programs that they need, as built by
make build. The same jobs and programs give the same archive. Prints the block that
pins it in a manifest.`,
		Example: `  deploy release create examples/jobs -o hello-1.2.tar.gz --version 1.2`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			request.Jobs, request.Passphrase = args[0], a.signingPassphrase
			if request.Packages, err = packages.DefaultDir(); err != nil {
				return err
			}
			r, err := deployer.CreateRelease(request)
			if err != nil {
				return err
			}
			if !a.json {
				views.ReleaseMade(a.errOut, r)
			}
			return a.answer(r, func(w io.Writer, _ bool) { views.ReleaseBlock(w, r) })
		},
	}
	cmd.Flags().StringVarP(&request.Out, "output", "o", "", "the archive's `file`")
	cmd.Flags().StringVar(&request.Version, "version", "", "its version (default: derived from the content)")
	cmd.Flags().StringVar(&request.Sign, "sign", "", "sign it with the private key of this `file`, see deploy release key")
	_ = cmd.MarkFlagRequired("output") // the flag exists
	return cmd
}
