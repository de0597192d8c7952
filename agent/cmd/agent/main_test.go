package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent"
	"github.com/clusterworks/deploy/agent/agenttest"
	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/client"
	"github.com/clusterworks/deploy/agent/host/sockets"
)

const patience = 60 * time.Second

// TestMain lets the test binary be the agent: what a VM runs is one program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") {
		main()
		return
	}
	os.Exit(m.Run())
}

func executable(t *testing.T) string {
	t.Helper()
	name, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// initd is the boot service contract of docs/vms.md, as an init of ours
// fulfils it: at SIGHUP it reads the folder and starts what is new there.
func initd(t *testing.T, services string, env []string) {
	t.Helper()
	hangups := make(chan os.Signal, 8)
	signal.Notify(hangups, syscall.SIGHUP)
	ended, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() {
		signal.Stop(hangups)
		close(ended)
		<-done
	})
	go func() {
		defer close(done)
		var running *exec.Cmd
		var last []byte
		for {
			select {
			case <-hangups:
			case <-ended:
				if running != nil {
					_ = running.Process.Signal(syscall.SIGTERM)
					if err := running.Wait(); err != nil {
						t.Errorf("the agent ended badly: %v", err)
					}
				}
				return
			}
			data, err := os.ReadFile(filepath.Join(services, "agent.json"))
			if errors.Is(err, fs.ErrNotExist) {
				if running != nil {
					_ = running.Process.Signal(syscall.SIGTERM)
					_ = running.Wait()
				}
				running, last = nil, nil
				continue
			}
			if err != nil {
				t.Error(err)
				continue
			}
			if bytes.Equal(data, last) {
				continue
			}
			last = data
			var service struct {
				Command []string
				Env     map[string]string
			}
			if err := json.Unmarshal(data, &service); err != nil {
				t.Error(err)
				continue
			}
			if running != nil {
				_ = running.Process.Signal(syscall.SIGTERM)
				_ = running.Wait()
			}
			running = exec.Command(service.Command[0], service.Command[1:]...)
			running.Env = env
			if err := running.Start(); err != nil {
				t.Error(err)
			}
		}
	}()
}

func runInstall(t *testing.T, program, dir string, env []string) (stdout string, err error) {
	t.Helper()
	return runAgentCommand(t, program, env, "install", "--dir", dir)
}

func runAgentCommand(t *testing.T, program string, env []string, args ...string) (stdout string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("%w: %s", err, errs.String())
	}
	return out.String(), err
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	writeProgram(t, to, data)
}

// writeProgram writes a program that is started at once. No other test forks
// meanwhile: its child would hold the file open until it becomes another
// program, and the kernel refuses to start a file that is open for writing.
func writeProgram(t *testing.T, to string, data []byte) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(to, data, 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestInstallStartsAndUpgrades(t *testing.T) {
	t.Parallel()
	dir, services := t.TempDir(), t.TempDir()
	env := append(os.Environ(), "DEPLOY_SERVICES="+services, "DEPLOY_INIT_PID="+strconv.Itoa(os.Getpid()), "DEPLOY_VM=main-test-"+filepath.Base(dir))
	initd(t, services, env)
	socket := filepath.Join(dir, "run", "agent.sock")
	c := client.Unix(func(ctx context.Context) (net.Conn, error) { return sockets.Dial(ctx, socket) })

	program := executable(t)
	digest, err := agent.FileDigest(program)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"agent":%q,"socket":%q}`+"\n", digest, socket)
	var pid int
	for n := range 2 { // the second changes nothing
		out, err := runInstall(t, program, dir, env)
		if err != nil || out != want {
			t.Fatalf("got %q, %v; want %q", out, err, want)
		}
		inventory, err := c.Inventory(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n == 1 && inventory.Agent.PID != pid {
			t.Error("an agent that was there already was started again")
		}
		pid = inventory.Agent.PID
		if inventory.Agent.Digest != digest || inventory.Agent.Dir != dir || inventory.Agent.OS != "linux" {
			t.Errorf("got %+v", inventory.Agent)
		}
	}

	// Another program, by one byte: it takes over, and the folder stays.
	first, err := c.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	upgrade := filepath.Join(t.TempDir(), "agent-new")
	writeProgram(t, upgrade, append(data, 0))
	if out, err := runInstall(t, upgrade, dir, env); err != nil || out == want {
		t.Fatalf("got %q, %v", out, err)
	}
	second, err := c.Inventory(t.Context())
	if err != nil || second.Agent.PID == pid || second.Agent.Digest == digest || !bytes.Equal(first.PublicKey, second.PublicKey) {
		t.Errorf("got %+v, %v", second, err)
	}
}

// Uninstalling leaves nothing: no agent, no process that it started, no folder.
func TestUninstall(t *testing.T) {
	t.Parallel()
	services, dir := t.TempDir(), filepath.Join(t.TempDir(), "agent")
	env := []string{"PATH=" + os.Getenv("PATH"), "DEPLOY_SERVICES=" + services, "DEPLOY_INIT_PID=" + strconv.Itoa(os.Getpid()), "DEPLOY_VM=main-test-uninstall"}
	initd(t, services, env)
	program := filepath.Join(dir, "bin", "agent-test") // as a deployer puts it there
	copyFile(t, executable(t), program)
	if _, err := runInstall(t, program, dir, env); err != nil {
		t.Fatal(err)
	}
	c := client.Unix(func(ctx context.Context) (net.Conn, error) {
		return sockets.Dial(ctx, filepath.Join(dir, "run", "agent.sock"))
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	do := func(s api.Submission) {
		t.Helper()
		s.DeploymentID, s.Instance = "d", "a/0"
		if err := c.Do(ctx, s, nil); err != nil {
			t.Fatal(err)
		}
	}
	// One that ends when it is told, and one that does not.
	var processes []api.Process
	for name, script := range map[string]string{"good": "sleep 1000", "bad": "trap '' TERM; sleep 1000 & wait; sleep 1000"} {
		processes = append(processes, api.Process{
			Name: name, Command: []string{"/bin/sh", "-c", script}, Digest: name, ReloadDigest: name, StopGrace: 200,
		})
	}
	spec := api.Spec{Generation: "g1", Instance: "a/0", Jobs: []api.Job{{Name: "app", Processes: processes}}}
	do(api.Submission{Change: api.Change{OpID: "0"}, Kind: api.KindConfigure, Configure: &api.Configure{Deployment: "d"}})
	do(api.Submission{Change: api.Change{OpID: "1"}, Kind: api.KindPrepare, Prepare: &api.Prepare{Spec: spec}})
	do(api.Submission{Change: api.Change{OpID: "2"}, Kind: api.KindUpdate, Update: &api.Update{Generation: "g1", MinHealthyMS: 10, DeadlineMS: 60_000, Next: "update"}})
	inventory, err := c.Inventory(ctx)
	if err != nil || len(inventory.Processes) != 2 {
		t.Fatalf("got %+v, %v", inventory, err)
	}

	elsewhere := t.TempDir()
	if out, err := runAgentCommand(t, program, env, "uninstall", "--dir", elsewhere); err == nil || !strings.Contains(err.Error(), "not the folder of one") {
		t.Errorf("a folder of something else: %q, %v", out, err)
	}
	if out, err := runAgentCommand(t, program, env, "uninstall", "--dir", dir, "--deployment", "other"); err == nil || !strings.Contains(err.Error(), "exit status 4") {
		t.Errorf("an agent of another deployment: %q, %v", out, err)
	}
	if again, err := c.Inventory(ctx); err != nil || again.Agent.PID != inventory.Agent.PID {
		t.Errorf("it was not left alone: %+v, %v", again.Agent, err)
	}
	for range 2 { // the second finds nothing
		if out, err := runAgentCommand(t, executable(t), env, "uninstall", "--dir", dir, "--deployment", "d"); err != nil {
			t.Fatalf("%q, %v", out, err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
	pids := []int{inventory.Agent.PID}
	for _, p := range inventory.Processes {
		pids = append(pids, p.PID)
	}
	for _, pid := range pids {
		if cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); len(cmdline) > 0 {
			t.Errorf("process %d is left: %q", pid, cmdline)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"dance"}, {"run"}, {"install", "--dir", "x", "y"}} {
		if err := run(t.Context(), args); err == nil {
			t.Errorf("%q must be refused", args)
		}
	}
	if err := run(t.Context(), []string{"version"}); err != nil {
		t.Error(err)
	}
}

// What is shipped: one static program that takes little memory.
func TestShippedProgramIsStaticAndSmall(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "agent")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("/lib64/ld-linux")) {
		t.Error("not static")
	}
	dir := t.TempDir()
	cmd := exec.Command(program, "run", "--dir", dir)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "DEPLOY_VM=main-test-" + filepath.Base(dir)}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the agent ended badly: %v", err)
		}
	}()
	c := client.Unix(func(ctx context.Context) (net.Conn, error) {
		return sockets.Dial(ctx, filepath.Join(dir, "run", "agent.sock"))
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	bus := agenttest.StartBus(t, "d")
	configure := api.Submission{
		Change: api.Change{DeploymentID: "d", Instance: "a/0", OpID: "1"},
		Kind:   api.KindConfigure, Configure: &api.Configure{Deployment: "d"},
	}
	// Do waits until it answers.
	if err := c.Do(ctx, configure, nil); err != nil {
		t.Fatal(err)
	}
	inventory, err := c.Inventory(ctx)
	if err != nil {
		t.Fatal(err)
	}
	configure.OpID, configure.Configure.Bus = "2", bus.Settings("a/0", inventory.PublicKey)
	if err := c.Do(ctx, configure, nil); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); fields[0] == "VmRSS:" {
			kib, err := strconv.Atoi(fields[1])
			t.Logf("%d KiB", kib)
			if err != nil || kib > 15<<10 {
				t.Errorf("the idle agent takes %d KiB", kib)
			}
		}
	}
}
