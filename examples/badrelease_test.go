//go:build e2e

package examples

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestBadRelease rolls out releases of hello that are bad in a way each, over
// one that serves. One instance is touched at most, it serves its previous
// generation again, no request is lost, and what was wrong is told, now and by
// the next plan.
func TestBadRelease(t *testing.T) {
	t.Parallel()
	c := helloCluster(t)
	built, err := filepath.Abs("jobs")
	if err != nil {
		t.Fatal(err)
	}
	c.jobs = t.TempDir()
	if err := os.CopyFS(c.jobs, os.DirFS(built)); err != nil {
		t.Fatal(err)
	}
	c.edit(strconv.Quote(built), strconv.Quote(c.jobs))
	c.edit("instances = 2", "instances = 3")
	c.edit(`"100ms"`, `"3s"`)
	c.edit(`"0s-20s"`, `"0s-10s"`)
	file := filepath.Join(c.jobs, "hello", "job.hcl")
	good := string(mustRead(t, file))
	release := func(changes ...string) {
		job := good
		for i := 0; i < len(changes); i += 2 {
			if !strings.Contains(job, changes[i]) {
				t.Fatalf("hello's job.hcl has no %q", changes[i])
			}
			job = strings.Replace(job, changes[i], changes[i+1], 1)
		}
		if err := os.WriteFile(file, []byte(job), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const command = `["${package.hello.path}/hello", "-c", "${path.config}/hello.yml"]`
	const listen = "listen \"http\" {\n  port = property.port\n}\n"
	const control = "  component = true"
	const wrongCheck = control + "\n  env = { CHANGED = \"yes\" }\n  check \"tcp\" {\n    target = \"${instance.address}:1\"\n  }"
	const stuckDrain = "\nhook \"drain\" {\n  command = [\"/bin/sh\", \"-c\", \"echo waiting for ever; exec sleep 1000\"]\n  timeout = \"1s\"\n}\n"

	c.mustApply()
	router := net.JoinHostPort(c.addressOf("router/0"), "8081")
	c.mustServe("before")
	for _, bad := range []struct {
		what    string
		changes []string
		tells   []string
		loses   bool // a process that dies takes requests with it
	}{
		{
			what:    "exits at once",
			changes: []string{command, `["${package.hello.path}/hello", "-c", "${path.config}/hello.yml", "-fast"]`},
			tells:   []string{"exited with status 2", "flag provided but not defined"},
		},
		{
			what:    "fails its check, and hangs in its drain when it is put back",
			changes: []string{control, wrongCheck, listen, listen + stuckDrain},
			tells:   []string{"is not healthy in time", "cannot connect to 127.", "connection refused"},
		},
		{
			what: "dies after 2 s",
			changes: []string{command,
				`["/bin/sh", "-c", "\"$0\" -c \"$1\" & sleep 2; echo lost the database; exit 5", "${package.hello.path}/hello", "${path.config}/hello.yml"]`},
			tells: []string{"exited with status 5", "lost the database"},
			loses: true,
		},
	} {
		before := c.mustAllRun(5)
		l := startLoad(t, router, "hello.bus.localhost", 16, 100)
		release(bad.changes...)
		c.mustFail(nil, append(bad.tells, "hello/0", "hello/0 ran before this change", "put back", "deploy logs")...)
		if out, code := c.run("plan"); code != 2 || !strings.Contains(out, "failed last time") {
			t.Errorf("%s: the next plan exits with %d and tells:\n%s", bad.what, code, out)
		}
		after := c.mustAllRun(5)
		for i, in := range after.Instances {
			if in.Generation != before.Instances[i].Generation {
				t.Errorf("%s: %s has generation %s, and had %s", bad.what, in.ID, in.Generation, before.Instances[i].Generation)
			}
			for name, pid := range before.pids() {
				if name != "hello/0 hello" && after.pids()[name] != pid {
					t.Errorf("%s: %s was touched", bad.what, name)
				}
			}
		}
		c.mustServe(bad.what)
		l.stop()
		t.Logf("%s: %v", bad.what, l)
		if !bad.loses {
			l.mustNotFail(t)
		}
		if t.Failed() {
			return
		}
	}

	// A release that hangs in its drain holds up the next one: that one's canary
	// is put back, and serves.
	release(listen, listen+stuckDrain)
	c.mustApply()
	before := c.mustAllRun(5)
	l := startLoad(t, router, "hello.bus.localhost", 16, 100)
	c.edit("{ greeting = var.greeting }", "{\n      greeting = var.greeting\n      port     = 8083\n    }")
	c.mustFail(nil, "hook drain", "waiting for ever", "put back")
	after := c.mustAllRun(5)
	for name, pid := range before.pids() {
		if name != "hello/0 hello" && after.pids()[name] != pid {
			t.Errorf("%s was touched", name)
		}
	}
	c.mustServe("after it hung in drain")
	l.stop()
	l.mustNotFail(t)
}
