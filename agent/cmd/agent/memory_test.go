package main

import (
	"archive/zip"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/clusterworks/deploy/agent/agenttest"
	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/client"
	"github.com/clusterworks/deploy/agent/host/sockets"
	"github.com/clusterworks/deploy/agent/internal/shim"
)

// What an idle agent and an idle shim may take of a VM's memory.
const (
	agentLimit = 15 << 10 // KiB of VmRSS
	shimLimit  = 5 << 10
)

// build compiles one of the programs as the Makefile does.
func build(t *testing.T, pkg, to string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", to, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// carry appends a shim to an agent as package packages of the deployer does.
func carry(t *testing.T, agent, shim, to string) {
	t.Helper()
	syscall.ForkLock.RLock() // as writeProgram
	defer syscall.ForkLock.RUnlock()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	from := func(w io.Writer, name string) int64 {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		n, err := io.Copy(w, f)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	z := zip.NewWriter(out)
	z.SetOffset(from(out, agent))
	f, err := z.Create(shimProgram)
	if err != nil {
		t.Fatal(err)
	}
	from(f, shim)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
}

// memory reads the fields of /proc/<pid>/status and smaps_rollup, in KiB.
func memory(t *testing.T, pid int) map[string]int {
	t.Helper()
	all := map[string]int{}
	for _, file := range []string{"status", "smaps_rollup"} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if name, rest, found := strings.Cut(line, ":"); found && strings.HasSuffix(line, "kB\n") {
				all[name], _ = strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(rest, "kB\n")))
			}
		}
	}
	if all["VmRSS"] == 0 {
		t.Fatalf("process %d tells no VmRSS", pid)
	}
	return all
}

// runProgram starts an agent's program on dir, and gives a client and the way to end it.
func runProgram(t *testing.T, program, dir string) (*client.Client, *exec.Cmd, func()) {
	t.Helper()
	cmd := exec.Command(program, "run", "--dir", dir)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "DEPLOY_VM=memory-test-" + filepath.Base(dir)}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := client.Unix(func(ctx context.Context) (net.Conn, error) {
		return sockets.Dial(ctx, filepath.Join(dir, "run", "agent.sock"))
	})
	return c, cmd, func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the agent ended badly: %v", err)
		}
	}
}

// The agent that is shipped carries the shim. It takes up the processes of an
// agent that was its own shim, and with 1 and with 10 processes and a bus
// neither it nor a shim takes more than its share.
func TestMemoryOfAgentAndShims(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	plain, small, shipped := filepath.Join(root, "plain"), filepath.Join(root, "shim"), filepath.Join(root, "agent")
	build(t, ".", plain)
	build(t, "../shim", small)
	carry(t, plain, small, shipped)
	dir := filepath.Join(root, "vm")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	bus := agenttest.StartBus(t, "d")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	ops := 0
	do := func(c *client.Client, s api.Submission) {
		t.Helper()
		ops++
		s.Change = api.Change{DeploymentID: "d", Instance: "a/0", Epoch: 1, OpID: strconv.Itoa(ops)}
		if err := c.Do(ctx, s, nil); err != nil {
			t.Fatal(err)
		}
	}
	apply := func(c *client.Client, processes int) {
		t.Helper()
		spec := api.Spec{Generation: "g" + strconv.Itoa(processes), Deployment: "d", Instance: "a/0", Group: "a", Address: "127.0.0.1"}
		job := api.Job{Name: "idle"}
		for n := range processes {
			job.Processes = append(job.Processes, api.Process{
				Name: "p" + strconv.Itoa(n), Command: []string{"/bin/sleep", "1000"}, Digest: "d", ReloadDigest: "r",
			})
		}
		spec.Jobs = []api.Job{job}
		do(c, api.Submission{Kind: api.KindPrepare, Prepare: &api.Prepare{Spec: spec}})
		do(c, api.Submission{Kind: api.KindUpdate, Update: &api.Update{Generation: spec.Generation, DeadlineMS: 30_000, Next: "update"}})
	}

	c, _, end := runProgram(t, plain, dir)
	do(c, api.Submission{Kind: api.KindConfigure, Configure: &api.Configure{Deployment: "d"}})
	apply(c, 1)
	before, err := c.Inventory(ctx)
	if err != nil {
		t.Fatal(err)
	}
	end()

	c, agent, end := runProgram(t, shipped, dir)
	defer end()
	defer func() { do(c, api.Submission{Kind: api.KindStop, Stop: &api.Stop{Next: "delete", SkipDrain: true}}) }()
	do(c, api.Submission{Kind: api.KindConfigure, Configure: &api.Configure{Deployment: "d", Bus: bus.Settings("a/0", before.PublicKey)}})
	after, err := c.Inventory(ctx)
	if err != nil || len(after.Processes) != 1 || after.Processes[0].PID != before.Processes[0].PID {
		t.Fatalf("the process of the agent before was not taken up: %+v, %v", after.Processes, err)
	}
	if !after.Bus.Connected {
		t.Fatalf("not on the bus: %+v", after.Bus)
	}
	// Started anew, it is the small shim's.
	do(c, api.Submission{Kind: api.KindStop, Stop: &api.Stop{Next: "update", SkipDrain: true}})
	for _, processes := range []int{1, 10} {
		apply(c, processes)
		m := memory(t, agent.Process.Pid)
		t.Logf("agent with %d processes: %d KiB, %d anonymous, %d proportional", processes, m["VmRSS"], m["RssAnon"], m["Pss"])
		if m["VmRSS"] > agentLimit {
			t.Errorf("the agent takes %d KiB with %d processes, the limit is %d", m["VmRSS"], processes, agentLimit)
		}
		for n := range processes {
			started, err := shim.ReadStarted(filepath.Join(dir, "run", "idle", "p"+strconv.Itoa(n)+".shim"))
			if err != nil {
				t.Fatal(err)
			}
			m := memory(t, started.ShimPID)
			if n == 0 {
				t.Logf("a shim of %d: %d KiB, %d anonymous, %d proportional", processes, m["VmRSS"], m["RssAnon"], m["Pss"])
			}
			if m["VmRSS"] > shimLimit {
				t.Errorf("a shim takes %d KiB with %d processes, the limit is %d", m["VmRSS"], processes, shimLimit)
			}
		}
	}
}
