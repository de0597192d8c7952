//go:build e2e

package examples

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
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

// What runs on a VM gets exactly the arguments that it was given, and its end is
// deploy's own. Stock clients get there by deploy's configuration, with the host
// keys that deploy knows.
func TestCommandsOnVMs(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 1, waits)
	job := filepath.Join(c.jobs, "script", "job.hcl")
	if err := os.WriteFile(job, []byte(shellJob+`
template "show.sh" {}
hook "errand" {
  name    = "show"
  command = ["/bin/sh", "${path.config}/show.sh"]
}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	const show = `for a; do printf "<%%s>" "$a"; done; [ "$1" = die ] && kill -KILL $$; exit 42`
	if err := os.WriteFile(filepath.Join(c.jobs, "script", "templates", "show.sh"), []byte(strings.ReplaceAll(show, "%%", "%")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.mustApply()
	on := func(name string, words ...string) (string, int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		cmd := c.command(ctx, name)
		cmd.Args = append(cmd.Args, words...)
		var out, errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errOut
		if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		if errOut.Len() > 0 {
			t.Logf("%s %q: %s", name, words, errOut.String())
		}
		return out.String(), cmd.ProcessState.ExitCode()
	}
	words := []string{"", "a b", "  ", "it's", `"quoted"`, "$HOME", "`id`", "a\nb", "*", "\\", "--", "-x", "äö", "#", "!", "~", "\xff\xfe"}
	want := ""
	for _, w := range words {
		want += "<" + w + ">"
	}
	script := []string{"sh", "-c", strings.ReplaceAll(show, "%%", "%"), "sh"}
	if out, code := on("ssh", append(append([]string{"app/0", "--"}, script...), words...)...); out != want || code != 42 {
		t.Errorf("ssh: exit code %d, %q, want %q", code, out, want)
	}
	if out, code := on("ssh", append(append([]string{"app/0", "--"}, script...), "die")...); code != 128+9 {
		t.Errorf("ssh: ended by KILL, exit code %d, %q", code, out)
	}
	if out, code := on("ssh", "app/0", "--", "exit 255"); code != 255 {
		t.Errorf("ssh: exit code %d, %q", code, out)
	}
	if out, code := on("run", append([]string{"script/show", "app/0", "--"}, words...)...); out != want || code != 42 {
		t.Errorf("run: exit code %d, %q, want %q", code, out, want)
	}
	if out, code := on("run", "script/show", "app/0", "--", "die"); code != 128+9 {
		t.Errorf("run: ended by KILL, exit code %d, %q", code, out)
	}

	// Files, there and back; then as a stock client.
	dir := t.TempDir()
	name := filepath.Join(dir, "a file: of 100%")
	if err := os.WriteFile(name, []byte("content\x00\xff"), 0o600); err != nil {
		t.Fatal(err)
	}
	there := filepath.Join(dir, "on the VM")
	if out, code := on("scp", name, "app/0:"+there); code != 0 {
		t.Fatalf("scp: exit code %d, %s", code, out)
	}
	if out, code := on("scp", "-p", "app/0:"+there, filepath.Join(dir, "back")); code != 0 {
		t.Fatalf("scp back: exit code %d, %s", code, out)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || string(data) != "content\x00\xff" {
		t.Errorf("scp: %q, %v", data, err)
	}
	if out, code := on("scp", "app/0:/nowhere", dir); code == 0 {
		t.Errorf("scp of nothing: %s", out)
	}
	if out, code := on("scp", "app/7:/etc/hosts", dir); code != 1 {
		t.Errorf("scp of no instance: exit code %d, %s", code, out)
	}
	config := filepath.Join(dir, "ssh")
	if out, code := c.run("ssh-config", "--out="+config); code != 0 {
		t.Fatal(out)
	}
	client := func() (string, error) {
		out, err := exec.Command("ssh", "-F", filepath.Join(config, "config"), "app-0", "echo $((6*7))").CombinedOutput()
		return string(out), err
	}
	if out, err := client(); err != nil || out != "42\n" {
		t.Errorf("ssh -F: %v, %s", err, out)
	}
	if info, err := os.Stat(filepath.Join(config, "key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", info, err)
	}
	// Another machine at the address is refused.
	known := filepath.Join(config, "known_hosts")
	key, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "other")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, key)
	}
	public, err := os.ReadFile(filepath.Join(dir, "other.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(known, append([]byte("app-0 "), public...), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := client(); err == nil || !strings.Contains(out, "verification failed") {
		t.Errorf("another host key: %v, %s", err, out)
	}
}

// Without an engine nothing begins: the first apply says so and leaves no state.
func TestNoEngineLeavesNothing(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 1, waits)
	empty := t.TempDir()
	for _, name := range []string{"PATH", "HOME", "XDG_CACHE_HOME"} {
		c.setenv(name, empty)
	}
	out, code := c.run("apply", "--auto-approve")
	mustTell(t, out, code, 1, "cannot make VMs without OpenTofu or Terraform", "on PATH")
	if _, err := os.Stat(c.state); !os.IsNotExist(err) {
		t.Errorf("the state folder is there: %v", err)
	}
	c.env = nil
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

// TestFailingIsNotGreen: over a load balancer that is dead, and over one that hangs,
// status exits with 3, and neither plan nor apply says that there is nothing to do.
func TestFailingIsNotGreen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	manifest := filepath.Join(dir, "lb.hcl")
	if err := os.WriteFile(manifest, fmt.Appendf(nil, `deployment "lb" { domain = "lb.localhost" }
infrastructure "local" {
  isolation = "none"
}
variable "listen" { default = "" }
release "test" { path = %q }
update {
  min_healthy_time = "300ms"
  watch_time       = "0s-30s"
}
group "lb" {
  job "nginx" {
    properties {
      routers = ["127.0.0.1"]
    }
  }
}
group "app" {
  job "script" {
    properties { script = "test ! -e %s || { echo the disk is broken; exit 42; }; exec sleep 1000" }
  }
}
`, filepath.Join(dir, "jobs"), broken), 0o600); err != nil {
		t.Fatal(err)
	}
	job := filepath.Join(dir, "jobs", "script")
	if err := os.MkdirAll(filepath.Join(job, "templates"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"job.hcl": shellJob, "templates/script.sh": "${property.script}\n"} {
		if err := os.WriteFile(filepath.Join(job, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := start(t, manifest)
	c.mustApply()
	healthy := func(when string) {
		t.Helper()
		within(t, time.Minute, when+": status exits with 0", func() bool {
			_, code := c.run("status", "--exit-code")
			return code == 0
		})
		if out, code := c.run("plan"); code != 0 {
			t.Errorf("%s: plan exited with %d:\n%s", when, code, out)
		}
	}
	failing := func(when, id, why string) {
		t.Helper()
		within(t, time.Minute, when+": status exits with 3", func() bool {
			out, code := c.run("status", "--exit-code")
			return code == 3 && strings.Contains(out, id)
		})
		out, code := c.run("plan")
		mustTell(t, out, code, 3, id, why)
		if strings.Contains(out, "nothing to do") {
			t.Errorf("%s: plan says:\n%s", when, out)
		}
	}
	healthy("as applied")

	// Dead: what it needs has gone, and no restart helps.
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	kill(t, c.status().pids()["app/0 main"])
	failing("dead", "app/0", "exited with status 42")
	out, code := c.run("apply", "--auto-approve")
	mustTell(t, out, code, 3, "app/0", "exited with status 42", "the disk is broken")
	if strings.Contains(out, "nothing to do") {
		t.Errorf("apply over a dead process says:\n%s", out)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	if out, code := c.run("apply", "--auto-approve"); code != 0 {
		t.Errorf("apply with the cause gone exited with %d:\n%s", code, out)
	}
	healthy("with the cause gone")

	// Hung: its processes are there, and the kernel takes connections for it.
	pid := c.status().pids()["lb/0 nginx"]
	workers, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range append(strings.Fields(string(workers)), strconv.Itoa(pid)) {
		n, err := strconv.Atoi(one)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(n, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	failing("hung", "lb/0", "/.deploy/health")
	if out, code := c.run("apply", "--auto-approve"); code != 0 || strings.Contains(out, "nothing to do") {
		t.Errorf("apply over an nginx that hangs exited with %d:\n%s", code, out)
	}
	if now := c.status().pids()["lb/0 nginx"]; now == 0 || now == pid {
		t.Errorf("nginx was not restarted: pid %d", now)
	}
	healthy("restarted")
}
