//go:build e2e

package examples

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// What a file shows to be impossible is found by plan and apply before anything
// moves, with its line, and all that is wrong at once.
func TestFoundBeforeAnythingMoves(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 3, waits)
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(filepath.Join(c.jobs, from), filepath.Join(c.jobs, to)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		rename("script", "away") // what was applied is destroyed, whatever the manifest has become
		out, code := c.run("destroy", "--auto-approve", "--delete-disks")
		mustTell(t, out, code, 0, "by revision", "Destroyed")
		if _, err := os.Stat(c.state); !os.IsNotExist(err) {
			t.Errorf("destroy left a state folder: %v", err)
		}
		rename("away", "script")
	})
	c.edit(`deployment "scripts"`, "secret \"key\" { type = \"password\" }\nvariable \"size\" { default = 2 }\nvariable \"zones\" { default = [\"z1\", \"z2\"] }\n"+
		"disk \"data\" { size_gb = var.size }\ndeployment \"scripts\"")
	c.edit(`  instances = 3`, "  instances = 3\n  azs = var.zones\n  disk = disk.data")
	if out, code := c.run("plan"); code != 2 {
		t.Fatalf("the first plan exited with %d:\n%s", code, out)
	}
	if _, err := os.Stat(c.state); !os.IsNotExist(err) {
		t.Errorf("the first plan left a state folder: %v", err)
	}
	c.mustApply()
	running := c.mustAllRun(3).pids()

	dir, jobs := filepath.Dir(c.manifest), c.jobs
	write := func(path, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(jobs, "other", "job.hcl"), strings.ReplaceAll(shellJob, `"script.sh"`, `"logo.png"`))
	write(filepath.Join(jobs, "other", "templates", "logo.png"), "\x89PNG\xff\x00")
	write(filepath.Join(jobs, "port", "job.hcl"), `
property "port" { type = number }
process "main" { command = ["/bin/sleep", "1000"] }
listen "web" { port = property.port }
`)
	write(filepath.Join(dir, "good.json"), `{"script": "${nothing} %{ here", "size": 2}`)
	write(filepath.Join(dir, "cut.json"), `{"size": 2, "script": `)
	write(filepath.Join(dir, "typo.json"), `{"sise": 2}`)
	write(filepath.Join(dir, "latin1.vars"), "script = \"p\xe4ss\"\n")
	vars := func(name string) string { return "--var-file=" + filepath.Join(dir, name) }

	for _, wrong := range []struct {
		what     string
		old, new string // an edit of the manifest
		flags    []string
		wants    []string
	}{
		{"ports", "  job \"script\" {", "  job \"port\" {\n    properties { port = 7000 }\n  }\n  job \"script\" {", nil,
			[]string{`Port in use`, `in group "app"`, `"port" (listen "web") and job "script" (listen "http")`, "tcp port 7000"}},
		{"impossible ports", "  job \"script\" {", "  job \"port\" {\n    properties { port = 70000 }\n  }\n  job \"script\" {", nil,
			[]string{"Invalid port", "properties { port = 70000 }", "whole number from 1 to 65535"}},
		{"a port that is none, and a template that is no text", "  job \"script\" {", "  job \"port\" {\n    properties { port = 80.5 }\n  }\n  job \"other\" {\n    properties { script = \"\" }\n  }\n  job \"script\" {", nil,
			[]string{"Invalid port", "80.5 cannot be the port", "Template is not text", "other/job.hcl line", "raw = true"}},
		{"a smaller disk in fewer zones", "", "", []string{"--var=size=1", `--var=zones=["z1"]`},
			[]string{"Disk cannot shrink", `disk "data" { size_gb = var.size }`, "app/0 has one of 2 GB", "Disk cannot leave its zone", "azs = var.zones", "app/1 is in z2"}},
		{"a zone twice", "", "", []string{`--var=zones=["z1", "z1"]`}, []string{"Invalid zones", "azs = var.zones"}},
		{"a variable that is no text", "", "", []string{"--var=script=p\xe4ss"}, []string{"Value is not text", `variable "script"`, "base64"}},
		{"a file of variables that is no text", "", "", []string{vars("latin1.vars")}, []string{"Invalid character encoding", "latin1.vars line 1"}},
		{"JSON that is cut off", "", "", []string{vars("cut.json")}, []string{"Unclosed object", "cut.json line 1"}},
		{"a typo in JSON", "", "", []string{vars("typo.json")}, []string{"typo.json line 1", `no variable "sise". Did you mean "size"?`}},
	} {
		if wrong.old != "" {
			c.edit(wrong.old, wrong.new)
		}
		before := snapshot(t, c.state, "log", "run")
		for _, args := range [][]string{{"plan"}, {"apply", "--auto-approve"}} {
			out, code := c.run(args[0], append(args[1:], wrong.flags...)...)
			out = strings.Join(strings.Fields(out), " ") // lines are folded
			for _, want := range wrong.wants {
				if !strings.Contains(out, want) {
					t.Errorf("%s: %s does not tell %q:\n%s", wrong.what, args[0], want, out)
				}
			}
			if code != 1 {
				t.Errorf("%s: %s exited with %d, want 1:\n%s", wrong.what, args[0], code, out)
			}
			if !utf8.ValidString(out) || strings.Contains(out, "\x00") {
				t.Errorf("%s: %s prints bytes that are no text: %q", wrong.what, args[0], out)
			}
		}
		if after := snapshot(t, c.state, "log", "run"); !reflect.DeepEqual(before, after) {
			t.Errorf("%s: the state folder is another", wrong.what)
		}
		if wrong.old != "" {
			c.edit(wrong.new, wrong.old)
		}
	}

	// What runs is told by the last revision while the manifest names a job that is
	// not there, and nothing else is done.
	rename("script", "away")
	for _, args := range [][]string{{"status", "--exit-code"}, {"status", "--drift"}, {"status", "--census"}} {
		out, code := c.run(args[0], args[1:]...)
		mustTell(t, out, code, 0, "app/0", "app/2", "running", "by revision 1", "deploy validate")
	}
	for _, command := range []string{"logs", "metrics"} {
		out, code := c.run(command)
		mustTell(t, out, code, 0, "by revision 1", "deploy validate")
	}
	out, code := c.run("apply", "--auto-approve")
	mustTell(t, out, code, 1, `No release has a job "script"`)
	rename("away", "script")

	// A secret keeps what it was.
	was := c.mustDeploy("", "secret", "show", c.manifest, "key.value")
	if _, errOut, code := c.deploy("p\xe4ss\xff", "secret", "set", c.manifest, "key"); code != 1 || !strings.Contains(errOut, "its byte 2 is not UTF-8 text") {
		t.Errorf("secret set exited with %d: %s", code, errOut)
	}
	if now := c.mustDeploy("", "secret", "show", c.manifest, "key.value"); now != was {
		t.Errorf("the secret is %q, it was %q", now, was)
	}

	// Another manifest of the same name touches nothing, whatever it is asked to do.
	other := *c
	other.manifest = filepath.Join(dir, "other.hcl")
	source, err := os.ReadFile(c.manifest)
	if err != nil {
		t.Fatal(err)
	}
	write(other.manifest, strings.ReplaceAll(string(source), `group "app"`, `group "web"`))
	for _, args := range [][]string{{"plan"}, {"apply", "--auto-approve"}, {"status"}, {"destroy", "--auto-approve"}} {
		out, code := other.run(args[0], args[1:]...)
		mustTell(t, out, code, 1, "it is that of another manifest, "+c.manifest, "nothing was done", "deploy state adopt")
	}

	// What is right: JSON is read as JSON, and a zone that stays empty is said.
	out, code = c.run("plan", vars("good.json"))
	mustTell(t, out, code, 2, "+${nothing} %{ here")
	out, code = c.run("plan", `--var=zones=["z1", "z2", "z3"]`)
	mustTell(t, out, code, 0, `zone "z3" of group "app" stays empty`)
	if now := c.mustAllRun(3).pids(); !reflect.DeepEqual(now, running) {
		t.Errorf("processes are %v, they were %v", now, running)
	}
}
