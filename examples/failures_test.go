//go:build e2e

package examples

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shellJob is a job of one process that runs a script, with a port.
const shellJob = `
property "script" { type = string }
property "port" {
  type    = number
  default = 7000
}
template "script.sh" {}
process "main" {
  command = ["/bin/sh", "${path.config}/script.sh"]
  reload { signal = "HUP" }
}
listen "http" { port = property.port }
`

// shellCluster is a cluster of n instances of a script, without a bus.
func shellCluster(t *testing.T, n int, script string) *cluster {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("jobs/script/job.hcl", shellJob)
	write("jobs/script/templates/script.sh", "${property.script}\n")
	write("scripts.hcl", fmt.Sprintf(`deployment "scripts" { domain = "scripts.localhost" }
infrastructure "local" {}
variable "listen" { default = "" }
variable "script" { default = %q }
release "test" { path = %q }
update {
  min_healthy_time = "300ms"
  watch_time       = "0s-10s"
}
group "app" {
  instances = %d
  job "script" {
    properties { script = var.script }
  }
}
`, script, filepath.Join(dir, "jobs"), n))
	c := start(t, filepath.Join(dir, "scripts.hcl"))
	c.jobs = filepath.Join(dir, "jobs")
	return c
}

const waits = "exec sleep 1000"

func mustTell(t *testing.T, out string, code, wantCode int, wants ...string) {
	t.Helper()
	if code != wantCode {
		t.Errorf("exit code %d, want %d", code, wantCode)
	}
	for _, want := range wants {
		if !strings.Contains(out, want) {
			t.Errorf("it does not tell %q", want)
		}
	}
	if t.Failed() {
		t.Logf("output:\n%s", out)
	}
}

func TestWrongManifest(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 1, waits)
	c.edit("properties { script = var.script }", "properties { scirpt = var.script }")
	out, code := c.run("apply", "--auto-approve")
	mustTell(t, out, code, 1, "scirpt", "scripts.hcl line", `"script"`)
	c.edit("scirpt", "script")
	c.mustApply()
	c.mustAllRun(1)
}

func TestJobThatExitsAtOnce(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 3, "echo cannot find the answer; exit 42")
	out, code := c.run("apply", "--auto-approve")
	mustTell(t, out, code, 1, "exited with status 42", "cannot find the answer", "script/main")
	if out, code := c.run("apply", "--auto-approve", "--var=script="+waits); code != 0 {
		t.Fatalf("the next apply exited with %d:\n%s", code, out)
	}
	before := c.mustAllRun(3).pids()

	// On a cluster that serves, a bad change ends at its canary.
	out, code = c.run("apply", "--auto-approve", "--var=script=echo no luck; exit 43")
	mustTell(t, out, code, 1, "exited with status 43", "no luck", "put back")
	changed := 0
	for name, pid := range c.mustAllRun(3).pids() {
		if before[name] != pid {
			changed++
		}
	}
	if changed > 1 {
		t.Errorf("%d instances were touched, want the canary alone", changed)
	}
	out, _ = c.run("plan", "--var=script=echo no luck; exit 43")
	mustTell(t, out, 0, 0, "failed last time")
}

func TestExitStatusWhileTheAgentIsAway(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 1, "trap 'exit 7' USR1; while :; do sleep 0.05; done")
	c.mustApply()
	pid, agent := c.status().pids()["app/0 main"], agentOf(t, c, "app-0")
	if err := syscall.Kill(agent, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	within(t, 30*time.Second, "the process has ended", func() bool { return syscall.Kill(pid, 0) != nil })
	kill(t, agent)
	within(t, 30*time.Second, "status tells status 7", func() bool {
		for _, p := range c.status().Instances[0].Processes {
			return p.PID != pid && p.LastExit != nil && p.LastExit.Status == 7
		}
		return false
	})
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 2, waits)
	address := strings.Replace(c.cidr, ".0/24", ".1:7000", 1)
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, code := c.run("apply", "--auto-approve")
	mustTell(t, out, code, 1, address, "nothing was touched")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c.mustApply()
	c.mustAllRun(2)
}

func TestMissingSystemProgram(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 1, waits)
	job := filepath.Join(c.jobs, "script", "job.hcl")
	write := func(content string) {
		if err := os.WriteFile(job, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(shellJob + `package "nginx" {
  system = "nginx-of-another-name"
  apt    = ["nginx-light"]
}
`)
	out, code := c.run("apply", "--auto-approve")
	mustTell(t, out, code, 1, "nginx-of-another-name", "apt-get install nginx-light", "nothing was touched")
	write(shellJob)
	c.mustApply()
	c.mustAllRun(1)
}
