//go:build e2e

package examples

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// errands are hooks of the job of shellCluster.
const errands = `
hook "errand" {
  name    = "greet"
  command = ["/bin/sh", "-c", "echo hello $1 from $DEPLOY_INSTANCE; echo beside >&2", "greet"]
  timeout = "10s"
}
hook "errand" {
  name    = "fail"
  command = ["/bin/sh", "-c", "echo no use; exit 7"]
  timeout = "10s"
}
hook "errand" {
  name    = "wait"
  command = ["/bin/sh", "-c", "echo waiting; exec sleep 1000"]
  timeout = "900s"
}
`

// typed runs the program with just these arguments.
func (c *cluster) typed(args ...string) (stdout, stderr string, code int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, deployBinary(c.t), args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("deploy %v did not run: %v", args, err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// startCommand starts a command and waits until it says something.
func (c *cluster) startCommand(until, name string, args ...string) (cmd *exec.Cmd, told func() string) {
	c.t.Helper()
	out, err := os.Create(filepath.Join(c.t.TempDir(), "output"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer out.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	c.t.Cleanup(cancel)
	cmd = c.command(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	told = func() string {
		data, err := os.ReadFile(out.Name())
		if err != nil {
			c.t.Error(err)
		}
		return string(data)
	}
	within(c.t, time.Minute, name+" tells "+until, func() bool { return strings.Contains(told(), until) })
	return cmd, told
}

// A day of an operator, typed as a person would.
func TestOperatorsDay(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 3, waits)
	c.job(errands)
	c.mustApply()
	const process = " main"

	// A plan is saved and applied; then the world has moved.
	file := filepath.Join(t.TempDir(), "next.plan")
	out, code := c.run("plan", "--out="+file, changed)
	mustTell(t, out, code, 2, "property script", "deploy apply "+file)
	if out, errOut, code := c.typed("apply", file); code != 0 {
		t.Fatalf("apply of the plan exited with %d:\n%s%s", code, out, errOut)
	}
	_, errOut, code := c.typed("apply", file)
	mustTell(t, errOut, code, 1, "has changed since", "app/0 runs another generation")
	if out, code := c.run("plan", changed); code != 0 {
		t.Errorf("after the saved plan there is something to do (%d):\n%s", code, out)
	}

	// What is stopped stays so, through an apply too.
	before := c.status().pids()
	out, code = c.run("stop", "--auto-approve", "app/1")
	mustTell(t, out, code, 0, "Stopped app/1")
	const later = "--var=script=: later; exec sleep 1000"
	out, code = c.run("apply", "--auto-approve", "--target=app/1", later)
	mustTell(t, out, code, 0, "stopped by an operator")
	out, _ = c.run("status")
	if !strings.Contains(out, "stopped (by an operator)") {
		t.Errorf("status does not tell:\n%s", out)
	}
	out, code = c.run("start", "app")
	mustTell(t, out, code, 0, "Started app/1")
	if now := c.status().pids(); now["app/0"+process] != before["app/0"+process] || now["app/1"+process] == before["app/1"+process] {
		t.Errorf("processes were %v, are %v", before, now)
	}
	out, code = c.run("apply", "--auto-approve", later)
	mustTell(t, out, code, 0, "app/0", "app/2")

	// A restart rolls, and is paused and resumed from elsewhere.
	out, code = c.run("pause")
	mustTell(t, out, code, 1, "no deploy works")
	c.edit(`"300ms"`, `"2s"`)
	before = c.status().pids()
	restart, told := c.startCommand("app ×3", "restart", "--auto-approve", "app")
	out, code = c.run("pause")
	mustTell(t, out, code, 0, "deploy restart")
	within(t, 30*time.Second, "the restart pauses", func() bool { return strings.Contains(told(), "paused by") })
	out, code = c.run("resume")
	mustTell(t, out, code, 0, "The rollout continues")
	if err := restart.Wait(); err != nil || !strings.Contains(told(), "resumed") {
		t.Errorf("the restart: %v\n%s", err, told())
	}
	for id, was := range before {
		if now := c.status().pids()[id]; now == was || now == 0 {
			t.Errorf("%s was process %d, is %d", id, was, now)
		}
	}
	c.edit(`"2s"`, `"300ms"`)

	// Another VM for one; the others do not notice.
	before = c.status().pids()
	out, code = c.run("recreate", "--auto-approve", later, "app/2")
	mustTell(t, out, code, 0, "± app/2 recreate", "Recreated app/2")
	if now := c.status().pids(); now["app/0"+process] != before["app/0"+process] || now["app/2"+process] == before["app/2"+process] {
		t.Errorf("processes were %v, are %v", before, now)
	}

	// Errands.
	common := []string{"run", "--state", c.state, c.manifest}
	stdout, errOut, code := c.typed(append(common, "script/greet", "app/0", "--", "you")...)
	if stdout != "hello you from app/0\n" || !strings.Contains(errOut, "beside\n") || code != 0 {
		t.Errorf("the errand said %q and %q, exit code %d", stdout, errOut, code)
	}
	_, errOut, code = c.typed(append(common, "script/fail", "app/0")...)
	mustTell(t, errOut, code, 7, "exit status 7")
	_, errOut, code = c.typed(append(common, "script/greet")...)
	mustTell(t, errOut, code, 1, "app/0, app/1, app/2", "--all")
	stdout, _, code = c.typed(append(common, "--all", "script/greet")...)
	mustTell(t, stdout, code, 0, "app/0 | hello", "app/1 | hello", "app/2 | hello")
	_, errOut, code = c.typed(append(common, "script/gret", "app/0")...)
	mustTell(t, errOut, code, 1, "script/greet")
	waiting, told := c.startCommand("waiting", "run", "script/wait", "app/0")
	if err := waiting.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := waiting.Wait(); err == nil || !strings.Contains(told(), "failed") {
		t.Errorf("the cancelled errand: %v\n%s", err, told())
	}

	// Back, and what was done.
	out, code = c.run("diff", "1")
	mustTell(t, out, code, 0, "lead to the same") // the manifest's default is what was applied first
	out, code = c.run("diff", later, "1")
	mustTell(t, out, code, 2, "+: later", "property script")
	out, code = c.run("rollback", "--auto-approve", "1")
	mustTell(t, out, code, 0, "Rolled back to revision 1")
	if out, code := c.run("plan"); code != 0 {
		t.Errorf("after the rollback there is something to do (%d):\n%s", code, out)
	}
	out, code = c.run("history")
	mustTell(t, out, code, 0, "stop app/1", "restart app", "recreate app/2", "run script/greet on app/0", "failed: ", "rollback to revision 1")

	// Left alone.
	out, code = c.run("ignore", "app/0")
	mustTell(t, out, code, 0, "app/0")
	out, code = c.run("plan", later)
	mustTell(t, out, code, 2, "app/0 is ignored", "1 left as they are")
	out, code = c.run("destroy", "--auto-approve")
	mustTell(t, out, code, 1, "app/0", "unignore")
	out, code = c.run("unignore", "app")
	mustTell(t, out, code, 0, "app/0")

	stdout, _, _ = c.typed("__complete", "restart", "--state", c.state, c.manifest, "")
	for _, want := range []string{"app\n", "app/0\n", "app/2\n"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("completion does not offer %q:\n%s", want, stdout)
		}
	}
}
