//go:build e2e

package examples

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What was changed by hand on a VM is shown as its own cause, is repaired by the
// next apply, and nothing else is touched.
func TestDriftIsShownAndMended(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 2, waits)
	job := filepath.Join(c.jobs, "script", "job.hcl")
	source, err := os.ReadFile(job)
	if err != nil {
		t.Fatal(err)
	}
	withPackage := strings.Replace(string(source), `command = ["/bin/sh", "${path.config}/script.sh"]`,
		`command = ["/bin/sh", "${path.config}/script.sh", "${package.hello.path}/hello"]`, 1) + "package \"hello\" { program = \"hello\" }\n"
	if err := os.WriteFile(job, []byte(withPackage), 0o600); err != nil {
		t.Fatal(err)
	}
	c.mustApply()
	c.mustAllRun(2)
	dir := agentDir(t, c, "app-0")
	program := only(t, filepath.Join(dir, "store", "*", "hello"))
	script := filepath.Join(dir, "jobs", "script", "script.sh")

	for _, tc := range []struct {
		name     string
		change   func() error
		cause    string
		restarts bool
	}{
		{"edit", func() error { return os.WriteFile(script, []byte("exit 1\n"), 0o600) }, "jobs/script/script.sh changed by hand", true},
		{"delete", func() error { return os.Remove(script) }, "jobs/script/script.sh removed by hand", true},
		{"chmod", func() error { return os.Chmod(script, 0o666) }, "jobs/script/script.sh has another mode or owner", false},
		{"truncate", func() error { return os.Truncate(program, 100) }, "/hello changed by hand", true},
	} {
		before := c.mustAllRun(2).pids()
		if err := tc.change(); err != nil {
			t.Fatal(err)
		}
		out, code := c.run("status", "--drift")
		mustTell(t, out, code, 0, "app/0: drift: ", tc.cause)
		out, code = c.run("plan")
		mustTell(t, out, code, 2, "app/0", "drift: ", tc.cause)
		if strings.Contains(out, "app/1") || strings.Contains(out, "restart process script/main") != tc.restarts {
			t.Errorf("%s: the plan is\n%s", tc.name, out)
		}
		c.mustApply()
		out, code = c.run("plan")
		mustTell(t, out, code, 0, "nothing to do")
		out, code = c.run("status", "--drift")
		if mustTell(t, out, code, 0); strings.Contains(out, "drift") {
			t.Errorf("%s: not repaired:\n%s", tc.name, out)
		}
		after := c.mustAllRun(2).pids()
		if (after["app/0 main"] != before["app/0 main"]) != tc.restarts || after["app/1 main"] != before["app/1 main"] {
			t.Errorf("%s: pids %v, before %v", tc.name, after, before)
		}
	}
}

// agentDir is the folder of an instance's agent.
func agentDir(t *testing.T, c *cluster, vm string) string {
	t.Helper()
	return filepath.Dir(only(t, filepath.Join(c.state, "*", "vms", vm, "agent", "generations.json")))
}

func only(t *testing.T, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) != 1 {
		t.Fatalf("%s is %v, %v; want one file", pattern, names, err)
	}
	return names[0]
}
