package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/clusterworks/deploy/deployer/internal/cli/views"
)

// maxSecret bounds what secret set reads.
const maxSecret = 1 << 20

func secretCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "List, show, set and rotate the manifest's secrets",
		Example: `  deploy secret list cluster.hcl
  deploy secret rotate cluster.hcl nats && deploy apply cluster.hcl`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(secretListCommand(a), secretShowCommand(a), a.changing(secretSetCommand(a)), a.changing(secretRotateCommand(a)))
	return cmd
}

func secretListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "list MANIFEST",
		Short:   "List the secrets, without their values",
		Example: "  deploy secret list cluster.hcl",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], nil)
			if err != nil {
				return err
			}
			secrets, err := d.Secrets()
			if err != nil {
				return err
			}
			return a.answer(map[string]any{"secrets": secrets}, func(w io.Writer, _ bool) { views.Secrets(w, secrets) })
		},
	}
}

func secretShowCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show MANIFEST NAME[.ATTRIBUTE]",
		Short: "Print one attribute of a secret, for a pipe",
		Example: `  deploy secret show cluster.hcl nats | wl-copy
  deploy secret show cluster.hcl tls.certificate | openssl x509 -noout -text`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], nil)
			if err != nil {
				return err
			}
			value, err := d.Secret(args[1])
			if err != nil {
				return err
			}
			if isTerminal(a.out) && !strings.HasSuffix(value, "\n") {
				value += "\n"
			}
			// As it is: what is piped must be what is kept.
			return a.answer(map[string]string{"name": args[1], "value": value}, func(w io.Writer, _ bool) { _, _ = io.WriteString(w, value) })
		},
	}
}

func secretSetCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "set MANIFEST NAME[.ATTRIBUTE]",
		Short: "Set a secret to a value from standard input",
		Long: `Reads the value from standard input (without its final newline), or asks for it on a
terminal without echo. It is never an argument, because all users of this machine
see those. Attributes that belong together are given as one JSON object. The next
apply rolls the value out.`,
		Example: `  pass nats | deploy secret set cluster.hcl nats
  jq -n --rawfile certificate c.pem --rawfile private_key k.pem --rawfile ca ca.pem '$ARGS.named' |
    deploy secret set cluster.hcl tls`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], a.aloud())
			if err != nil {
				return err
			}
			value, err := readSecret(a.in, args[1])
			if err != nil {
				return err
			}
			changed, err := d.SetSecret(cmd.Context(), args[1], value)
			if err != nil {
				return err
			}
			return secretsChanged(a, changed)
		},
	}
}

func secretRotateCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rotate MANIFEST NAME",
		Short: "Create a new value for a secret",
		Long: `Creates a new value in the state; the next apply rolls it out. For a CA, all
certificates that it signed are signed again. The old value stays valid until that
apply is done.`,
		Example: `  deploy secret rotate cluster.hcl nats && deploy apply cluster.hcl`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], a.aloud())
			if err != nil {
				return err
			}
			changed, err := d.RotateSecret(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			return secretsChanged(a, changed)
		},
	}
}

func secretsChanged(a *app, changed []string) error {
	return a.answer(map[string][]string{"changed": changed}, func(w io.Writer, _ bool) {
		views.Changed(w, changed, "Changed in the state: %s. The next apply rolls it out.", "Nothing changed: it has this value already.")
	})
}

// readSecret reads a value from standard input, or asks for it.
func readSecret(in *os.File, name string) (string, error) {
	if term.IsTerminal(int(in.Fd())) {
		return prompt(in, "Value of "+name+": ")
	}
	data, err := io.ReadAll(io.LimitReader(in, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("cannot read the value: %w", err)
	}
	if len(data) > maxSecret {
		return "", fmt.Errorf("cannot set %s: the value is larger than %d bytes", name, maxSecret)
	}
	value := string(data)
	if line := strings.TrimSuffix(value, "\n"); !strings.Contains(line, "\n") {
		value = strings.TrimSuffix(line, "\r") // PEM keeps its last newline
	}
	return value, nil
}

// prompt asks on a terminal without echo.
func prompt(terminal *os.File, question string) (string, error) {
	views.Ask(os.Stderr, question)
	answer, err := term.ReadPassword(int(terminal.Fd()))
	views.Line(os.Stderr, "")
	if err != nil {
		return "", fmt.Errorf("cannot read the answer: %w", err)
	}
	return string(answer), nil
}

// takePassphrase takes DEPLOY_PASSPHRASE out of the environment, so that no
// process started from here inherits it, and returns how to ask for it.
func takePassphrase() func(confirm bool) (string, error) {
	given := os.Getenv(passphraseVariable)
	_ = os.Unsetenv(passphraseVariable) // a valid name cannot fail
	return func(confirm bool) (string, error) {
		if given != "" {
			return given, nil
		}
		// Standard input may be a pipe with something else.
		terminal, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
		if err != nil {
			return "", fmt.Errorf("cannot ask for the passphrase, because there is no terminal: set %s", passphraseVariable)
		}
		defer terminal.Close()
		first, err := prompt(terminal, "Passphrase: ")
		if err != nil || !confirm {
			return first, err
		}
		second, err := prompt(terminal, "Once more: ")
		if err != nil {
			return "", err
		}
		if first != second {
			return "", errors.New("the two passphrases differ: nothing was changed")
		}
		return first, nil
	}
}

// Environment variables that open an encrypted state.
const (
	passphraseVariable = "DEPLOY_PASSPHRASE"
	identityVariable   = "DEPLOY_IDENTITY"
)
