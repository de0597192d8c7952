package vmc

import (
	"strings"
	"testing"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

// TestCrashesOfAnEarlierVersion: what crashes of the version before, even while the
// new one starts, is not held against the new one.
func TestCrashesOfAnEarlierVersion(t *testing.T) {
	old, bad, unknown := client.Crash{Instance: "old", Version: "1"}, client.Crash{Instance: "bad", Version: "2"}, client.Crash{Instance: "unknown"}
	for _, tc := range []struct {
		crashes []client.Crash
		seen    string
		want    string
	}{
		{nil, "", ""},
		{[]client.Crash{old}, "", ""},
		{[]client.Crash{old, bad}, "", "bad"},
		{[]client.Crash{bad}, "bad", ""},
		{[]client.Crash{unknown}, "", "unknown"},
		{[]client.Crash{unknown, old}, "unknown", ""},
	} {
		if got := crashOf(tc.crashes, "2", map[string]bool{tc.seen: true}); got != tc.want {
			t.Errorf("of %v with %q seen: %q, want %q", tc.crashes, tc.seen, got, tc.want)
		}
	}
}

// TestFixOfACrashLoop: a push of a fix says that the app runs, however often the
// version before still crashes meanwhile; and an app without instances does not run.
func TestFixOfACrashLoop(t *testing.T) {
	p := newPlatform(t)
	p.ok("register", "me@example.com")
	app := t.TempDir()
	push := func(text string, flags ...string) []string {
		p.write(app, map[string]string{"server.js": text})
		return append([]string{"push", "rel", "--path", app, "--instances", "2"}, flags...)
	}
	for _, how := range []string{"--now=false", "--now"} {
		p.fails("rel does not stay up", push("throw new Error('bad')")...)
		if how == "--now=false" { // a fix that is none
			status, _, said := p.vmc(push("throw new Error('worse')")...)
			if status != exitFailed || !strings.Contains(said, "The new version of rel fails, and the previous one returns: instance") || !strings.Contains(said, "Error: rel has its previous version again, of which 0 of 2 run: instance") {
				t.Errorf("push of what crashes, too: status %d\n%s", status, said)
			}
		}
		if out := p.ok(push(versionJS, how)...); !strings.Contains(out, "rel runs, 2 of 2") {
			t.Errorf("push of the fix: %s", out)
		}
		p.ok("delete", "rel", "--force")
	}
	p.fails("it has no instances; use vmc scale rel 1", push(versionJS, "--instances", "0")...)
	if out := p.ok("stats", "rel"); !strings.Contains(out, "it is stopped, or scaled to 0") {
		t.Errorf("stats of an app without instances: %s", out)
	}
	p.ok("stop", "rel")
	p.ok("scale", "rel", "1")
	if _, _, said := p.vmc("logs", "rel"); strings.Count(said, "on a stopped app") != 1 {
		t.Errorf("logs of a stopped app say: %s", said)
	}
}
