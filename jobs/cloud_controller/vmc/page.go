package vmc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

// shownEvents is the number of events that the page of an app has.
const shownEvents = 5

// event describes what happened to an app: something that was done, or a crash.
type event struct {
	At    int64  `json:"at"` // Unix seconds
	Actor string `json:"actor,omitempty"`
	Text  string `json:"text"`
}

// eventsOf returns what was done to an app and its crashes, the latest last. A cloud
// that keeps no events has crashes.
func eventsOf(ctx context.Context, c *client.Client, app string) ([]event, error) {
	done, err := c.Events(ctx, app)
	if err != nil && !unknownToCloud(err) {
		return nil, err
	}
	all := []event{}
	for _, e := range done {
		all = append(all, event(e))
	}
	crashes, err := c.Crashes(ctx, app)
	if err != nil {
		return nil, err
	}
	for _, crash := range crashes {
		all = append(all, event{At: crash.Since, Text: "an instance crashed: " + crash.Instance})
	}
	slices.SortStableFunc(all, func(a, b event) int { return cmp.Compare(a.At, b.At) })
	return all, nil
}

// unknownToCloud reports whether a cloud does not know what it was asked for at all, as
// one of 2012 does not know what came later.
func unknownToCloud(err error) bool {
	var answer *client.Error
	return errors.As(err, &answer) && answer.Status == http.StatusNotFound && answer.Code != client.CodeAppNotFound
}

func eventsCommand(v *vmc) *cobra.Command {
	return v.appsOf(&cobra.Command{
		Use:     "events APP",
		Short:   "List changes of an app, who made them, and its crashes",
		Example: "  vmc events hello",
		Args:    cobra.ExactArgs(1),
	}, show(v, func(ctx context.Context, c *client.Client, args []string) ([]event, error) {
		return eventsOf(ctx, c, args[0])
	}, func(_ *client.Client, args []string, events []event) error {
		if len(events) == 0 {
			v.say("There are no events of %s.", args[0])
			return nil
		}
		t := newTable("AT", "WHO", "WHAT")
		for _, e := range events {
			t.row(clock(e.At), cmp.Or(e.Actor, "-"), e.Text)
		}
		return t.print(v.out)
	}))
}

func renameCommand(v *vmc) *cobra.Command {
	return v.appsOf(&cobra.Command{
		Use:     "rename APP NAME",
		Short:   "Rename an app; its URLs stay, and its instances see the new name at their next start",
		Example: "  vmc rename hello greeter",
		Args:    cobra.ExactArgs(2),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		if err := c.ChangeApp(ctx, args[0], func(app *client.App) error {
			app.Name = args[1]
			return nil
		}); err != nil {
			return err
		}
		if v.json {
			return v.printJSON(map[string]string{"name": args[1]})
		}
		v.say("Renamed %s to %s.", args[0], args[1])
		return nil
	})
}

func openCommand(v *vmc) *cobra.Command {
	return v.appsOf(&cobra.Command{
		Use:     "open APP",
		Short:   "Open an app's first URL in the browser",
		Example: "  vmc open hello",
		Args:    cobra.ExactArgs(1),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		app, err := c.App(ctx, args[0])
		if err != nil {
			return err
		}
		if len(app.URIs) == 0 {
			return fmt.Errorf("%s has no URL; vmc map %s HOST adds one", app.Name, app.Name)
		}
		url := c.AppURL(app.URIs[0])
		if v.json {
			return v.printJSON(map[string]string{"url": url})
		}
		fmt.Fprintln(v.out, url)
		program := browser(runtime.GOOS)
		if _, err := exec.LookPath(program[0]); err != nil {
			return fmt.Errorf("this machine has no %s, which opens a browser", program[0])
		}
		if err := exec.CommandContext(ctx, program[0], append(program[1:], url)...).Run(); err != nil {
			return fmt.Errorf("cannot open a browser: %s: %w; open the URL above yourself", program[0], err)
		}
		return nil
	})
}

// browser is the program of an operating system that opens URLs.
func browser(system string) []string {
	switch system {
	case "darwin":
		return []string{"open"}
	case "windows":
		return []string{"rundll32", "url.dll,FileProtocolHandler"}
	}
	return []string{"xdg-open"}
}

// page is all that is known of an app.
type page struct {
	client.App
	Running   []client.InstanceStats `json:"stats"`
	Indices   []client.Instance      `json:"indices"`
	URLs      []string               `json:"urls"`
	Events    []event                `json:"events"`
	LastCrash string                 `json:"last_crash,omitempty"` // the end of its log
}

func appCommand(v *vmc) *cobra.Command {
	return v.appsOf(&cobra.Command{
		Use:     "app APP",
		Short:   "Show everything about an app: state, instances, URLs, services, events, last crash",
		Example: "  vmc app hello\n  vmc app hello --json",
		Args:    cobra.ExactArgs(1),
	}, show(v, func(ctx context.Context, c *client.Client, args []string) (page, error) {
		return v.pageOf(ctx, c, args[0])
	}, func(_ *client.Client, _ []string, p page) error { return v.printPage(p) }))
}

func (v *vmc) pageOf(ctx context.Context, c *client.Client, name string) (p page, err error) {
	if p.App, err = c.App(ctx, name); err != nil {
		return p, err
	}
	p.URLs = []string{}
	for _, host := range p.URIs {
		p.URLs = append(p.URLs, c.AppURL(host))
	}
	if p.Indices, err = c.Instances(ctx, name); err != nil {
		return p, err
	}
	if p.Running, err = c.Stats(ctx, name); err != nil {
		return p, err
	}
	if p.Events, err = eventsOf(ctx, c, name); err != nil {
		return p, err
	}
	crashes, err := c.Crashes(ctx, name)
	if err != nil || len(crashes) == 0 {
		return p, err
	}
	// A DEA may have forgotten it.
	if text, err := c.File(ctx, name, crashes[len(crashes)-1].Instance, "logs/err.log", 0); err == nil {
		data, err := lastBytes(text, 1<<10)
		text.Close()
		if err == nil {
			p.LastCrash = strings.TrimSpace(string(data))
		}
	}
	return p, nil
}

func (v *vmc) printPage(p page) error {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(v.out, "%-10s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	list := func(name string, all []string) { line(name, "%s", cmp.Or(strings.Join(all, ", "), "-")) }
	line("App", "%s", p.Name)
	line("State", "%s", strings.ToLower(p.State))
	line("Kind", "%s/%s", p.Staging.Framework, p.Staging.Runtime)
	if p.Meta.Command != "" {
		line("Command", "%s", p.Meta.Command)
	}
	line("Instances", "%d, each %s of memory and %s of disk", p.Instances, megabytes(p.Resources.Memory), megabytes(p.Resources.Disk))
	line("Runs when", "%s", healthText(p.Health))
	list("URLs", p.URLs)
	list("Services", p.Services)
	fmt.Fprintln(v.out)
	if len(p.Indices) > 0 {
		t := newTable("INDEX", "STATE", "SINCE", "CPU", "MEMORY")
		for _, i := range p.Indices {
			cells := []string{strconv.Itoa(i.Index), strings.ToLower(i.State), clock(i.Since), "", ""}
			for _, s := range p.Running {
				if s.Index == i.Index && s.Stats != nil && s.Stats.Usage != nil {
					cells[3] = fmt.Sprintf("%.1f%%", s.Stats.Usage.CPU)
					cells[4] = size(int64(s.Stats.Usage.Mem * 1024))
				}
			}
			t.row(cells...)
		}
		if err := t.print(v.out); err != nil {
			return err
		}
		fmt.Fprintln(v.out)
	}
	for _, e := range p.Events[max(0, len(p.Events)-shownEvents):] {
		fmt.Fprintf(v.out, "%s  %s\n", clock(e.At), e.Text)
	}
	if p.LastCrash != "" {
		fmt.Fprintf(v.out, "\nThe last crash (vmc crashlogs %s has more):\n", p.Name)
		for text := range strings.Lines(p.LastCrash) {
			fmt.Fprintf(v.out, "    %s\n", shown(v.out, strings.TrimRight(text, "\n")))
		}
	}
	return nil
}
