package vmc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// vmc describes what the commands share.
type vmc struct {
	version string // of this program

	in       io.Reader
	out, err io.Writer

	json   bool
	trace  bool
	target string // flag
	as     string // flag
}

// client returns one for whoever is logged in, or nobody.
func (v *vmc) client() (*client.Client, error) {
	saved, err := loadSettings()
	// Who says all by the environment needs no settings, nor a home for them.
	if err != nil && (os.Getenv("VMC_TOKEN") == "" || os.Getenv("VMC_TARGET") == "" && v.target == "") {
		return nil, err
	}
	target := saved.Target
	for _, other := range []string{os.Getenv("VMC_TARGET"), v.target} {
		if other == "" {
			continue
		}
		if target, err = client.ParseTarget(other); err != nil {
			return nil, err
		}
	}
	if target == "" {
		return nil, errors.New("there is no target yet; set it with vmc target HOST, such as api.cf.localhost:8080")
	}
	token := saved.Tokens[target]
	if given := os.Getenv("VMC_TOKEN"); given != "" {
		token = given
	}
	c, err := client.New(target, token)
	if err != nil {
		return nil, err
	}
	c.As = v.as
	if os.Getenv("VMC_TOKEN") == "" {
		c.Renew = func(ctx context.Context) (string, error) { return renew(ctx, c) }
	}
	c.Retrying = func(err error) { fmt.Fprintf(v.err, "Trying again: %v\n", err) }
	if v.trace {
		c.Trace = func(method, path string, status int, took time.Duration) {
			fmt.Fprintf(v.err, "%s %s: %d, %v\n", method, path, status, took.Round(time.Millisecond))
		}
	}
	return c, nil
}

// command makes a command that has a client.
func (v *vmc) command(c *cobra.Command, run func(ctx context.Context, c *client.Client, args []string) error) *cobra.Command {
	c.RunE = func(cmd *cobra.Command, args []string) error {
		api, err := v.client()
		if err != nil {
			return err
		}
		defer api.Close()
		return run(cmd.Context(), api, args)
	}
	if c.ValidArgsFunction == nil {
		c.ValidArgsFunction = cobra.NoFileCompletions
	}
	return c
}

// show returns what a command does that gets something and shows it: as JSON if the
// user asks for that, else as text does.
func show[T any](v *vmc, get func(ctx context.Context, c *client.Client, args []string) (T, error), text func(c *client.Client, args []string, got T) error) func(context.Context, *client.Client, []string) error {
	return func(ctx context.Context, c *client.Client, args []string) error {
		got, err := get(ctx, c, args)
		if err != nil {
			return err
		}
		if v.json {
			return v.printJSON(got)
		}
		return text(c, args, got)
	}
}

// ofAll makes a call without arguments one for show.
func ofAll[T any](call func(c *client.Client, ctx context.Context) (T, error)) func(context.Context, *client.Client, []string) (T, error) {
	return func(ctx context.Context, c *client.Client, _ []string) (T, error) { return call(c, ctx) }
}

// ofApp makes a call that takes the name of an app one for show. A list without
// anything in it is [] in JSON.
func ofApp[T any](call func(c *client.Client, ctx context.Context, app string) ([]T, error)) func(context.Context, *client.Client, []string) ([]T, error) {
	return func(ctx context.Context, c *client.Client, args []string) ([]T, error) {
		got, err := call(c, ctx, args[0])
		return append([]T{}, got...), err
	}
}

// completeApps completes names of apps.
func (v *vmc) completeApps(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 && !strings.Contains(cmd.Use, "APP...") {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	api, err := v.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer api.Close()
	api.Retrying = nil
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	apps, err := api.Apps(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := []string{}
	for _, app := range apps {
		names = append(names, app.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// explain adds what to do next, where that is known.
func (v *vmc) explain(err error) string {
	text := err.Error()
	// Who may not do this for a reason is told that.
	var answer *client.Error
	if client.Is(err, client.CodeForbidden) && errors.As(err, &answer) && answer.Description == "Operation not permitted" {
		text += "\nYou are not logged in, or your login has expired, or only administrators may do this: use vmc login. vmc register creates an account."
	}
	if client.Is(err, client.CodeAppNotFound) {
		text += "\nvmc apps lists yours."
	}
	var unreachable *net.OpError
	if errors.As(err, &unreachable) && unreachable.Op == "dial" {
		text += "\nIs it the right one? vmc target shows where vmc looks for the cloud, vmc target HOST changes it."
	}
	return text
}

// printJSON prints a result for machines.
func (v *vmc) printJSON(result any) error {
	e := json.NewEncoder(v.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(result)
}

// did says what was done; with --json it prints the result instead.
func did(v *vmc, result any, format string, args ...any) error {
	if v.json {
		return v.printJSON(result)
	}
	v.say(format, args...)
	return nil
}

// only prints a result that is for machines alone.
func only(v *vmc, result any) error {
	if v.json {
		return v.printJSON(result)
	}
	return nil
}

// printJSONLine prints one of many results for machines.
func (v *vmc) printJSONLine(result any) error {
	e := json.NewEncoder(v.out)
	e.SetEscapeHTML(false)
	return e.Encode(result)
}

// say tells what is being done.
func (v *vmc) say(format string, args ...any) { fmt.Fprintf(v.err, format+"\n", args...) }

// terminal returns the file that a stream is, if it is a terminal.
func terminal(stream any) (*os.File, bool) {
	f, ok := stream.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}
