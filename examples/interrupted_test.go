//go:build e2e

package examples

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// started is a script that notes, in a file, each start of it: generation,
// instance and the time in nanoseconds.
func started(file string, generation int) string {
	return fmt.Sprintf(`echo "%d $DEPLOY_INSTANCE $(date +%%s%%N)" >> %s; exec sleep 1000`, generation, file)
}

// processStart is a line of that file.
type processStart struct {
	instance string
	at       time.Time
}

// startsOf are the starts of a generation, in their order.
func startsOf(t *testing.T, file string, generation int) []processStart {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var starts []processStart
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var of int
		var s processStart
		var nanoseconds int64
		if _, err := fmt.Sscan(lines.Text(), &of, &s.instance, &nanoseconds); err != nil {
			t.Fatalf("line %q: %v", lines.Text(), err)
		}
		if of == generation {
			s.at = time.Unix(0, nanoseconds)
			starts = append(starts, s)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return starts
}

// TestDeployerKilledInARollingUpdate kills deploy at twenty points of rolling
// updates, from its first word to its last, and each time begins another one
// that goes on. Nothing is done twice and no VM is lost, and in every update,
// however often it was interrupted, one canary is seen to be healthy before any
// other instance is touched.
func TestDeployerKilledInARollingUpdate(t *testing.T) {
	t.Parallel()
	const instances, points = 4, 20
	file := filepath.Join(t.TempDir(), "starts")
	c := shellCluster(t, instances, started(file, 0))
	c.edit("update {", "update {\n  max_in_flight = 3")
	c.mustApply()
	inits := func() map[string]int {
		pids := map[string]int{}
		for n := range instances {
			vm := fmt.Sprintf("app-%d", n)
			pids[vm] = c.initOf(vm)
		}
		return pids
	}
	machines := inits()

	killed, generation := []string{}, 0
	for len(killed) < points {
		generation++
		flag := "--var=script=" + started(file, generation)
		kills := 0
		for ended := false; !ended; {
			// What one update tells is about twice as much as there are points.
			// One that was interrupted often has little left to tell, ends, and
			// the next point is of a new one.
			var after string
			if after, ended = c.killAfter(2*len(killed)+1, flag); !ended {
				killed = append(killed, after)
				kills++
			}
			if len(killed) == points {
				if out, code := c.run("apply", "--auto-approve", flag); code != 0 {
					t.Fatalf("an apply after the last kill exited with %d:\n%s", code, out)
				}
				break
			}
		}
		c.mustAllRun(instances)
		if out, code := c.run("plan", flag); code != 0 {
			t.Errorf("generation %d: a plan exited with %d:\n%s", generation, code, out)
		}
		starts := startsOf(t, file, generation)
		seen := map[string]bool{}
		for _, s := range starts {
			seen[s.instance] = true
		}
		if len(starts) != instances || len(seen) != instances {
			t.Errorf("generation %d, whose deployer was killed %d times, was started %v, want once on each of %d instances", generation, kills, starts, instances)
		} else if after := starts[1].at.Sub(starts[0].at); after < 300*time.Millisecond {
			t.Errorf("generation %d: %s was started %v after the canary %s, which had not shown to be healthy for 300 ms", generation, starts[1].instance, after, starts[0].instance)
		}
		if now := inits(); !maps.Equal(now, machines) {
			t.Errorf("generation %d: the VMs' inits are %v, and were %v", generation, now, machines)
		}
	}
	t.Logf("killed in %d updates, after:\n%s", generation, strings.Join(killed, "\n"))
}

// killAfter applies and kills deploy once it has told a number of events, unless
// it has ended by then. It returns the last event.
func (c *cluster) killAfter(events int, flags ...string) (last string, ended bool) {
	c.t.Helper()
	cmd := c.command(c.t.Context(), "apply", append([]string{"--auto-approve", "--json"}, flags...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for n := 0; n < events && lines.Scan(); n++ {
		last = lines.Text()
	}
	_ = cmd.Process.Kill() // it may have ended already
	for lines.Scan() {     // what it still told
	}
	if err := lines.Err(); err != nil {
		c.t.Error(err)
	}
	ended = cmd.Wait() == nil
	return last, ended
}

// TestSuspendedDeployer suspends a deployer in the middle of a rolling update, as
// a laptop that falls asleep does, and lets another one take over and finish its
// own. The first one, when it goes on, can neither write the state nor command an
// agent.
func TestSuspendedDeployer(t *testing.T) {
	t.Parallel()
	c := shellCluster(t, 3, waits)
	c.edit(`"300ms"`, `"2s"`)
	c.mustApply()
	dir := filepath.Join(c.state, "scripts")
	script := func(name string) string { return "--var=script=: " + name + "; exec sleep 1000" }
	goOn := func(deployer int) {
		if err := syscall.Kill(deployer, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}

	for _, refusedBy := range []string{"state", "agents"} {
		first, told := c.startApply("prepared", script("first, refused by the "+refusedBy))
		if err := syscall.Kill(first.Process.Pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		remembered := mustRead(t, filepath.Join(dir, "state.json"))

		second := script("second, before the " + refusedBy)
		out, code := c.run("apply", "--auto-approve", second)
		mustTell(t, out, code, 0, fmt.Sprintf("taking over from process %d", first.Process.Pid), "suspended")
		before := c.mustAllRun(3)

		if refusedBy == "agents" {
			// As where the state's store does not know better: the first one may
			// write, and the agents alone are left to refuse it.
			if err := os.WriteFile(filepath.Join(dir, "state.json"), remembered, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		state := snapshot(t, dir, "vms")
		goOn(first.Process.Pid)
		err := first.Wait()
		// Only the state says who has taken over: an agent may say anything, so what it
		// refuses is a failure of its instance.
		tells := map[string]string{"state": "another deploy has taken over", "agents": "its agent refuses epoch"}[refusedBy]
		if first.ProcessState.ExitCode() != 1 || !strings.Contains(told(), tells) {
			t.Errorf("refused by the %s, the first one ended with %v, and told:\n%s", refusedBy, err, told())
		}
		if refusedBy == "state" {
			// The journal is history: it may say how the first one ended.
			after := snapshot(t, dir, "vms")
			delete(state, filepath.Join(dir, "journal.jsonl"))
			delete(after, filepath.Join(dir, "journal.jsonl"))
			if !maps.Equal(state, after) {
				t.Error("the first one wrote to the state")
			}
		}
		c.mustKeep(before)
		for _, in := range c.status().Instances {
			for _, was := range before.Instances {
				if in.ID == was.ID && in.Generation != was.Generation {
					t.Errorf("refused by the %s, the first one brought generation %s to %s", refusedBy, in.Generation, in.ID)
				}
			}
		}
		c.mustMend(3, second)
		c.mustKeep(before)
	}
}
