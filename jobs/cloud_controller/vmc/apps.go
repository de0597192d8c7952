package vmc

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/net/idna"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

// appsOf makes the command's arguments names of apps, completed.
func (v *vmc) appsOf(c *cobra.Command, run func(ctx context.Context, c *client.Client, args []string) error) *cobra.Command {
	c.ValidArgsFunction = v.completeApps
	return v.command(c, run)
}

func appsCommand(v *vmc) *cobra.Command {
	return v.appsOf(&cobra.Command{
		Use:     "apps [APP...]",
		Short:   "List your apps",
		Example: "  vmc apps\n  vmc apps hello --json",
	}, show(v, func(ctx context.Context, c *client.Client, args []string) ([]client.App, error) {
		if len(args) == 0 {
			apps, err := c.Apps(ctx)
			return append([]client.App{}, apps...), err
		}
		var apps []client.App
		for _, name := range args {
			app, err := c.App(ctx, name)
			if err != nil {
				return nil, err
			}
			apps = append(apps, app)
		}
		return apps, nil
	}, func(c *client.Client, _ []string, apps []client.App) error {
		if len(apps) == 0 {
			v.say("You have no apps yet; vmc push creates one.")
			return nil
		}
		t := newTable("NAME", "STATE", "RUNNING", "MEMORY", "KIND", "URLS", "SERVICES")
		for _, a := range apps {
			running := "?"
			if a.RunningInstances != nil {
				running = strconv.Itoa(*a.RunningInstances)
			}
			if a.State != client.Started {
				running = "0"
			}
			var urls []string
			for _, host := range a.URIs {
				urls = append(urls, c.AppURL(host))
			}
			t.row(a.Name, strings.ToLower(a.State), fmt.Sprintf("%s/%d", running, a.Instances), megabytes(a.Resources.Memory),
				a.Staging.Framework+"/"+a.Staging.Runtime, strings.Join(urls, ", "), strings.Join(a.Services, ", "))
		}
		return t.print(v.out)
	}))
}

// timeoutFlag returns the time to wait for instances to run; 0 is what patience says.
func timeoutFlag(c *cobra.Command, timeout *time.Duration) {
	c.Flags().DurationVar(timeout, "timeout", 0, "how long to wait until the instances run (default: 2m, or the start time-out plus 30s)")
}

func startCommand(v *vmc) *cobra.Command {
	var timeout time.Duration
	c := v.appsOf(&cobra.Command{
		Use:     "start APP...",
		Short:   "Start apps and wait until they run",
		Example: "  vmc start hello\n  vmc start hello worker --timeout 5m",
		Args:    cobra.MinimumNArgs(1),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		for _, name := range args {
			app, err := c.App(ctx, name)
			if err != nil {
				return err
			}
			if app.State == client.Started {
				v.say("%s is already started.", name)
			}
			if err := v.start(ctx, c, name, "", timeout); err != nil {
				return err
			}
		}
		return nil
	})
	timeoutFlag(c, &timeout)
	return c
}

func stopCommand(v *vmc) *cobra.Command {
	return v.appsOf(&cobra.Command{
		Use:     "stop APP...",
		Short:   "Stop apps",
		Example: "  vmc stop hello",
		Args:    cobra.MinimumNArgs(1),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		for _, name := range args {
			canary := noCanary(ctx, c, name)
			if err := stop(ctx, c, name); err != nil {
				return err
			}
			if !v.json {
				v.say("Stopped %s.", name)
			}
			if errors.As(canary, new(canaryWaits)) {
				v.say("Its canary is gone with that: vmc start %s starts the version that ran beside it.", name)
			}
		}
		return only(v, map[string]any{"stopped": args})
	})
}

func stop(ctx context.Context, c *client.Client, name string) error {
	return c.ChangeApp(ctx, name, func(app *client.App) error {
		app.State = client.Stopped
		return nil
	})
}

func restartCommand(v *vmc) *cobra.Command {
	var h how
	c := v.appsOf(&cobra.Command{
		Use:   "restart APP...",
		Short: "Restart apps, one instance after the other",
		Long: `restart starts a new instance beside each old one, and stops the old one when the
new one is healthy. With --now it stops all instances first, then starts them.`,
		Example: "  vmc restart hello\n  vmc restart hello --now",
		Args:    cobra.MinimumNArgs(1),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		for _, name := range args {
			app, err := c.App(ctx, name)
			if err != nil {
				return err
			}
			if app.State == client.Started {
				err = v.renew(ctx, c, name, "restart", h)
			} else {
				err = v.start(ctx, c, name, "", h.timeout)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	howFlags(c, &h)
	return c
}

func deleteCommand(v *vmc) *cobra.Command {
	var force bool
	c := v.appsOf(&cobra.Command{
		Use:     "delete APP...",
		Short:   "Delete apps; their services stay",
		Example: "  vmc delete hello --force",
		Args:    cobra.MinimumNArgs(1),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		if err := v.confirm(force, "Delete %s?", strings.Join(args, ", ")); err != nil {
			return err
		}
		for _, name := range args {
			if err := c.DeleteApp(ctx, name); err != nil {
				return err
			}
			if !v.json {
				v.say("Deleted %s.", name)
			}
		}
		return only(v, map[string]any{"deleted": args})
	})
	c.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return c
}

var countText = regexp.MustCompile(`^([+-]?)([0-9]{1,5})$`)

// newCount applies "3", "+1" or "-1" to a number of instances.
func newCount(now int, text string) (int, error) {
	parts := countText.FindStringSubmatch(text)
	if parts == nil {
		return 0, usageError{fmt.Errorf("%q is not a number of instances; use one such as 3, +1 or -1", text)}
	}
	n, err := strconv.Atoi(parts[2])
	if err != nil {
		return 0, err
	}
	switch parts[1] {
	case "+":
		n = now + n
	case "-":
		n = now - n
	}
	if n < 0 {
		return 0, fmt.Errorf("an app cannot have %d instances", n)
	}
	return n, nil
}

// instances writes a number of instances.
func instances(n int) string {
	if n == 1 {
		return "1 instance"
	}
	return fmt.Sprintf("%d instances", n)
}

// scale changes how many instances an app has and waits for new ones.
func (v *vmc) scale(ctx context.Context, c *client.Client, name, count string, timeout time.Duration) error {
	var before, after int
	started := false
	seen, err := crashIDs(ctx, c, name)
	if err != nil {
		return err
	}
	noRoom, err := client.ChangeInstances(ctx, c, name, func(app *client.App) (err error) {
		before, started = app.Instances, app.State == client.Started
		app.Instances, err = newCount(before, count)
		after = app.Instances
		return err
	})
	if err != nil {
		return err
	}
	v.say("%s has %s, %d before.", name, instances(after), before)
	if started && after > before {
		return v.waitFor(ctx, c, name, timeout, seen, noRoom)
	}
	return only(v, map[string]any{"app": name, "instances": after})
}

func scaleCommand(v *vmc) *cobra.Command {
	var timeout time.Duration
	var count string
	c := v.appsOf(&cobra.Command{
		Use:     "scale APP [+|-]N",
		Short:   "Change how many instances an app has; vmc mem changes their memory",
		Example: "  vmc scale hello 6\n  vmc scale hello +1\n  vmc scale hello -i 6",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 2 && count == "" || len(args) == 1 && count != "" {
				return nil
			}
			return errors.New("needs an app and how many instances it is to have")
		},
	}, func(ctx context.Context, c *client.Client, args []string) error {
		return v.scale(ctx, c, args[0], append(args, count)[1], timeout)
	})
	c.Flags().StringVarP(&count, "instances", "i", "", "number of instances, in place of N")
	timeoutFlag(c, &timeout)
	return c
}

func memCommand(v *vmc) *cobra.Command {
	var h how
	c := v.appsOf(&cobra.Command{
		Use:     "mem APP [SIZE]",
		Short:   "Show or change an instance's memory; a started app is restarted",
		Example: "  vmc mem hello\n  vmc mem hello 256M",
		Args:    cobra.RangeArgs(1, 2),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		app, err := c.App(ctx, args[0])
		if err != nil {
			return err
		}
		if len(args) == 1 {
			if v.json {
				return v.printJSON(map[string]int{"memory": app.Resources.Memory})
			}
			fmt.Fprintln(v.out, megabytes(app.Resources.Memory))
			return nil
		}
		memory, err := parseMegabytes(args[1])
		if err != nil {
			return err
		}
		return v.changeAndRestart(ctx, c, args[0], "mem", h, func(app *client.App) error {
			app.Resources.Memory = memory
			return nil
		})
	})
	howFlags(c, &h)
	return c
}

// canaryWaits says that an app cannot be restarted, because its canary is neither
// promoted nor rolled back.
type canaryWaits struct{ client.Update }

func (e canaryWaits) Error() string {
	return fmt.Sprintf("a canary waits: %d of %d instances are new, and a restart would bring its files to all; nothing was changed. "+
		"Use vmc promote or vmc rollback first", e.Replaced, e.Instances)
}

// noCanary returns an error if an app has a canary.
func noCanary(ctx context.Context, c *client.Client, name string) error {
	last, err := client.LastUpdate(ctx, c, name)
	if err == nil && last.Status == client.Updating && last.Canary > 0 {
		return fmt.Errorf("cannot restart %s: %w", name, canaryWaits{last})
	}
	return err
}

// changeAndRestart changes what only new instances bring into use.
func (v *vmc) changeAndRestart(ctx context.Context, c *client.Client, name, cause string, h how, change func(*client.App) error) error {
	if err := noCanary(ctx, c, name); err != nil {
		return err
	}
	started := false
	err := c.ChangeApp(ctx, name, func(app *client.App) error {
		started = started || app.State == client.Started
		return change(app)
	})
	if err != nil {
		return err
	}
	if !started {
		return did(v, map[string]any{"app": name, "instances": 0}, "Changed %s, which is stopped: it will be so when it is started.", name)
	}
	v.say("Restarting %s.", name)
	return v.renew(ctx, c, name, cause, h)
}

func envCommand(v *vmc) *cobra.Command {
	show := func(ctx context.Context, c *client.Client, name string) error {
		app, err := c.App(ctx, name)
		if err != nil {
			return err
		}
		if v.json {
			variables := map[string]string{}
			for _, one := range app.Env {
				key, value, _ := strings.Cut(one, "=")
				variables[key] = value
			}
			return v.printJSON(variables)
		}
		for _, one := range app.Env {
			fmt.Fprintln(v.out, one)
		}
		return nil
	}
	env := v.appsOf(&cobra.Command{
		Use:     "env APP",
		Short:   "Show, set or unset an app's environment variables",
		Example: "  vmc env hello\n  vmc env set hello GREETING=Hi COLOR=blue\n  vmc env unset hello COLOR",
		Args:    cobra.ExactArgs(1),
	}, func(ctx context.Context, c *client.Client, args []string) error { return show(ctx, c, args[0]) })

	var h how
	set := v.appsOf(&cobra.Command{
		Use:     "set APP NAME=VALUE...",
		Short:   "Set variables; a started app is restarted",
		Example: "  vmc env set hello GREETING=Hi COLOR=blue",
		Args:    cobra.MinimumNArgs(2),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		for _, one := range args[1:] {
			if name, _, ok := strings.Cut(one, "="); !ok || name == "" {
				return usageError{fmt.Errorf("%q is not a variable; use NAME=VALUE", one)}
			}
		}
		return v.changeAndRestart(ctx, c, args[0], "env", h, func(app *client.App) error {
			for _, one := range args[1:] {
				name, _, _ := strings.Cut(one, "=")
				app.Env = append(without(app.Env, name), one)
			}
			return nil
		})
	})
	unset := v.appsOf(&cobra.Command{
		Use:     "unset APP NAME...",
		Short:   "Unset variables; a started app is restarted",
		Example: "  vmc env unset hello COLOR",
		Args:    cobra.MinimumNArgs(2),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		return v.changeAndRestart(ctx, c, args[0], "env", h, func(app *client.App) error {
			for _, name := range args[1:] {
				left := without(app.Env, name)
				if len(left) == len(app.Env) {
					return fmt.Errorf("%s has no variable %s", app.Name, name)
				}
				app.Env = left
			}
			return nil
		})
	})
	howFlags(set, &h)
	howFlags(unset, &h)
	env.AddCommand(set, unset)
	return env
}

// without leaves out a variable.
func without(env []string, name string) []string {
	left := []string{}
	for _, one := range env {
		if key, _, _ := strings.Cut(one, "="); key != name {
			left = append(left, one)
		}
	}
	return left
}

// hostOf takes the host name from a URL as users write it.
func hostOf(text string) (string, error) {
	host := text
	if _, after, ok := strings.Cut(host, "://"); ok {
		host = after
	}
	host, path, _ := strings.Cut(strings.ToLower(host), "/")
	host, _, _ = strings.Cut(host, ":")
	if host == "" || path != "" || strings.ContainsAny(host, " ?#") {
		return "", fmt.Errorf("%q is not the URL of an app; use a host name, such as hello.cf.localhost", text)
	}
	// A final dot says that the name is whole, which names of apps are anyway; letters
	// of other alphabets travel as browsers send them.
	host = strings.TrimSuffix(host, ".")
	if plain(host) {
		return host, nil
	}
	ascii, err := idna.Lookup.ToASCII(host)
	if err != nil {
		return "", fmt.Errorf("%q is not the URL of an app: %w", text, err)
	}
	return ascii, nil
}

// plain reports whether a text is ASCII.
func plain(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r > unicode.MaxASCII })
}

func mapCommand(v *vmc) *cobra.Command {
	return v.appsOf(&cobra.Command{
		Use:     "map APP URL",
		Short:   "Add a URL to an app",
		Example: "  vmc map hello www.cf.localhost",
		Args:    cobra.ExactArgs(2),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		host, err := hostOf(args[1])
		if err != nil {
			return err
		}
		if err := c.ChangeApp(ctx, args[0], func(app *client.App) error {
			if !slices.Contains(app.URIs, host) {
				app.URIs = append(app.URIs, host)
			}
			return nil
		}); err != nil {
			return err
		}
		return did(v, map[string]string{"app": args[0], "url": c.AppURL(host)}, "%s now leads to %s.", c.AppURL(host), args[0])
	})
}

func domainsCommand(v *vmc) *cobra.Command {
	return v.command(&cobra.Command{
		Use:     "domains",
		Short:   "List the domains that you may map to apps",
		Example: "  vmc domains",
		Args:    cobra.NoArgs,
	}, show(v, ofAll((*client.Client).Domains), func(_ *client.Client, _ []string, domains []client.Domain) error {
		t := newTable("DOMAIN", "FOR")
		for _, d := range domains {
			who := "everybody"
			if d.Restricted {
				who = "you and others that are named"
			}
			t.row(d.Name, who)
		}
		return t.print(v.out)
	}))
}

func unmapCommand(v *vmc) *cobra.Command {
	return v.appsOf(&cobra.Command{
		Use:     "unmap APP URL",
		Short:   "Remove a URL from an app",
		Example: "  vmc unmap hello www.cf.localhost",
		Args:    cobra.ExactArgs(2),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		host, err := hostOf(args[1])
		if err != nil {
			return err
		}
		if err := c.ChangeApp(ctx, args[0], func(app *client.App) error {
			i := slices.Index(app.URIs, host)
			if i < 0 {
				return fmt.Errorf("%s has no URL %s; it has %s", app.Name, host, strings.Join(app.URIs, ", "))
			}
			app.URIs = slices.Delete(app.URIs, i, i+1)
			return nil
		}); err != nil {
			return err
		}
		return did(v, map[string]string{"app": args[0], "url": c.AppURL(host)}, "%s no longer leads to %s.", c.AppURL(host), args[0])
	})
}

var sizeText = regexp.MustCompile(`^(?i)([0-9]{1,7}(?:\.[0-9]{1,3})?)\s*(M|MB|G|GB)?$`)

// parseMegabytes reads 64, 64M, 1G or 0.5G.
func parseMegabytes(text string) (int, error) {
	parts := sizeText.FindStringSubmatch(strings.TrimSpace(text))
	if parts == nil {
		return 0, usageError{fmt.Errorf("%q is not a size; use one such as 64M or 1G", text)}
	}
	size, err := strconv.ParseFloat(parts[1], 64)
	if err != nil {
		return 0, err
	}
	if strings.HasPrefix(strings.ToUpper(parts[2]), "G") {
		size *= 1024
	}
	n := int(size)
	if n == 0 {
		return 0, errors.New("a size must be more than 0")
	}
	return n, nil
}
