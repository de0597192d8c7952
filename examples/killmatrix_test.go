//go:build e2e

package examples

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// counts writes a numbered line every 10 ms; a change of the first word makes
// another generation of it.
const counts = `: %d
i=0
while :; do
  i=$((i+1))
  echo "$$ line $i"
  sleep 0.01
done`

// TestKillMatrix kills the deployer at 20 random moments of applies, and in
// each of them another part of the cluster: agent, shim, job, init or bus.
// Every time the next apply converges; nothing runs twice or is left over, and
// no process that ran on lost a line of its log.
func TestKillMatrix(t *testing.T) {
	c := shellCluster(t, 3, fmt.Sprintf(counts, 0))
	c.edit(`cidr = "127.41.0.0/24"`, `cidr = "127.42.0.0/24"`)
	c.edit("update {", `secret "nats" { type = "password" }
group "nats" {
  job "nats" {
    properties { password = secret.nats.value }
  }
}
update {
  max_in_flight = "67%"`)
	c.mustApply()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	victims := []string{"", "agent", "shim", "job", "init", "nats"}
	for round := 1; round <= 20; round++ {
		script := "--var=script=" + fmt.Sprintf(counts, round)
		victim := victims[round%len(victims)]
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := c.command(ctx, "apply", "--auto-approve", script)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// An apply takes about 2 s; the moment is anywhere in it.
		<-time.After(time.Duration(random.IntN(1500)) * time.Millisecond)
		if victim != "" {
			killPart(t, c, victim, random)
		}
		_ = cmd.Process.Kill() // it may have ended already
		_ = cmd.Wait()
		cancel()

		var out string
		within(t, 60*time.Second, fmt.Sprintf("round %d (%s): an apply succeeds", round, victim), func() bool {
			var code int
			out, code = c.run("apply", "--auto-approve", script)
			if code != 0 {
				t.Logf("round %d (%s): apply exited with %d:\n%s", round, victim, code, out)
			}
			return code == 0
		})
		if t.Failed() {
			return
		}
		within(t, 30*time.Second, fmt.Sprintf("round %d (%s): everything runs", round, victim), func() bool {
			for _, in := range c.status().Instances {
				if in.State != "running" || in.Agent != "alive" {
					return false
				}
			}
			return true
		})
		if out, code := c.run("plan", script); code == 1 {
			t.Fatalf("round %d (%s): plan exited with %d:\n%s", round, victim, code, out)
		}
		mustRunOnce(t, c, fmt.Sprintf("round %d (%s)", round, victim))
	}
	mustHaveWholeLogs(t, c)
}

// killPart kills one process of a kind, a random one.
func killPart(t *testing.T, c *cluster, kind string, random *rand.Rand) {
	t.Helper()
	patterns := map[string]string{
		"agent": `/bin/agent-\S+ run `,
		"shim":  `app-\d/\S*shim\S* .*/run/script/`,
		"job":   `^/bin/sh \S+/script.sh`,
		"init":  `local-init .*/app-\d`,
		"nats":  `/nats -c `,
	}
	pattern := regexp.MustCompile(patterns[kind])
	var pids []int
	for _, p := range processesUnder(c.state) {
		pid, command, _ := strings.Cut(p, " ")
		if pattern.MatchString(command) {
			n, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, n)
		}
	}
	if len(pids) == 0 {
		return // it happens to be away, which is as good
	}
	if p, err := os.FindProcess(pids[random.IntN(len(pids))]); err == nil {
		_ = p.Kill() // it may just have ended
	}
}

// mustRunOnce checks that each VM has one agent and each process runs once.
func mustRunOnce(t *testing.T, c *cluster, when string) {
	t.Helper()
	var found map[string]int
	healthy := func() bool {
		found = map[string]int{}
		for _, p := range processesUnder(c.state) {
			for _, kind := range []struct{ name, pattern string }{
				{"agent", `/vms/(\w+-\d)/agent/bin/agent-\S+ run `},
				{"job", `^\d+ /bin/sh \S*/vms/(\w+-\d)/\S+/script.sh`},
				{"nats", `/vms/(\w+-\d)/agent/store/\S+/nats -c `},
			} {
				if m := regexp.MustCompile(kind.pattern).FindStringSubmatch(p); m != nil {
					found[m[1]+" "+kind.name]++
				}
			}
		}
		for _, want := range []string{"app-0 agent", "app-1 agent", "app-2 agent", "nats-0 agent", "app-0 job", "app-1 job", "app-2 job", "nats-0 nats"} {
			if found[want] != 1 {
				return false
			}
		}
		return true
	}
	// A standby agent waits for its predecessor's lock; it may take a moment to go.
	defer func() {
		if t.Failed() {
			t.Logf("%s: running are %v", when, found)
		}
	}()
	within(t, 20*time.Second, when+": every agent and process runs once", healthy)
}

// mustHaveWholeLogs checks that each process's lines are numbered without a gap.
func mustHaveWholeLogs(t *testing.T, c *cluster) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(c.state, "scripts", "vms", "app-*", "agent", "log", "script", "main.log*"))
	if err != nil || len(files) < 3 {
		t.Fatalf("log files: %v, %v", files, err)
	}
	lines := 0
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		last := map[string]int{}
		for scanner := bufio.NewScanner(f); scanner.Scan(); {
			var pid string
			var n int
			if _, err := fmt.Sscanf(scanner.Text(), "%s line %d", &pid, &n); err != nil {
				continue // what the agent and the shell say
			}
			lines++
			if n != last[pid]+1 && n != 1 { // 1: the pid was used again
				t.Errorf("%s: process %s went from line %d to %d", file, pid, last[pid], n)
			}
			last[pid] = n
		}
		_ = f.Close()
	}
	if lines < 1000 {
		t.Errorf("only %d lines were logged", lines)
	}
	t.Logf("%d log lines, none missing", lines)
}
