package vmc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

func instancesCommand(v *vmc) *cobra.Command {
	var timeout time.Duration
	c := v.appsOf(&cobra.Command{
		Use:     "instances APP [[+|-]N]",
		Short:   "List an app's instances; with a number, change how many there are",
		Example: "  vmc instances hello\n  vmc instances hello 3",
		Args:    cobra.RangeArgs(1, 2),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		if len(args) == 2 {
			return v.scale(ctx, c, args[0], args[1], timeout)
		}
		instances, err := c.Instances(ctx, args[0])
		if err != nil {
			return err
		}
		if v.json {
			if instances == nil {
				instances = []client.Instance{}
			}
			return v.printJSON(instances)
		}
		if len(instances) == 0 {
			v.say("%s has no running instances: it is stopped, or scaled to 0.", args[0])
			return nil
		}
		t := newTable("INDEX", "STATE", "SINCE")
		for _, i := range instances {
			t.row(strconv.Itoa(i.Index), strings.ToLower(i.State), clock(i.Since))
		}
		return t.print(v.out)
	})
	timeoutFlag(c, &timeout)
	return c
}

func statsCommand(v *vmc) *cobra.Command {
	return v.appsOf(&cobra.Command{
		Use:     "stats APP",
		Short:   "Show the CPU, memory and disk that an app's instances use",
		Example: "  vmc stats hello\n  vmc stats hello --json",
		Args:    cobra.ExactArgs(1),
	}, show(v, ofApp((*client.Client).Stats), func(_ *client.Client, args []string, stats []client.InstanceStats) error {
		if len(stats) == 0 {
			v.say("%s has no running instances: it is stopped, or scaled to 0.", args[0])
			return nil
		}
		t := newTable("INDEX", "STATE", "CPU", "MEMORY", "DISK", "UPTIME", "ADDRESS")
		for _, s := range stats {
			cells := []string{strconv.Itoa(s.Index), strings.ToLower(s.State), "", "", "", "", ""}
			if s.Stats != nil {
				if u := s.Stats.Usage; u != nil {
					cells[2] = fmt.Sprintf("%.1f%%", u.CPU)
					cells[3] = fmt.Sprintf("%s of %s", size(int64(u.Mem*1024)), size(s.Stats.MemQuota))
					cells[4] = fmt.Sprintf("%s of %s", size(int64(u.Disk)), size(s.Stats.DiskQuota))
				}
				cells[5] = age(time.Duration(s.Stats.Uptime * float64(time.Second)))
				if s.Stats.Port > 0 {
					cells[6] = fmt.Sprintf("%s:%d", s.Stats.Host, s.Stats.Port)
				}
			}
			t.row(cells...)
		}
		return t.print(v.out)
	}))
}

func crashesCommand(v *vmc) *cobra.Command {
	return v.appsOf(&cobra.Command{
		Use:     "crashes APP",
		Short:   "List the crashes of an app's instances",
		Example: "  vmc crashes hello",
		Args:    cobra.ExactArgs(1),
	}, show(v, ofApp((*client.Client).Crashes), func(_ *client.Client, args []string, crashes []client.Crash) error {
		if len(crashes) == 0 {
			v.say("%s has not crashed recently.", args[0])
			return nil
		}
		t := newTable("INSTANCE", "AT")
		for _, crash := range crashes {
			t.row(crash.Instance, clock(crash.Since))
		}
		return t.print(v.out)
	}))
}

func crashlogsCommand(v *vmc) *cobra.Command {
	return v.appsOf(&cobra.Command{
		Use:     "crashlogs APP",
		Short:   "Show the log of the latest crash that is still kept",
		Example: "  vmc crashlogs hello",
		Args:    cobra.ExactArgs(1),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		crashes, err := c.Crashes(ctx, args[0])
		if err != nil {
			return err
		}
		if len(crashes) == 0 {
			return fmt.Errorf("%s has not crashed recently", args[0])
		}
		// DEAs forget crashes before the health manager does.
		var failed error
		for _, crash := range slices.Backward(crashes) {
			if err = v.printLogs(ctx, c, args[0], crash.Instance, crashLogs); err == nil {
				return nil
			}
			if failed == nil {
				failed = err
			}
		}
		return failed
	})
}

// printLogs prints files of an instance that are there and have something in
// them; it is an error if none could be read at all.
func (v *vmc) printLogs(ctx context.Context, c *client.Client, app, instance string, files []string) error {
	var failed error
	read := 0
	texts := []fileText{}
	for _, file := range files {
		if v.json {
			data, err := readFile(ctx, c, app, instance, file)
			if err == nil {
				texts = append(texts, newFileText(app, instance, file, data))
			}
			failed = cmp.Or(failed, err)
			continue
		}
		text, err := c.File(ctx, app, instance, file, 0)
		if err != nil {
			if failed == nil || !strings.Contains(failed.Error(), err.Error()) { // what is so of all is said once
				failed = errors.Join(failed, err)
			}
			continue
		}
		read++
		head := &heading{w: v.out, title: fmt.Sprintf("==> %s <==\n", file)}
		_, err = copyShown(v.out, head, text)
		if err = errors.Join(err, text.Close()); err != nil {
			return err
		}
	}
	if len(texts) > 0 {
		return v.printJSON(texts)
	}
	if read == 0 {
		return failed
	}
	return nil
}

// heading prints a title before the first byte.
type heading struct {
	w     io.Writer
	title string
}

func (h *heading) Write(p []byte) (int, error) {
	if h.title != "" && len(p) > 0 {
		if _, err := io.WriteString(h.w, h.title); err != nil {
			return 0, err
		}
		h.title = ""
	}
	return h.w.Write(p)
}

// followEvery is the interval at which new lines are asked for.
const followEvery = time.Second

// follow prints what is added to files until it is interrupted.
func (v *vmc) follow(ctx context.Context, c *client.Client, app, instance string, files []string) error {
	at := make([]int64, len(files))
	for {
		for i, file := range files {
			n, err := v.more(ctx, c, app, instance, file, at[i])
			switch {
			case ctx.Err() != nil:
				return nil // that is how it ends
			case client.Is(err, client.CodeAppNotFound) || client.Is(err, client.CodeForbidden) || client.Is(err, client.CodeAppStopped):
				return err
			case err != nil:
				n = 0 // a new instance, perhaps, whose files begin anew
			}
			at[i] = n
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followEvery):
		}
	}
}

// more prints a file from an offset on and returns where it ends. The last byte
// is asked for once more, since asking for nothing is an error.
func (v *vmc) more(ctx context.Context, c *client.Client, app, instance, file string, at int64) (int64, error) {
	from := max(at-1, 0)
	text, err := c.File(ctx, app, instance, file, from)
	if err != nil {
		return 0, err
	}
	defer text.Close()
	if at > 0 {
		if _, err := io.CopyN(io.Discard, text, 1); err != nil {
			return 0, err
		}
	}
	n, err := copyShown(v.out, v.out, text)
	return at + n, err
}

func filesCommand(v *vmc) *cobra.Command {
	var instance string
	c := v.appsOf(&cobra.Command{
		Use:     "files APP [PATH]",
		Short:   "List a folder or print a file of an instance",
		Example: "  vmc files hello\n  vmc files hello app/\n  vmc files hello logs/stderr.log",
		Args:    cobra.RangeArgs(1, 2),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		path := ""
		if len(args) == 2 {
			path = args[1]
		}
		if v.json {
			data, err := readFile(ctx, c, args[0], instance, path)
			if err != nil {
				return fileError(err, args[0], instance, path)
			}
			return v.printJSON(newFileText(args[0], instance, path, data))
		}
		text, err := c.File(ctx, args[0], instance, path, 0)
		if err != nil {
			return fileError(err, args[0], instance, path)
		}
		_, err = copyShown(v.out, v.out, text)
		return errors.Join(err, text.Close())
	})
	c.Flags().StringVar(&instance, "instance", "0", "`index` of the instance, or the id of one that crashed or was stopped")
	return c
}
