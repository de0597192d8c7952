package vmc

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestHelp: each command has an example and says in one line what it does; the help of
// all lists the exit statuses.
func TestHelp(t *testing.T) {
	var look func(c *cobra.Command)
	look = func(c *cobra.Command) {
		if c.Example == "" || !strings.Contains(c.Example, "vmc") {
			t.Errorf("%s has no example", c.CommandPath())
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s says of itself: %q", c.CommandPath(), c.Short)
		}
		for _, sub := range c.Commands() {
			look(sub)
		}
	}
	root := rootCommand(&vmc{})
	look(root)
	for name := range elsewhere {
		if c, _, err := root.Find([]string{name}); err != nil || c.Name() != name {
			t.Errorf("names of %s elsewhere are known, and no such command: %v", name, err)
		}
	}
	p := &platform{t: t}
	if out := p.ok("-h"); !strings.Contains(out, "Exit status:") || !strings.Contains(out, "4    the cloud cannot be reached") {
		t.Errorf("the help does not list the exit statuses:\n%s", out)
	}
	if out := p.ok("scale", "-h"); strings.Contains(out, "Exit status:") {
		t.Errorf("the help of a command lists them: %s", out)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out := p.ok("completion", shell); !strings.Contains(out, "vmc") {
			t.Errorf("completion for %s: %.200s", shell, out)
		}
	}
}

// TestExitStatus: a script can tell a wrong command line, a login that is needed and a
// cloud that is away from what the cloud refuses; with --json an error is an object.
func TestExitStatus(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("VMC_TARGET", "127.0.0.1:1")
	p := &platform{t: t}
	for line, want := range map[string]struct {
		status int
		text   string
	}{
		"nosuch":                     {exitUsage, `unknown command "nosuch"`},
		"apps --nosuch":              {exitUsage, "unknown flag: --nosuch; see vmc apps -h"},
		"scale hello":                {exitUsage, "needs an app and how many instances it is to have; usage: vmc scale APP"},
		"scale hello 3 -i 3":         {exitUsage, "needs an app and how many instances it is to have"},
		"scale hello -i 3":           {exitUnreachable, "connection refused"},
		"logs hello --recent":        {exitUnreachable, "connection refused"},
		"set-env hello A B":          {exitUsage, "Did you mean this?\n\tenv\n"},
		"restage hello":              {exitUsage, "Did you mean this?\n\trestart\n"},
		"marketplace":                {exitUsage, "Did you mean this?\n\tservices\n"},
		"psuh":                       {exitUsage, "Did you mean this?\n\tpush\n"},
		"push hello --instances two": {exitUsage, "invalid argument"},
		"env set hello":              {exitUsage, "see vmc env set -h"},
		"apps":                       {exitUnreachable, "connection refused"},
		"apps --target ftp://x":      {exitFailed, "is not a target"},
	} {
		status, _, said := p.vmc(strings.Fields(line)...)
		if status != want.status || !strings.Contains(said, want.text) {
			t.Errorf("vmc %s: status %d, want %d and %q\n%s", line, status, want.status, want.text, said)
		}
		status, out, _ := p.vmc(append(strings.Fields(line), "--json")...)
		var told failure
		if line == "nosuch" || strings.Contains(want.text, "Did you mean") || strings.Contains(line, "--nosuch") || strings.Contains(line, "two") {
			continue // the flags are not read to their end
		}
		if err := json.Unmarshal([]byte(out), &told); err != nil || told.Status != status || !strings.Contains(told.Error, want.text) {
			t.Errorf("vmc %s --json: %v, %+v", line, err, told)
		}
	}
}

// TestPaint: states have colours, whatever names apps have.
func TestPaint(t *testing.T) {
	table := "NAME      STATE     URLS\nrunning   started   http://down.x/\nb         stopped   \nc         flapping\n"
	want := "NAME      STATE     URLS\nrunning   \x1b[32mstarted\x1b[0m   http://down.x/\nb         stopped   \nc         \x1b[31mflapping\x1b[0m\n"
	if got := paint(table, 1); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := paint(table, -1); got != table {
		t.Errorf("without states: %q", got)
	}
	if colored(&strings.Builder{}) {
		t.Error("what is no terminal has colours")
	}
}
