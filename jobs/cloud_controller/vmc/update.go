package vmc

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

// how describes how a running app gets what is new.
type how struct {
	timeout time.Duration
	now     bool
	canary  int
	release int // to go back to; 0: present files and settings
	watch   bool
	files   string // what upload has returned, "" if there was none
}

func howFlags(c *cobra.Command, h *how) {
	timeoutFlag(c, &h.timeout)
	c.Flags().BoolVar(&h.now, "now", false, "stop all instances, then start them: quicker, but the app is down meanwhile")
	c.Flags().BoolVar(&h.watch, "watch", false, "also wait for the time in which a crash returns the app to its previous release")
}

// renew brings a started app's new files and settings into use, and waits until it
// runs with them.
func (v *vmc) renew(ctx context.Context, c *client.Client, name, cause string, h how) error {
	seen, err := crashIDs(ctx, c, name)
	if err != nil {
		return err
	}
	change := client.Change{Cause: cause, Canary: h.canary, Release: h.release, Package: h.files}
	if h.now {
		change.Now = &h.now
	}
	done := v.progress("Staging " + name)
	update, err := c.UpdateApp(ctx, name, change)
	done(err)
	if err != nil {
		if client.Is(err, client.CodeStaging) {
			v.showTail(ctx, c, name, "0", "logs/staging.log")
		}
		return fmt.Errorf("cannot update %s: %w", name, err)
	}
	if update.ID == 0 {
		return v.waitFor(ctx, c, name, h.timeout, seen, update.Reason)
	}
	return v.awaitUpdate(ctx, c, name, update, h)
}

// awaitUpdate waits until an update is over, or waits to be promoted. The time-out is for
// each of its steps. With h.watch it waits until the new version is watched no more.
func (v *vmc) awaitUpdate(ctx context.Context, c *client.Client, name string, update client.Update, h how) (err error) {
	defer func() { err = sinceGone(err, name) }()
	app, err := c.App(ctx, name)
	if err != nil {
		return err
	}
	timeout := patience(h.timeout, app)
	done := v.progress("Updating " + name)
	for last := time.Now(); ; {
		next, err := c.UpdateOf(ctx, name, update.ID)
		if err != nil {
			if ctx.Err() != nil {
				err = continues{fmt.Sprintf("the update of %s continues without vmc, see vmc app %s", name, name)}
			}
			done(err)
			return err
		}
		if next.Back && !update.Back {
			v.say("The new version of %s fails, and the previous one returns: %s", name, next.Reason)
		}
		if next != update {
			last = time.Now()
		}
		update = next
		if update.Status != client.Updating && !(h.watch && update.Watching) || update.Held {
			break
		}
		if !update.Watching && time.Since(last) > timeout {
			err := fmt.Errorf("the update of %s has made no progress within %v; it continues without vmc, see vmc instances %s", name, timeout, name)
			done(err)
			return err
		}
		select {
		case <-ctx.Done():
			err := continues{fmt.Sprintf("the update of %s continues without vmc, see vmc app %s", name, name)}
			done(err)
			return err
		case <-time.After(pollEvery):
		}
	}
	switch update.Status {
	case client.Updating:
		done(nil)
		v.say("%d of %d instances of %s are new. vmc promote %s replaces the others, vmc rollback %s returns to the old release.", update.Replaced, update.Instances, name, name, name)
		return only(v, map[string]any{"app": name, "instances": update.Instances, "new": update.Replaced})
	case client.Updated:
		done(nil)
		app, err := c.App(ctx, name)
		if err != nil {
			return err
		}
		if update.Instances == 0 {
			return fmt.Errorf("%s is updated but does not run, because it has no instances; use vmc scale %s 1", name, name)
		}
		if update.Watching {
			v.say("If it crashes within %v, its previous release comes back by itself (vmc events %s; --watch waits for that).", time.Duration(update.WatchS)*time.Second, name)
		}
		return v.started(c, app, update.Instances)
	case client.Undone:
		err := fmt.Errorf("%s keeps running with its previous version: %s", name, update.Reason)
		if running, look := runs(ctx, c, name); look == nil && running < update.Instances {
			err = fmt.Errorf("%s has its previous version again, of which %d of %d run: %s", name, running, update.Instances, update.Reason)
		}
		done(err)
		if update.Failed != "" {
			v.showCrash(ctx, c, name, update.Failed)
		}
		return err
	}
	err = fmt.Errorf("%s was not updated: %s", name, update.Reason)
	done(err)
	return err
}

// runs returns how many instances of an app run.
func runs(ctx context.Context, c *client.Client, name string) (n int, err error) {
	instances, err := c.Instances(ctx, name)
	for _, i := range instances {
		if i.State == client.Running {
			n++
		}
	}
	return n, err
}

func updateCommand(v *vmc) *cobra.Command {
	var path string
	var h how
	c := v.appsOf(&cobra.Command{
		Use:     "update APP",
		Short:   "Push new files to an app, and restart it if it runs",
		Example: "  vmc update hello --path target",
		Args:    cobra.ExactArgs(1),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		app, err := c.App(ctx, args[0])
		if err != nil {
			return err
		}
		if h.files, err = v.upload(ctx, c, app.Name, path); err != nil {
			return err
		}
		if app.State != client.Started {
			v.say("%s is stopped; vmc start %s starts it.", app.Name, app.Name)
			return only(v, map[string]any{"app": app.Name, "instances": 0})
		}
		return v.renew(ctx, c, app.Name, "update", h)
	})
	c.Flags().StringVarP(&path, "path", "p", ".", "folder, .war, .zip or program to push")
	c.Flags().IntVar(&h.canary, "canary", 0, "replace this many instances, then wait for vmc promote")
	howFlags(c, &h)
	return c
}

func releasesCommand(v *vmc) *cobra.Command {
	return v.appsOf(&cobra.Command{
		Use:     "releases APP",
		Short:   "List the releases of an app, which it can return to",
		Example: "  vmc releases hello\n  vmc rollback hello 3",
		Args:    cobra.ExactArgs(1),
	}, show(v, ofApp((*client.Client).Releases), func(_ *client.Client, args []string, list []client.Release) error {
		if len(list) == 0 {
			v.say("%s has no releases: it was never started.", args[0])
			return nil
		}
		t := newTable("RELEASE", "CREATED", "CAUSE", "VERSION", "")
		for _, r := range list {
			present := ""
			switch {
			case r.Replacing:
				present = "present, being replaced"
			case r.Present:
				present = "present"
			}
			t.row(strconv.Itoa(r.Release), clock(r.Created), r.Cause, r.Version, present)
		}
		return t.print(v.out)
	}))
}

func rollbackCommand(v *vmc) *cobra.Command {
	var h how
	c := v.appsOf(&cobra.Command{
		Use:   "rollback APP [RELEASE]",
		Short: "Return a running app to an earlier release: files and settings",
		Long: `rollback returns an app to the release before the present one, or to the release
whose number vmc releases shows. While an update replaces the present one, it
returns to that. It updates the app like push does: each old
instance stops only when the new one is healthy.`,
		Example: "  vmc rollback hello\n  vmc rollback hello 3",
		Args:    cobra.RangeArgs(1, 2),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		if len(args) == 2 {
			var err error
			if h.release, err = strconv.Atoi(args[1]); err != nil || h.release < 1 {
				return usageError{fmt.Errorf("%q is not a release; use a number that vmc releases %s shows", args[1], args[0])}
			}
		} else {
			list, err := c.Releases(ctx, args[0])
			if err != nil {
				return err
			}
			if h.release, err = before(list); err != nil {
				return fmt.Errorf("cannot roll back %s: %w", args[0], err)
			}
		}
		v.say("Returning to release %d of %s.", h.release, args[0])
		return v.renew(ctx, c, args[0], "rollback", h)
	})
	howFlags(c, &h)
	return c
}

// before returns the number of the release before the present one, or before the one
// that is replacing it.
func before(list []client.Release) (int, error) {
	for i, r := range list {
		if !r.Present {
			continue
		}
		if r.Replacing {
			return r.Release, nil
		}
		if i+1 < len(list) {
			return list[i+1].Release, nil
		}
		return 0, errors.New("there is no earlier release")
	}
	return 0, errors.New("it has no running release")
}

func promoteCommand(v *vmc) *cobra.Command {
	var h how
	c := v.appsOf(&cobra.Command{
		Use:     "promote APP",
		Short:   "Replace the remaining instances after a push with --canary",
		Example: "  vmc push hello --canary 1\n  vmc promote hello",
		Args:    cobra.ExactArgs(1),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		update, err := c.UpdateApp(ctx, args[0], client.Change{Promote: true})
		if err != nil {
			return err
		}
		return v.awaitUpdate(ctx, c, args[0], update, h)
	})
	timeoutFlag(c, &h.timeout)
	return c
}
