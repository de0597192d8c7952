package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/clusterworks/deploy/deployer/internal/cli/views"
)

// maxSecret bounds what secret set reads.
const maxSecret = 1 << 20

func (a *app) secret() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "List, show, set and rotate the manifest's secrets",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.secretList(), a.secretShow(), a.changing(a.secretSet()), a.changing(a.secretRotate()))
	return cmd
}

func (a *app) secretList() *cobra.Command {
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
			if a.json {
				return views.JSON(os.Stdout, map[string]any{"secrets": secrets})
			}
			out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(out, "SECRET\tTYPE\tATTRIBUTES\tSTATE")
			for _, s := range secrets {
				state := "not made yet"
				switch {
				case s.NotAfter != nil:
					state = "until " + s.NotAfter.Format(time.DateOnly)
				case s.Made:
					state = "made"
				}
				fmt.Fprintf(out, "%s\t%s\t%s\t%s\n", s.Name, s.Type, strings.Join(s.Attributes, " "), state)
			}
			return out.Flush()
		},
	}
}

func (a *app) secretShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show MANIFEST NAME[.ATTRIBUTE]",
		Short: "Print one attribute of a secret as it is, for a pipe",
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
			if a.json {
				return views.JSON(os.Stdout, map[string]string{"name": args[1], "value": value})
			}
			if term.IsTerminal(int(os.Stdout.Fd())) && !strings.HasSuffix(value, "\n") {
				value += "\n"
			}
			_, err = io.WriteString(os.Stdout, value)
			return err
		},
	}
}

func (a *app) secretSet() *cobra.Command {
	return &cobra.Command{
		Use:   "set MANIFEST NAME[.ATTRIBUTE]",
		Short: "Give a secret a value of your own, read from standard input",
		Long: `Reads the value from standard input (one newline at its end does not count), or
asks for it without echo on a terminal. It is never an argument: those are seen
by everybody on this machine. Attributes that belong together are given at once,
as a JSON object. The next apply rolls the value out.`,
		Example: `  pass nats | deploy secret set cluster.hcl nats
  jq -n --rawfile certificate c.pem --rawfile private_key k.pem --rawfile ca ca.pem '$ARGS.named' |
    deploy secret set cluster.hcl tls`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], a.aloud())
			if err != nil {
				return err
			}
			value, err := readSecret(args[1])
			if err != nil {
				return err
			}
			changed, err := d.SetSecret(cmd.Context(), args[1], value)
			if err != nil {
				return err
			}
			return a.secretsChanged(changed)
		},
	}
}

func (a *app) secretRotate() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate MANIFEST NAME",
		Short: "Make a new value for a secret",
		Long: `Makes a new value in the state; the next apply rolls it out. With a CA, the
certificates that it has signed are signed anew. What was shown or copied of the
old value stays valid until that apply is done.`,
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
			return a.secretsChanged(changed)
		},
	}
}

func (a *app) secretsChanged(changed []string) error {
	if a.json {
		return views.JSON(os.Stdout, map[string][]string{"changed": changed})
	}
	if len(changed) == 0 {
		fmt.Println("Nothing changed: it has this value already.")
		return nil
	}
	fmt.Printf("Changed in the state: %s. The next apply rolls it out.\n", strings.Join(changed, ", "))
	return nil
}

// readSecret reads a value from standard input, or asks for it.
func readSecret(name string) (string, error) {
	if term.IsTerminal(int(os.Stdin.Fd())) {
		return prompt(os.Stdin, "Value of "+name+": ")
	}
	data, err := io.ReadAll(io.LimitReader(os.Stdin, maxSecret+1))
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
	fmt.Fprint(os.Stderr, question)
	answer, err := term.ReadPassword(int(terminal.Fd()))
	fmt.Fprintln(os.Stderr)
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
			return "", fmt.Errorf("cannot ask for the state's passphrase, there is no terminal: set %s", passphraseVariable)
		}
		defer terminal.Close()
		first, err := prompt(terminal, "Passphrase of the state: ")
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
