package vmc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
	"github.com/clusterworks/deploy/jobs/cloud_controller/vmc/internal/manifest"
)

// healthFlags returns how an instance's health is found out, as a manifest says it.
func healthFlags(c *cobra.Command, h *manifest.Health) {
	c.Flags().StringVar(&h.Type, "health-check", "", "the `kind` of health check: port, http, process or file")
	c.Flags().StringVar(&h.Endpoint, "health-endpoint", "", "the path that the http check requests, or the file that the file check waits for")
	c.Flags().DurationVar(&h.Timeout, "start-timeout", 0, "how long an instance may take to start (default: the cloud's)")
	// These three words are all that there is.
	_ = c.RegisterFlagCompletionFunc("health-check", cobra.FixedCompletions([]string{"port", "http", "process", "file"}, cobra.ShellCompDirectiveNoFileComp))
}

// changeHealth applies what is said of an app's health; what is zero stays.
func changeHealth(a *client.App, wanted manifest.Health) error {
	if wanted == (manifest.Health{}) {
		return nil
	}
	if a.Health == nil {
		return errors.New("this cloud has no health checks of apps")
	}
	if wanted.Timeout > 0 && wanted.Timeout < time.Second {
		return fmt.Errorf("a start time-out of %v is too short; use at least a second", wanted.Timeout)
	}
	if wanted.Type != "" {
		if wanted.Type == "none" {
			wanted.Type = "process"
		}
		a.Health.Type, a.Health.Endpoint = wanted.Type, wanted.Endpoint
	}
	if wanted.Timeout > 0 {
		a.Health.Timeout = int(wanted.Timeout / time.Second)
	}
	return nil
}

// healthText is an app's health check on a line.
func healthText(h *client.Health) string {
	if h == nil || *h == (client.Health{}) {
		return "the cloud's choice: its port answers, if it has one"
	}
	text := h.Type
	switch h.Type {
	case "":
		text = "the cloud's choice"
	case "http":
		text = "GET " + h.Endpoint + " is answered"
	case "file":
		text = "the file " + h.Endpoint + " is there"
	case "port":
		text = "its port answers"
	case "process":
		text = "its process runs"
	}
	if h.Timeout > 0 {
		text += fmt.Sprintf(", within %v", time.Duration(h.Timeout)*time.Second)
	}
	return text
}

func healthCommand(v *vmc) *cobra.Command {
	var wanted manifest.Health
	var h how
	c := v.appsOf(&cobra.Command{
		Use:   "health APP",
		Short: "Show or change the health check of an app; a started app is restarted",
		Example: `  vmc health hello
  vmc health hello --health-check http --health-endpoint /ready
  vmc health hello --start-timeout 3m`,
		Args: cobra.ExactArgs(1),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		if wanted != (manifest.Health{}) {
			if wanted.Type == "" && wanted.Endpoint != "" {
				wanted.Type = "http"
			}
			return v.changeAndRestart(ctx, c, args[0], "health", h, func(a *client.App) error { return changeHealth(a, wanted) })
		}
		app, err := c.App(ctx, args[0])
		if err != nil {
			return err
		}
		if v.json {
			return v.printJSON(app.Health)
		}
		fmt.Fprintln(v.out, healthText(app.Health))
		return nil
	})
	healthFlags(c, &wanted)
	howFlags(c, &h)
	return c
}

// patience returns the time that an app's instances are waited for: as long as the user says,
// else two minutes, or half a minute more than the app may take.
func patience(said time.Duration, app client.App) time.Duration {
	if said > 0 {
		return said
	}
	wait := 2 * time.Minute
	if app.Health != nil {
		wait = max(wait, time.Duration(app.Health.Timeout)*time.Second+30*time.Second)
	}
	return wait
}

// hints shows early what the cloud writes into the logs of instances that start,
// such as that an app listens on another port.
type hints struct {
	v     *vmc
	since time.Time // when the first look is worth it, and then each next one
	every time.Duration
	seen  map[string]bool // lines
}

// firstHint is the time that an instance starts before its log is looked at.
const firstHint = 3 * time.Second

func (v *vmc) newHints() *hints {
	return &hints{v: v, since: time.Now().Add(firstHint), every: 2 * firstHint, seen: map[string]bool{}}
}

// look shows new lines of the instances that start. That none can be read is no
// matter.
func (h *hints) look(ctx context.Context, c *client.Client, app string, instances []client.Instance) {
	if time.Now().Before(h.since) {
		return
	}
	for _, i := range instances {
		if i.State != client.Starting {
			continue
		}
		text, err := c.File(ctx, app, strconv.Itoa(i.Index), "logs/err.log", 0)
		if err != nil {
			continue
		}
		data, err := io.ReadAll(io.LimitReader(text, tailBytes))
		text.Close()
		if err != nil {
			continue
		}
		for line := range bytes.Lines(data) {
			_, said, _ := strings.Cut(strings.TrimSpace(string(line)), " ") // after the time
			if said != "" && !h.seen[said] {
				h.seen[said] = true
				h.v.say("    %s", said)
			}
		}
	}
	h.since = time.Now().Add(h.every)
}
