//go:build e2e

package examples

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The doctor finds what is wrong before an apply and after it, and nothing where
// nothing is.
func TestDoctor(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 2, waits)
	c.edit(`infrastructure "local" {`, "infrastructure \"local\" {\n  publish = { (var.listen) = \"app:7000\" }")
	out, code := c.run("doctor")
	mustTell(t, out, code, 0, "ok    engine: ", "ok    packages: ", "ok    manifest: 1 group, 2 instances", "address "+c.listen+": free", "nothing is deployed yet", "0 failures")
	if _, err := os.Stat(c.state); err == nil {
		t.Error("it has made the state folder")
	}

	l, err := net.Listen("tcp", c.listen)
	if err != nil {
		t.Fatal(err)
	}
	out, code = c.run("doctor")
	mustTell(t, out, code, 1, "fail  address "+c.listen+": in use by process", "-> ")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	c.mustApply()
	out, code = c.run("doctor")
	mustTell(t, out, code, 0, "address "+c.listen+": served by this deployment", "ok    agent app/0: ", "ok    agent app/1: ", "is writable and private", "0 failures")

	folder := filepath.Join(c.state, "scripts")
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	agent := agentOf(t, c, "app-1")
	if err := syscall.Kill(agent, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	out, code = c.run("doctor", "--json")
	if err := syscall.Kill(agent, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	var diagnosis struct {
		Deployment string `json:"deployment"`
		Findings   []struct{ Check, Level, Message, Fix string }
	}
	if err := json.Unmarshal([]byte(out), &diagnosis); err != nil || code != 1 || diagnosis.Deployment != "scripts" {
		t.Fatalf("exit code %d, %v:\n%s", code, err, out)
	}
	failed := map[string]string{}
	for _, f := range diagnosis.Findings {
		if f.Level == "fail" {
			failed[f.Check] = f.Message + " -> " + f.Fix
		}
	}
	if len(failed) != 2 || !strings.Contains(failed["state"], "chmod 700") || !strings.Contains(failed["agent app/1"], "does not answer") {
		t.Errorf("failures %q", failed)
	}

	c.edit("instances = 2", "instances = 2\n  instnaces = 3")
	out, code = c.run("doctor")
	mustTell(t, out, code, 1, "fail  manifest: ", "instnaces")
	c.edit("\n  instnaces = 3", "")
}
