package vmc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

func targetCommand(v *vmc) *cobra.Command {
	return &cobra.Command{
		Use:               "target [HOST]",
		Short:             "Set or show the cloud's address",
		Example:           "  vmc target api.cf.localhost:8080\n  vmc target https://api.example.com\n  vmc target",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				v.target = args[0]
			}
			c, err := v.client()
			if err != nil {
				return err
			}
			defer c.Close()
			info, err := c.Info(cmd.Context())
			var answer *client.Error
			if errors.As(err, &answer) {
				return fmt.Errorf("%s is no cloud controller: %w; the name of its API begins with api. as a rule", c.Target(), err)
			}
			if err != nil {
				return err
			}
			if len(args) == 1 {
				if err := changeSettings(func(s *settings) { s.Target = c.Target() }); err != nil {
					return err
				}
			}
			if v.json {
				return v.printJSON(map[string]string{"target": c.Target(), "user": info.User})
			}
			fmt.Fprintln(v.out, c.Target())
			return nil
		},
	}
}

// password asks for one: VMC_PASSWORD, the terminal, or a line of standard input.
func (v *vmc) password(prompt string) (string, error) {
	if p := os.Getenv("VMC_PASSWORD"); p != "" {
		return p, nil
	}
	if f, ok := terminal(v.in); ok {
		fmt.Fprint(v.err, prompt+": ")
		p, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(v.err)
		return string(p), err
	}
	line, err := bufio.NewReader(v.in).ReadString('\n')
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		if err == nil || errors.Is(err, io.EOF) {
			err = errors.New("there is no password: type it at a terminal, or pass it by standard input or VMC_PASSWORD")
		}
		return "", err
	}
	return line, nil
}

// denied is a login that the cloud has refused, with what is to be said of it instead of
// the cloud's own answer.
type denied struct{ error }

// login logs in, at the user component if the cloud names one, and remembers it.
func (v *vmc) login(ctx context.Context, c *client.Client, email, password string) error {
	c.Token = "" // an old one may be no good any more
	info, err := c.Info(ctx)
	if err != nil {
		return err
	}
	var g client.Grant
	if info.LoginAt == "" {
		g.Access, err = c.Login(ctx, email, password)
	} else {
		var component client.UAA
		if component, err = c.UAA(info.LoginAt); err == nil {
			g, err = component.Login(ctx, email, password)
		}
	}
	if err != nil {
		var answer *client.Error
		if errors.As(err, &answer) && answer.Code == client.CodeForbidden {
			if answer.Status == http.StatusTooManyRequests {
				return denied{fmt.Errorf("cannot log in as %s at %s: %v", email, c.Target(), err)}
			}
			return denied{fmt.Errorf("cannot log in as %s at %s: the password is wrong, or there is no such account; vmc register creates one if the cloud allows it", email, c.Target())}
		}
		return err
	}
	c.Token = g.Access
	return changeSettings(func(s *settings) {
		if s.Tokens[c.Target()] = g.Access; info.LoginAt == "" {
			delete(s.Logins, c.Target())
		} else {
			s.remember(c.Target(), info.LoginAt, g)
		}
		if s.Target == "" {
			s.Target = c.Target()
		}
	})
}

func loginCommand(v *vmc) *cobra.Command {
	return v.command(&cobra.Command{
		Use:     "login EMAIL",
		Short:   "Log in; the password is read from the terminal, VMC_PASSWORD or standard input",
		Example: "  vmc login me@example.com",
		Args:    cobra.ExactArgs(1),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		password, err := v.password("Password of " + args[0])
		if err != nil {
			return err
		}
		if err := v.login(ctx, c, args[0], password); err != nil {
			return err
		}
		return did(v, map[string]string{"target": c.Target(), "user": args[0]}, "Logged in as %s at %s.", args[0], c.Target())
	})
}

func logoutCommand(v *vmc) *cobra.Command {
	var forget bool
	c := v.command(&cobra.Command{
		Use:     "logout",
		Short:   "Log out of this target",
		Example: "  vmc logout\n  vmc logout --forget",
		Args:    cobra.NoArgs,
	}, func(ctx context.Context, c *client.Client, _ []string) error {
		saved, err := loadSettings()
		if err != nil {
			return err
		}
		if at, is := saved.Logins[c.Target()]; is {
			component, err := c.UAA(at.URL)
			if err == nil {
				err = component.Logout(ctx, at.Refresh)
			}
			if err != nil {
				v.say("The login lasts until it expires: %v", err)
			}
		}
		if err := changeSettings(func(s *settings) {
			delete(s.Tokens, c.Target())
			delete(s.Logins, c.Target())
			if forget && s.Target == c.Target() {
				s.Target = ""
			}
		}); err != nil {
			return err
		}
		return did(v, map[string]string{"target": c.Target()}, "Logged out of %s.", c.Target())
	})
	c.Flags().BoolVar(&forget, "forget", false, "also forget the target")
	return c
}

func registerCommand(v *vmc) *cobra.Command {
	return v.command(&cobra.Command{
		Use:     "register EMAIL",
		Short:   "Create an account and log in",
		Example: "  vmc register me@example.com",
		Args:    cobra.ExactArgs(1),
		Aliases: []string{"add-user", "create-user"},
	}, func(ctx context.Context, c *client.Client, args []string) error {
		password, err := v.password("New password of " + args[0])
		if err != nil {
			return err
		}
		if _, ok := terminal(v.in); ok && os.Getenv("VMC_PASSWORD") == "" {
			again, err := v.password("Once more")
			if err != nil {
				return err
			}
			if again != password {
				return errors.New("the two passwords differ")
			}
		}
		// A token may be remembered and no good any more.
		info, err := c.Info(ctx)
		if err != nil {
			return err
		}
		if err := c.Register(ctx, args[0], password); err != nil {
			return err
		}
		if info.User != "" {
			return did(v, map[string]string{"account": args[0], "user": info.User}, "Created the account %s; you are still logged in as %s.", args[0], info.User)
		}
		if err := v.login(ctx, c, args[0], password); err != nil {
			return err
		}
		return did(v, map[string]string{"account": args[0], "user": args[0]}, "Created the account %s and logged in.", args[0])
	})
}

func passwdCommand(v *vmc) *cobra.Command {
	return v.command(&cobra.Command{
		Use:     "passwd",
		Short:   "Change your password",
		Example: "  vmc passwd",
		Args:    cobra.NoArgs,
	}, func(ctx context.Context, c *client.Client, _ []string) error {
		info, err := c.Info(ctx)
		if err != nil {
			return err
		}
		if info.User == "" {
			return errNotLoggedIn
		}
		password, err := v.password("New password of " + info.User)
		if err != nil {
			return err
		}
		if err := c.ChangePassword(ctx, info.User, password); err != nil {
			return err
		}
		if err := v.login(ctx, c, info.User, password); err != nil {
			return err
		}
		return did(v, map[string]string{"user": info.User}, "Changed the password of %s; logins elsewhere have ended.", info.User)
	})
}

func infoCommand(v *vmc) *cobra.Command {
	return v.command(&cobra.Command{
		Use:     "info",
		Short:   "Show the cloud, your account and your usage",
		Example: "  vmc info\n  vmc info --json",
		Args:    cobra.NoArgs,
	}, show(v, ofAll((*client.Client).Info), func(c *client.Client, _ []string, info client.Info) error {
		fmt.Fprintf(v.out, "%s\n%s, version %v (build %v)\n", info.Description, info.Name, info.Version, info.Build)
		if info.Support != "" {
			fmt.Fprintf(v.out, "Support:   %s\n", info.Support)
		}
		fmt.Fprintf(v.out, "Target:    %s\n", c.Target())
		if info.Isolation != "" {
			fmt.Fprintf(v.out, "Isolation: %s\n", info.Isolation)
		}
		if info.User == "" {
			fmt.Fprintln(v.out, "User:      not logged in")
			return nil
		}
		fmt.Fprintf(v.out, "User:      %s\n", info.User)
		if u, l := info.Usage, info.Limits; u != nil && l != nil {
			fmt.Fprintf(v.out, "Memory:    %s of %s\n", megabytes(u.Memory), megabytes(l.Memory))
			fmt.Fprintf(v.out, "Apps:      %d of %d\n", u.Apps, l.Apps)
			fmt.Fprintf(v.out, "Services:  %d of %d\n", u.Services, l.Services)
		}
		return nil
	}))
}

func runtimesCommand(v *vmc) *cobra.Command {
	return v.command(&cobra.Command{
		Use:     "runtimes",
		Short:   "List the runtimes that apps can use",
		Example: "  vmc runtimes",
		Args:    cobra.NoArgs,
	}, show(v, ofAll((*client.Client).Runtimes), func(_ *client.Client, _ []string, runtimes map[string]client.Runtime) error {
		t := newTable("NAME", "VERSION", "DESCRIPTION")
		for _, name := range slices.Sorted(maps.Keys(runtimes)) {
			t.row(name, runtimes[name].Version, runtimes[name].Description)
		}
		return t.print(v.out)
	}))
}

func frameworksCommand(v *vmc) *cobra.Command {
	return v.command(&cobra.Command{
		Use:     "frameworks",
		Short:   "List the frameworks of apps",
		Example: "  vmc frameworks\n  vmc frameworks --json               with the rules by which they are detected",
		Args:    cobra.NoArgs,
	}, show(v, func(ctx context.Context, c *client.Client, _ []string) (map[string]client.Framework, error) {
		info, err := c.Info(ctx)
		return info.Frameworks, err
	}, func(_ *client.Client, _ []string, frameworks map[string]client.Framework) error {
		t := newTable("NAME", "RUNTIMES")
		for _, name := range slices.Sorted(maps.Keys(frameworks)) {
			var runtimes []string
			for _, r := range frameworks[name].Runtimes {
				runtimes = append(runtimes, r.Name)
			}
			t.row(name, strings.Join(runtimes, ", "))
		}
		return t.print(v.out)
	}))
}

func usersCommand(v *vmc) *cobra.Command {
	return v.command(&cobra.Command{
		Use:     "users",
		Short:   "List all accounts (administrators only)",
		Example: "  vmc users",
		Args:    cobra.NoArgs,
	}, show(v, ofAll((*client.Client).Users), func(_ *client.Client, _ []string, users []client.User) error {
		t := newTable("EMAIL", "ADMIN", "APPS")
		for _, u := range users {
			var apps []string
			for _, app := range u.Apps {
				apps = append(apps, app.Name)
			}
			admin := ""
			if u.Admin {
				admin = "yes"
			}
			t.row(u.Email, admin, strings.Join(apps, ", "))
		}
		return t.print(v.out)
	}))
}

func deleteUserCommand(v *vmc) *cobra.Command {
	var force bool
	c := v.command(&cobra.Command{
		Use:     "delete-user EMAIL",
		Short:   "Delete an account with its apps and services (administrators only)",
		Example: "  vmc delete-user me@example.com --force",
		Args:    cobra.ExactArgs(1),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		if err := v.confirm(force, "Delete the account %s with all its apps and services?", args[0]); err != nil {
			return err
		}
		if err := c.DeleteUser(ctx, args[0]); err != nil {
			return err
		}
		return did(v, map[string]any{"deleted": args}, "Deleted the account %s.", args[0])
	})
	c.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return c
}

// confirm asks before what cannot be undone. Who is no terminal says so with
// --force.
func (v *vmc) confirm(force bool, format string, args ...any) error {
	if force {
		return nil
	}
	question := fmt.Sprintf(format, args...)
	if _, ok := terminal(v.in); !ok {
		return fmt.Errorf("%s There is no terminal to ask on: use --force", question)
	}
	fmt.Fprintf(v.err, "%s [y/N] ", question)
	line, err := bufio.NewReader(v.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return errors.New("nothing was done")
	}
	return nil
}
