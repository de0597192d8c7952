package vmc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

// pollEvery is the interval at which instances are asked for while they start, and
// stagingAside how often a long staging is told of where nothing moves.
const (
	pollEvery    = 400 * time.Millisecond
	stagingAside = 10 * time.Second
	// settle is for how long an app without a URL has to run to count as running:
	// nobody can ask it whether it is ready.
	settle = 2 * time.Second
	// roomTimeout is for how long room is waited for that there is not: a DEA may be
	// restarting.
	roomTimeout = 30 * time.Second
)

// start stages and starts an app and waits until all its instances run. files is what
// upload has returned; "": those that the app has.
func (v *vmc) start(ctx context.Context, c *client.Client, name, files string, timeout time.Duration) error {
	seen, err := crashIDs(ctx, c, name)
	if err != nil {
		return err
	}
	return v.startAfter(ctx, c, name, files, timeout, seen)
}

// startAfter is start for an app with these crashes.
func (v *vmc) startAfter(ctx context.Context, c *client.Client, name, files string, timeout time.Duration, seen map[string]bool) error {
	done := v.progress("Staging " + name)
	noRoom, err := client.ChangeInstances(ctx, c, name, func(app *client.App) error {
		app.State, app.Package = client.Started, files
		return nil
	})
	done(err)
	if client.Is(err, client.CodeStaging) || err != nil && strings.Contains(err.Error(), "Staging") {
		v.showTail(ctx, c, name, "0", "logs/staging.log")
		return fmt.Errorf("cannot start %s: %w", name, err)
	}
	if err != nil {
		return fmt.Errorf("cannot start %s: %w", name, err)
	}
	return v.waitFor(ctx, c, name, timeout, seen, noRoom)
}

// crashIDs are the crashes that are known before.
func crashIDs(ctx context.Context, c *client.Client, name string) (map[string]bool, error) {
	crashes, err := c.Crashes(ctx, name)
	ids := map[string]bool{}
	for _, crash := range crashes {
		ids[crash.Instance] = true
	}
	return ids, err
}

// waitFor waits until all instances run. An app that crashes instead is an
// error, with the end of its log shown; so is time that is over. noRoom says why some of
// them cannot start yet, "" if all can.
func (v *vmc) waitFor(ctx context.Context, c *client.Client, name string, timeout time.Duration, seen map[string]bool, noRoom string) (err error) {
	if noRoom != "" {
		v.say("%s.", noRoom)
	}
	done := v.progress("Starting " + name)
	var states string
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = continues{fmt.Sprintf("%s goes on starting without vmc, see vmc app %s", name, name)}
			return
		}
		if err != nil && states != "" {
			err = fmt.Errorf("%w (instances: %s)", err, states)
		}
		err = sinceGone(err, name)
	}()
	begin, hints := time.Now(), v.newHints()
	var running time.Time // since when all do
	for {
		// Anew each time: it may be stopped, scaled or deleted from elsewhere.
		app, err := c.App(ctx, name)
		if err == nil && app.State != client.Started {
			err = fmt.Errorf("%s does not run: it was stopped while it was starting", name)
		}
		if err != nil {
			done(err)
			return err
		}
		instances, err := c.Instances(ctx, name)
		if err != nil {
			done(err)
			return err
		}
		hints.look(ctx, c, name, instances)
		count := map[string]int{}
		for _, i := range instances {
			count[i.State]++
		}
		states = summary(count)
		if app.Instances == 0 { // none is not all
			err := fmt.Errorf("%s is started but does not run, because it has no instances; use vmc scale %s 1", name, name)
			done(err)
			return err
		}
		if count[client.Running] != app.Instances || len(instances) != app.Instances {
			running = time.Time{}
		} else if running.IsZero() {
			running = time.Now()
		}
		if !running.IsZero() && (len(app.URIs) > 0 || time.Since(running) > settle) {
			done(nil)
			states = ""
			return v.started(c, app, len(instances))
		}
		crashes, err := c.Crashes(ctx, name)
		if err != nil {
			done(err)
			return err
		}
		if instance := crashOf(crashes, app.Version, seen); instance != "" {
			err := fmt.Errorf("%s does not stay up: an instance crashed while starting", name)
			done(err)
			v.showCrash(ctx, c, name, instance)
			return err
		}
		if timeout := patience(timeout, app); noRoom != "" && count[client.Down] > 0 && count[client.Starting] == 0 && time.Since(begin) > min(timeout, roomTimeout) {
			err := fmt.Errorf("%s does not run as it should: %s. It stays started, and starts when there is room; free some memory (vmc apps), or use less (vmc mem, vmc scale)", name, noRoom)
			done(err)
			return err
		}
		if timeout := patience(timeout, app); time.Since(begin) > timeout {
			err := fmt.Errorf("%s does not run after %v; see vmc instances %s and vmc logs %s", name, timeout, name, name)
			if count[client.Down] > 0 && count[client.Starting] == 0 {
				err = fmt.Errorf("no DEA started all instances of %s within %v: perhaps none has %s of memory left, or none has the runtime %s", name, timeout, megabytes(app.Resources.Memory), app.Staging.Runtime)
			}
			done(err)
			v.showTail(ctx, c, name, "0", "logs/stderr.log")
			return err
		}
		select {
		case <-ctx.Done():
			done(context.Cause(ctx))
			return context.Cause(ctx)
		// At first more often: most apps start in less than that.
		case <-time.After(min(pollEvery, max(pollEvery/4, time.Since(begin)/4))):
		}
	}
}

// sinceGone explains the error of an app that was there when the command began.
func sinceGone(err error, name string) error {
	if client.Is(err, client.CodeAppNotFound) {
		return fmt.Errorf("%s was deleted or renamed meanwhile: %w", name, err)
	}
	return err
}

// crashOf returns the first instance of a version that has crashed and was not seen
// before; "": none. Instances of an earlier version go on crashing while the new one
// is staged. A cloud of 2012 does not say of which version they were.
func crashOf(crashes []client.Crash, version string, seen map[string]bool) string {
	for _, crash := range crashes {
		if !seen[crash.Instance] && (crash.Version == "" || crash.Version == version) {
			return crash.Instance
		}
	}
	return ""
}

// summary is "2 RUNNING, 1 STARTING".
func summary(count map[string]int) string {
	var parts []string
	for _, state := range slices.Sorted(maps.Keys(count)) {
		parts = append(parts, fmt.Sprintf("%d %s", count[state], state))
	}
	return strings.Join(parts, ", ")
}

func (v *vmc) started(c *client.Client, app client.App, instances int) error {
	name := app.Name
	var urls []string
	for _, host := range app.URIs {
		urls = append(urls, c.AppURL(host))
	}
	if v.json {
		return v.printJSON(map[string]any{"app": name, "instances": instances, "urls": append([]string{}, urls...)})
	}
	if len(urls) == 0 {
		fmt.Fprintf(v.out, "%s runs, %d of %d\n", name, instances, instances)
		return nil
	}
	fmt.Fprintf(v.out, "%s runs, %d of %d: %s\n", name, instances, instances, strings.Join(urls, " "))
	return nil
}

// crashLogs are the files that tell why an instance ended, the most telling first.
var crashLogs = []string{"logs/err.log", "logs/stderr.log", "logs/stdout.log"}

func (v *vmc) showCrash(ctx context.Context, c *client.Client, app, instance string) {
	for _, file := range crashLogs {
		v.showTail(ctx, c, app, instance, file)
	}
	v.showMissing(ctx, c, app)
}

// missingMark begins the lines of a staging log that say what an app needs and lacks.
const missingMark = "missing: "

// showMissing shows what the staging of an app that crashes found to be missing.
func (v *vmc) showMissing(ctx context.Context, c *client.Client, app string) {
	text, err := c.File(ctx, app, "0", "logs/staging.log", 0)
	if err != nil {
		return
	}
	defer text.Close()
	data, err := io.ReadAll(io.LimitReader(text, 1<<20))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(data)) {
		if said, ok := strings.CutPrefix(strings.TrimSpace(line), missingMark); ok {
			v.say("--- its staging found: %s", shown(v.err, said))
		}
	}
}

// tailBytes is the number of bytes of a log that are shown after a failure, tailLine that of a line.
const (
	tailBytes = 4 << 10
	tailLine  = 500
)

// showTail shows the end of a file that may tell why something failed; that there
// is none is no news.
func (v *vmc) showTail(ctx context.Context, c *client.Client, app, instance, file string) {
	text, err := c.File(ctx, app, instance, file, 0)
	if err != nil {
		return
	}
	defer text.Close()
	data, err := lastBytes(text, tailBytes)
	if err != nil || len(strings.TrimSpace(string(data))) == 0 {
		return
	}
	v.say("--- %s", file)
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\r\n")
		if len(line) > tailLine {
			line = line[:tailLine] + " ..."
		}
		v.say("    %s", shown(v.err, strings.ToValidUTF8(line, "\ufffd")))
	}
}

// lastBytes reads to the end and keeps the last n bytes, from a line's beginning
// if there were more.
func lastBytes(r io.Reader, n int) ([]byte, error) {
	var kept []byte
	buffer := make([]byte, 32<<10)
	cut := false
	for {
		read, err := r.Read(buffer)
		kept = append(kept, buffer[:read]...)
		if surplus := len(kept) - n; surplus > 0 {
			kept, cut = slices.Delete(kept, 0, surplus), true
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if _, rest, ok := strings.Cut(string(kept), "\n"); cut && ok {
		return []byte(rest), nil
	}
	return kept, nil
}

// progress says what is being done; the function that it returns says how it
// ended. On a terminal the line lives, elsewhere it is told again now and then.
func (v *vmc) progress(what string) func(error) {
	_, live := terminal(v.err)
	begin := time.Now()
	stop, stopped := make(chan struct{}), make(chan struct{})
	if live {
		fmt.Fprintf(v.err, "%s ...", what)
	}
	go func() {
		defer close(stopped)
		every := stagingAside
		if live {
			every = time.Second
		}
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if live {
					fmt.Fprintf(v.err, "\r%s ... %s", what, age(time.Since(begin)))
				} else {
					v.say("%s ... %s", what, age(time.Since(begin)))
				}
			}
		}
	}()
	return func(err error) {
		close(stop)
		<-stopped
		result := "done"
		switch {
		case errors.Is(err, context.Canceled):
			result = "interrupted"
		case err != nil:
			result = "failed"
		}
		took := fmt.Sprintf("%.1fs", time.Since(begin).Seconds())
		if live {
			fmt.Fprintf(v.err, "\r%s ... %s, %s\x1b[K\n", what, result, took)
			return
		}
		v.say("%s: %s, %s", what, result, took)
	}
}
