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
	"runtime"
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

// matrix is a cluster of three app instances and a bus whose parts are killed.
type matrix struct {
	*cluster
	// processes are the command lines of the instance's VM by pid here.
	processes func(instance string) map[int]string
	// kinds are the parts: which processes of which instances they are.
	kinds map[string]part
	// logs are the log files of script/main on all app instances.
	logs func() []string
}

type part struct {
	instances []string
	pattern   string
}

var (
	apps = []string{"app/0", "app/1", "app/2"}
	all  = append([]string{"nats/0"}, apps...)
)

// find are the pids of a kind on an instance.
func (m *matrix) find(kind, instance string) []int {
	pattern := regexp.MustCompile(m.kinds[kind].pattern)
	var pids []int
	for pid, command := range m.processes(instance) {
		if pattern.MatchString(command) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestKillMatrix kills the deployer at random moments of applies, and in most of
// them another part of the cluster: agent, shim, job, init or bus. Every time the
// next apply converges; nothing runs twice or is left over, and no process that
// ran on lost a line of its log.
func TestKillMatrix(t *testing.T) {
	t.Parallel()
	for _, isolation := range []string{"none", "namespaces"} {
		t.Run(isolation, func(t *testing.T) {
			t.Parallel()
			killLocal(t, isolation)
		})
	}
}

func killLocal(t *testing.T, isolation string) {
	c := matrixCluster(t)
	c.isolate(isolation)
	m := &matrix{
		cluster: c,
		processes: func(instance string) map[int]string {
			found := map[int]string{}
			folder := "/vms/" + strings.ReplaceAll(instance, "/", "-")
			for _, p := range processesUnder(c.state) {
				pid, command, _ := strings.Cut(p, " ")
				n, err := strconv.Atoi(pid)
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(command, folder+"/") || strings.HasSuffix(strings.TrimSpace(command), folder) {
					found[n] = command
				}
			}
			return found
		},
		kinds: map[string]part{
			"agent": {all, `/bin/agent-\S+ run `},
			"shim":  {apps, `/bin/shim-\S+ .*/run/script/`},
			"job":   {apps, `^/bin/sh \S+/script.sh`},
			"init":  {all, `local-init `},
			"nats":  {all[:1], `/nats -c `},
		},
		logs: func() []string {
			files, err := filepath.Glob(filepath.Join(c.state, "scripts", "vms", "app-*", "agent", "log", "script", "main.log*"))
			if err != nil {
				t.Fatal(err)
			}
			return files
		},
	}
	m.run(t, 12)
}

// TestKillMatrixOnMachines is the same on machines with an SSH server, where
// the agent's keeper is what an init is elsewhere.
func TestKillMatrixOnMachines(t *testing.T) {
	t.Parallel()
	runtime.LockOSThread() // the machines end with the thread that started them
	private, public := newKey(t)
	keyFile := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(keyFile, private, 0o600); err != nil {
		t.Fatal(err)
	}
	hosts := map[string]*host{}
	machines := ""
	for i, h := range newNetwork(t).newHosts(len(all), public) {
		hosts[all[i]] = h
		machines += fmt.Sprintf("    %q = { address = %q, host_key = %q }\n", all[i], h.address, h.hostKey)
	}
	c := matrixCluster(t)
	c.edit(fmt.Sprintf("infrastructure \"local\" {\n  cidr = %q\n}", c.cidr), fmt.Sprintf("infrastructure \"hosts\" {\n  private_key = %q\n  instances = {\n%s  }\n}", keyFile, machines))
	m := &matrix{
		cluster:   c,
		processes: func(instance string) map[int]string { return hosts[instance].processes() },
		kinds: map[string]part{
			"agent": {all, ` run --dir `},
			"shim":  {apps, `/bin/shim-\S+ .*/run/script/`},
			"job":   {apps, `^/bin/sh \S+/script.sh`},
			"init":  {all, ` keep --dir `},
			"nats":  {all[:1], `/nats -c `},
		},
		logs: func() []string {
			var files []string
			for _, id := range apps {
				found, err := filepath.Glob("/proc/" + hosts[id].pid() + "/root/var/lib/deploy/log/script/main.log*")
				if err != nil {
					t.Fatal(err)
				}
				files = append(files, found...)
			}
			return files
		},
	}
	m.run(t, 12)
}

func matrixCluster(t *testing.T) *cluster {
	c := shellCluster(t, 3, fmt.Sprintf(counts, 0))
	c.edit("update {", `secret "nats" { type = "password" }
group "nats" {
  job "nats" {
    properties { password = secret.nats.value }
  }
}
update {
  max_in_flight = "67%"`)
	return c
}

func (m *matrix) run(t *testing.T, rounds int) {
	m.mustApply()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	victims := []string{"", "agent", "shim", "job", "init", "nats"}
	for round := 1; round <= rounds; round++ {
		script := "--var=script=" + fmt.Sprintf(counts, round)
		victim := victims[round%len(victims)]
		when := fmt.Sprintf("round %d (%s)", round, victim)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := m.command(ctx, "apply", "--auto-approve", script)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// An apply takes about 2 s; the moment is anywhere in it.
		<-time.After(time.Duration(random.IntN(1500)) * time.Millisecond)
		if victim != "" {
			m.kill(victim, random)
		}
		_ = cmd.Process.Kill() // it may have ended already
		_ = cmd.Wait()
		cancel()

		within(t, 60*time.Second, when+": an apply succeeds", func() bool {
			out, code := m.cluster.run("apply", "--auto-approve", script)
			if code != 0 {
				t.Logf("%s: apply exited with %d:\n%s", when, code, out)
			}
			return code == 0
		})
		within(t, 30*time.Second, when+": everything runs", func() bool {
			for _, in := range m.status().Instances {
				if in.State != "running" || in.Agent != "alive" {
					return false
				}
			}
			return true
		})
		if out, code := m.cluster.run("plan", script); code == 1 {
			t.Fatalf("%s: plan exited with %d:\n%s", when, code, out)
		}
		m.mustRunOnce(t, when)
	}
	mustHaveWholeLogs(t, m.logs())
}

// kill kills one process of a kind, a random one. None may be there at the
// moment, which is as good.
func (m *matrix) kill(kind string, random *rand.Rand) {
	instances := m.kinds[kind].instances
	pids := m.find(kind, instances[random.IntN(len(instances))])
	if len(pids) == 0 {
		return
	}
	if p, err := os.FindProcess(pids[0]); err == nil {
		_ = p.Kill() // it may just have ended
	}
}

// mustRunOnce checks that each VM has one agent and each process runs once.
func (m *matrix) mustRunOnce(t *testing.T, when string) {
	t.Helper()
	var wrong []string
	defer func() {
		if t.Failed() {
			t.Logf("%s: %v", when, wrong)
		}
	}()
	// An agent that was relieved may take a moment to go.
	within(t, 30*time.Second, when+": every agent and process runs once", func() bool {
		wrong = nil
		for _, kind := range []string{"agent", "job", "nats"} {
			for _, instance := range m.kinds[kind].instances {
				if pids := m.find(kind, instance); len(pids) != 1 {
					wrong = append(wrong, fmt.Sprintf("%s of %s: %v", kind, instance, pids))
				}
			}
		}
		return len(wrong) == 0
	})
}

// mustHaveWholeLogs checks that each process's lines are numbered without a gap.
func mustHaveWholeLogs(t *testing.T, files []string) {
	t.Helper()
	if len(files) < 3 {
		t.Fatalf("log files: %v", files)
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
