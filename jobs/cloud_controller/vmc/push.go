package vmc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
	"github.com/clusterworks/deploy/jobs/cloud_controller/vmc/internal/manifest"
)

// pushFlags describe what the command line says instead of the manifest.
type pushFlags struct {
	path, manifest     string
	urls               []string
	framework, runtime string
	command            string
	memory, disk       string
	instances          int
	env, services      []string
	noStart, noURL     bool
	health             manifest.Health
	how                how
}

func pushCommand(v *vmc) *cobra.Command {
	var flags pushFlags
	var cmd *cobra.Command
	cmd = v.command(&cobra.Command{
		Use:   "push [NAME]",
		Short: "Push an app and start it, or push new files to an existing one",
		Long: `push creates an app from a folder (or a .war, a .zip or a single program) and
starts it. It reads the app's settings from the flags, from manifest.yml in the
folder, and from the app's files, in this order. An existing app gets the new
files and settings. A running app keeps running: a new instance starts beside each
old one, which stops when the new one is healthy. If the new instances fail, push
returns the app to its old files and fails; vmc releases and vmc rollback return
to an earlier release later.

A manifest:

  applications:
  - name: hello
    url: hello.${target-base}     the target's domain; ${name} is the name
    framework: node
    memory: 64M
    instances: 2
    env: { GREETING: Hi }
    services: [cache]

.vmcignore (or .cfignore) names files that are not pushed, as .gitignore does.`,
		Example: `  vmc push
  vmc push hello --path target/hello.war --memory 256M
  vmc push worker --framework standalone --runtime python --command "python3 worker.py"`,
		Args: cobra.MaximumNArgs(1),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		apps, notices, err := pushed(args, flags, cmd.Flags().Changed)
		if err != nil {
			return err
		}
		info, err := c.Info(ctx)
		if err != nil {
			return err
		}
		if info.User == "" {
			return errNotLoggedIn
		}
		for _, notice := range notices {
			v.say("Note: %s.", notice)
		}
		for _, app := range apps {
			if err := v.push(ctx, c, info, app, flags); err != nil {
				return err
			}
		}
		return nil
	})
	f := cmd.Flags()
	f.StringVarP(&flags.path, "path", "p", ".", "folder, .war, .zip or program to push")
	f.StringVarP(&flags.manifest, "manifest", "f", "", "the manifest `file` (default: manifest.yml in the folder)")
	f.StringSliceVar(&flags.urls, "url", nil, "`host` name; may be repeated. By default NAME and the target's domain")
	f.BoolVar(&flags.noURL, "no-url", false, "give the app no URL")
	f.StringVar(&flags.framework, "framework", "", "the app's framework, see vmc frameworks (default: detected)")
	f.StringVar(&flags.runtime, "runtime", "", "the app's runtime, see vmc runtimes (default: the framework's)")
	f.StringVar(&flags.command, "command", "", "the command that starts a standalone app or a program")
	f.StringVarP(&flags.memory, "memory", "m", "", "memory of an instance, such as 64M or 1G")
	f.StringVar(&flags.disk, "disk", "", "disk of an instance")
	f.IntVarP(&flags.instances, "instances", "i", 1, "number of instances")
	f.StringArrayVar(&flags.env, "env", nil, "variable `NAME=VALUE`; may be repeated")
	f.StringSliceVar(&flags.services, "service", nil, "`name` of a service of yours to bind; may be repeated")
	f.BoolVar(&flags.noStart, "no-start", false, "push the app without starting it")
	healthFlags(cmd, &flags.health)
	howFlags(cmd, &flags.how)
	f.IntVar(&flags.how.canary, "canary", 0, "replace this many instances of a running app, then wait for vmc promote")
	return cmd
}

// push makes or changes one app, gives it its files and starts it.
func (v *vmc) push(ctx context.Context, c *client.Client, info client.Info, app manifest.App, flags pushFlags) (err error) {
	uploaded := false
	if app.Path == "" {
		app.Path = "."
	}
	// Before anything is made: what is pushed may have to be built first.
	if _, err := os.Stat(app.Path); err != nil {
		return fmt.Errorf("cannot push %s, because its files are missing (must it be built first?): %w", app.Name, err)
	}
	noURL := flags.noURL || app.NoRoute
	uris, err := hosts(app, c.Domain())
	if err != nil {
		return err
	}
	resources := client.Resources{}
	for _, one := range []struct {
		text string
		into *int
	}{{app.Memory, &resources.Memory}, {app.Disk, &resources.Disk}} {
		if one.text == "" {
			continue
		}
		if *one.into, err = parseMegabytes(one.text); err != nil {
			return err
		}
	}
	if err := haveServices(ctx, c, app); err != nil {
		return err
	}
	present, err := c.App(ctx, app.Name)
	switch {
	case client.Is(err, client.CodeAppNotFound):
		if err := v.create(ctx, c, info, app, uris, resources, noURL); err != nil {
			return err
		}
		// What is half made would count, hold its URL, and look like an app.
		defer func() { err = v.undo(ctx, c, app.Name, uploaded, err) }()
		if err := v.configure(ctx, c, app, nil, client.Resources{}); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		v.say("%s exists; pushing new files.", app.Name)
		switch {
		case noURL:
			uris = []string{}
		case len(uris) == 0:
			uris = nil // as they are
		}
		if app.Framework != "" && app.Framework != present.Staging.Framework {
			return fmt.Errorf("%s is a %s app and cannot become a %s one: delete it first", app.Name, present.Staging.Framework, app.Framework)
		}
		if err := v.configure(ctx, c, app, uris, resources); err != nil {
			return err
		}
	}
	if flags.how.files, err = v.upload(ctx, c, app.Name, app.Path); err != nil {
		return err
	}
	uploaded = true
	if files, end, err := filesOf(app.Path); err == nil {
		if names := notStarted(files); len(names) > 0 {
			v.say("Note: of the Procfile the process web runs, and not %s: push it as an app of its own with --command and --no-url, or use vmc run for what ends.", strings.Join(names, ", "))
		}
		end()
	}
	switch {
	case present.State == client.Started && flags.noStart:
		v.say("%s keeps running with its old files until vmc restart %s.", app.Name, app.Name)
		return only(v, map[string]any{"app": app.Name, "instances": present.Instances})
	case present.State == client.Started:
		return v.renew(ctx, c, app.Name, "push", flags.how)
	case flags.noStart:
		v.say("Pushed %s; vmc start %s starts it.", app.Name, app.Name)
		return only(v, map[string]any{"app": app.Name, "instances": 0})
	}
	if present.Name == "" { // a new one has not crashed yet
		return v.startAfter(ctx, c, app.Name, flags.how.files, flags.how.timeout, nil)
	}
	return v.start(ctx, c, app.Name, flags.how.files, flags.how.timeout)
}

// create makes an app that is not there.
func (v *vmc) create(ctx context.Context, c *client.Client, info client.Info, app manifest.App, uris []string, resources client.Resources, noURL bool) error {
	is := kind{framework: app.Framework, web: app.Framework != "standalone"}
	if is.framework == "" {
		var err error
		if is, err = detect(app.Path, info.Frameworks); err != nil {
			return fmt.Errorf("cannot push %s: %w", app.Path, err)
		}
		switch {
		case app.Command != "" && (is.framework == "" || is.framework == "binary" || is.command != ""):
			is = kind{framework: "standalone", web: is.command != "" && is.web}
		case is.framework == "":
			hint := advice(app.Path)
			if hint != "" {
				hint = "; " + hint
			}
			if isFolder(app.Path) && isEmpty(app.Path) {
				return fmt.Errorf("cannot push %s: the folder %s is empty; push the one that has the app's files, --path FOLDER", app.Name, app.Path)
			}
			return fmt.Errorf("cannot detect the framework of %s: nothing in it says how it runs, of %s%s; use --framework (vmc frameworks lists them), or --command for any other program", app.Path, lookedFor(info.Frameworks), hint)
		}
		v.say("Detected the framework of %s by its files: %s.", app.Name, is.framework)
	}
	framework := is.framework
	if app.Command == "" {
		app.Command = is.command
	}
	if app.Runtime == "" && framework == "standalone" {
		files, end, err := filesOf(app.Path)
		if err != nil {
			return err
		}
		app.Runtime = runtimeOf(app.Command, files)
		end()
	}
	if resources.Memory == 0 {
		resources.Memory = 64
		if framework == "java_web" || app.Runtime == "java" {
			resources.Memory = 512
		}
	}
	// Who says nothing of URLs gets one, unless there is nothing to serve, most
	// likely.
	if len(uris) == 0 && !noURL && is.web {
		uris = []string{hostLabel(app.Name) + "." + c.Domain()}
	}
	instances := 1
	if app.Instances != nil {
		instances = *app.Instances
	}
	err := c.CreateApp(ctx, client.NewApp{Name: app.Name, Framework: framework, Runtime: app.Runtime, Command: app.Command,
		URIs: uris, Instances: instances, Resources: resources})
	if err != nil {
		// Perhaps it was made, and only the answer is lost.
		if made, lookErr := c.App(ctx, app.Name); lookErr == nil && made.Staging.Framework == framework && !answered(err) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("cannot create %s: %w", app.Name, err)
	}
	v.say("Created %s.", app.Name)
	return nil
}

// undoTimeout bounds the removal of what a push has half made, which goes on when
// the push itself was interrupted.
const undoTimeout = 20 * time.Second

// undo removes an app that a failed push has just made, and adds to the error what
// became of it. One that has its files stays: it can be looked at and started.
func (v *vmc) undo(ctx context.Context, c *client.Client, name string, uploaded bool, failed error) error {
	if failed == nil || uploaded {
		return failed
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if err := c.DeleteApp(ctx, name); err != nil {
		return fmt.Errorf("%w; %s was created without files and could not be deleted again (%v); use vmc delete %s", failed, name, err, name)
	}
	v.say("Deleted %s again.", name)
	return failed
}

// haveServices returns an error that names the services of an app that the user
// does not have.
func haveServices(ctx context.Context, c *client.Client, app manifest.App) error {
	if len(app.Services) == 0 {
		return nil
	}
	mine, err := c.Services(ctx)
	if err != nil {
		return err
	}
	var names, missing []string
	for _, s := range mine {
		names = append(names, s.Name)
	}
	for _, wanted := range app.Services {
		if !slices.Contains(names, wanted) {
			missing = append(missing, wanted)
		}
	}
	switch {
	case len(missing) == 0:
		return nil
	case len(names) == 0:
		return fmt.Errorf("cannot push %s: you have no service %s, nor any other; vmc services lists what the cloud offers, vmc create-service creates one", app.Name, strings.Join(missing, ", "))
	}
	return fmt.Errorf("cannot push %s: you have no service %s; you have %s (vmc create-service creates one)", app.Name, strings.Join(missing, ", "), strings.Join(names, ", "))
}

// union has the first and what of the second is not among them.
func union(first, second []string) []string {
	all := slices.Clone(first)
	for _, one := range second {
		if !slices.Contains(all, one) {
			all = append(all, one)
		}
	}
	return all
}

// answered says whether the controller itself refused.
func answered(err error) bool {
	var e *client.Error
	return errors.As(err, &e) && e.Code != 0
}

// configure gives an app what it is described with; nil and zero leave it as it
// is. uris come to those that it has; an empty list takes all away.
func (v *vmc) configure(ctx context.Context, c *client.Client, app manifest.App, uris []string, resources client.Resources) error {
	if app.Env == nil && app.Services == nil && app.Instances == nil && app.Command == "" && uris == nil &&
		resources == (client.Resources{}) && app.Health == (manifest.Health{}) {
		return nil
	}
	err := c.ChangeApp(ctx, app.Name, func(a *client.App) error {
		for _, one := range app.Env {
			name, _, _ := strings.Cut(one, "=")
			a.Env = append(without(a.Env, name), one)
		}
		for _, one := range app.Services {
			if !slices.Contains(a.Services, one) {
				a.Services = append(a.Services, one)
			}
		}
		if app.Instances != nil {
			a.Instances = *app.Instances
		}
		if app.Command != "" {
			a.Meta.Command = app.Command
		}
		switch {
		case len(uris) > 0: // those that were mapped since stay
			a.URIs = union(a.URIs, uris)
		case uris != nil:
			a.URIs = uris
		}
		if resources.Memory != 0 {
			a.Resources.Memory = resources.Memory
		}
		if resources.Disk != 0 {
			a.Resources.Disk = resources.Disk
		}
		return changeHealth(a, app.Health)
	})
	if err != nil {
		return fmt.Errorf("cannot configure %s: %w", app.Name, err)
	}
	return nil
}
