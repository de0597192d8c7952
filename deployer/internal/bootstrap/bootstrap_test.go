package bootstrap

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/client"
	"github.com/clusterworks/deploy/deployer/internal/packages"
	"github.com/clusterworks/deploy/deployer/internal/ssh"
	"github.com/clusterworks/deploy/deployer/internal/ssh/sshtest"
)

// agentProgram is the real agent, built once.
var agentProgram string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "bootstrap")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		agentProgram = filepath.Join(dir, "agent")
		// As make build does it, so that its cache serves.
		build := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", agentProgram, "github.com/clusterworks/deploy/agent/cmd/agent")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "cannot build the agent: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

func contextTest(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func blob(t *testing.T, file string) packages.Blob {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(content)
	return packages.Blob{File: file, Digest: hex.EncodeToString(digest[:]), Size: int64(len(content))}
}

// script is an "agent" that does as a broken one would.
func script(t *testing.T, body string) packages.Blob {
	t.Helper()
	file := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return blob(t, file)
}

// vm is an SSH host with a boot service.
type vm struct {
	conn    *ssh.Client
	machine Machine
}

func newVM(t *testing.T) vm {
	t.Helper()
	services := t.TempDir()
	runServices(t, services)
	h := sshtest.Start(t, "DEPLOY_SERVICES="+services, "DEPLOY_INIT_PID="+strconv.Itoa(os.Getpid()), "DEPLOY_VM=test")
	conn, err := ssh.Dial(contextTest(t), ssh.Target{
		Host: h.Address.IP.String(), Port: h.Address.Port, User: sshtest.User, HostKey: h.HostKey, PrivateKey: h.PrivateKey,
	}, ssh.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return vm{conn, Machine{AgentDir: filepath.Join(t.TempDir(), "it's the agent's"), OS: runtime.GOOS, Arch: runtime.GOARCH}}
}

// runServices is the init of docs/vms.md: at SIGHUP it runs
// what the folder says, in place of what it said before.
func runServices(t *testing.T, folder string) {
	t.Helper()
	hangup, end, ended := make(chan os.Signal, 1), make(chan struct{}), make(chan struct{})
	signal.Notify(hangup, syscall.SIGHUP)
	go func() {
		defer close(ended)
		var have string
		var cmd *exec.Cmd
		stop := func() {
			if cmd != nil {
				cmd.Process.Signal(syscall.SIGTERM)
				cmd.Wait()
			}
		}
		defer stop()
		for {
			select {
			case <-end:
				return
			case <-hangup:
			}
			wanted, err := os.ReadFile(filepath.Join(folder, "agent.json"))
			if err != nil || string(wanted) == have {
				continue
			}
			var service struct {
				Command []string
				Env     map[string]string
			}
			if err := json.Unmarshal(wanted, &service); err != nil {
				t.Error(err)
				return
			}
			stop()
			have, cmd = string(wanted), exec.Command(service.Command[0], service.Command[1:]...)
			cmd.Env = append(os.Environ(), "DEPLOY_VM=test")
			for k, v := range service.Env {
				cmd.Env = append(cmd.Env, k+"="+v)
			}
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				t.Errorf("cannot start the service: %v", err)
				cmd = nil
			}
		}
	}()
	t.Cleanup(func() {
		signal.Stop(hangup)
		close(end)
		<-ended
	})
}

// agentOn runs Agent and records its steps.
func agentOn(t *testing.T, v vm, agent packages.Blob) (*client.Client, api.Inventory, []Step, error) {
	t.Helper()
	var taken []Step
	c, inventory, err := Agent(contextTest(t), v.conn, v.machine, agent, func(s Step) { taken = append(taken, s) }, func(note string) { t.Errorf("an init of ours asks nothing of the operator: %s", note) })
	return c, inventory, taken, err
}

func TestAgentIsPutOnAVMOnce(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	first := blob(t, agentProgram)
	c, inventory, steps, err := agentOn(t, v, first)
	if err != nil {
		t.Fatal(err)
	}
	if want := []Step{StepInspect, StepUpload, StepInstall, StepAnswer}; !slices.Equal(steps, want) {
		t.Errorf("steps = %v, want %v", steps, want)
	}
	if inventory.Agent.Digest != first.Digest || inventory.Agent.Dir != v.machine.AgentDir {
		t.Errorf("agent = %+v", inventory.Agent)
	}
	if again, err := c.Inventory(contextTest(t)); err != nil || again.Agent.PID != inventory.Agent.PID {
		t.Errorf("the client's next answer: %+v, %v", again.Agent, err)
	}

	t.Run("again", func(t *testing.T) {
		_, again, steps, err := agentOn(t, v, first)
		if err != nil {
			t.Fatal(err)
		}
		if want := []Step{StepInspect, StepInstall, StepAnswer}; !slices.Equal(steps, want) {
			t.Errorf("steps = %v, want %v", steps, want)
		}
		if again.Agent.PID != inventory.Agent.PID {
			t.Errorf("the agent was started anew: pid %d, was %d", again.Agent.PID, inventory.Agent.PID)
		}
	})

	t.Run("another program", func(t *testing.T) {
		content, err := os.ReadFile(agentProgram)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "agent")
		if err := os.WriteFile(file, append(content, 0), 0o755); err != nil { // it runs all the same
			t.Fatal(err)
		}
		second := blob(t, file)
		_, inventory, steps, err := agentOn(t, v, second)
		if err != nil {
			t.Fatal(err)
		}
		if inventory.Agent.Digest != second.Digest || !slices.Contains(steps, StepUpload) {
			t.Errorf("agent = %+v after %v", inventory.Agent, steps)
		}
	})

	t.Run("its program on the VM was damaged", func(t *testing.T) {
		program := filepath.Join(v.machine.AgentDir, "bin", "agent-"+first.Digest[:12])
		if err := os.Remove(program); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(program, []byte("?"), 0o755); err != nil {
			t.Fatal(err)
		}
		_, inventory, steps, err := agentOn(t, v, first)
		if err != nil {
			t.Fatal(err)
		}
		if inventory.Agent.Digest != first.Digest || !slices.Contains(steps, StepUpload) {
			t.Errorf("agent = %+v after %v", inventory.Agent, steps)
		}
	})
}

func TestAgentErrors(t *testing.T) {
	t.Parallel()
	good := script(t, `echo "{\"agent\": \"$(sha256sum <"$0" | head -c 64)\"}"`)
	changed := script(t, "")
	if err := os.WriteFile(changed.File, []byte("something else"), 0o755); err != nil {
		t.Fatal(err)
	}
	missing := good
	missing.File = filepath.Join(t.TempDir(), "missing")
	huge := good
	huge.Size = 1 << 60
	occupied := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(occupied, nil, 0o600); err != nil {
		t.Fatal(err)
	}

	tests := []struct {
		name   string
		agent  packages.Blob
		change func(*Machine)
		want   []string
		last   Step
	}{
		{"other architecture", good, func(m *Machine) { m.Arch = "pdp11" }, []string{"linux/pdp11", "uname says", "outputs os and arch"}, StepInspect},
		{"folder cannot be made", good, func(m *Machine) { m.AgentDir = occupied + "/agent" }, []string{occupied, "cannot be written", "agent_dir"}, StepInspect},
		{"disk full", huge, nil, []string{"MiB left", strconv.Itoa((1<<60 + minFree) >> 20)}, StepInspect},
		{"build gone", missing, nil, []string{missing.File, "make build"}, StepUpload},
		{"build changed", changed, nil, []string{changed.File, "make build"}, StepUpload},
		{"install fails", script(t, "echo no boot service >&2; exit 1"), nil, []string{"status 1", "no boot service"}, StepInstall},
		{"install answers nonsense", script(t, "echo hello"), nil, []string{"hello"}, StepInstall},
		{"install put another one there", script(t, `echo '{"agent": "0123"}'`), nil, []string{"0123"}, StepInstall},
		{"nobody answers", good, nil, []string{"does not answer through SSH", "run/agent.sock"}, StepAnswer},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v := newVM(t)
			if test.change != nil {
				test.change(&v.machine)
			}
			_, _, steps, err := agentOn(t, v, test.agent)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range append(test.want, v.conn.String()) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not mention %q", err, want)
				}
			}
			if steps[len(steps)-1] != test.last {
				t.Errorf("steps = %v, want the last to be %s", steps, test.last)
			}
			program := filepath.Join(v.machine.AgentDir, "bin", "agent-"+test.agent.Digest[:12])
			if _, err := os.Stat(program); (err == nil) != (test.last == StepInstall || test.last == StepAnswer) {
				t.Errorf("after %s the program: %v", test.last, err)
			}
		})
	}
}

func TestCancelledBootstrapEnds(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	ctx, cancel := context.WithCancelCause(contextTest(t))
	why := errors.New("the user left")
	_, _, err := Agent(ctx, v.conn, v.machine, script(t, "sleep 300"), func(s Step) {
		if s == StepInstall {
			cancel(why)
		}
	}, func(string) {})
	if !errors.Is(err, why) {
		t.Errorf("error = %v", err)
	}
}

func TestUploadPackage(t *testing.T) {
	t.Parallel()
	v := newVM(t)
	file := filepath.Join(t.TempDir(), "router.tar.gz")
	if err := os.WriteFile(file, []byte("an archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	digest := blob(t, file).Digest
	there := filepath.Join(v.machine.AgentDir, "incoming", digest+".tar.gz")

	upload := func() os.FileInfo {
		t.Helper()
		if err := UploadPackage(contextTest(t), v.conn, v.machine.AgentDir, digest, file); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(there); err != nil || string(got) != "an archive" {
			t.Errorf("on the VM: %q, %v", got, err)
		}
		info, err := os.Stat(there)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := upload()
	if !os.SameFile(first, upload()) {
		t.Error("what was there was sent again")
	}
	if err := os.Truncate(there, 3); err != nil {
		t.Fatal(err)
	}
	if os.SameFile(first, upload()) {
		t.Error("a file of another size was left there")
	}

	wrong := strings.Repeat("0", 64)
	if err := UploadPackage(contextTest(t), v.conn, v.machine.AgentDir, wrong, file); err == nil || !strings.Contains(err.Error(), wrong) {
		t.Errorf("wrong digest: %v", err)
	}
	entries, err := os.ReadDir(filepath.Dir(there))
	if err != nil || len(entries) != 1 {
		t.Errorf("incoming holds %v, %v", entries, err)
	}
}

func TestParseFacts(t *testing.T) {
	t.Parallel()
	out := `Welcome to this machine!
deploy:uname Linux aarch64
deploy:disk /dev/my disk 1 20 5%  10255636 3072 9000 1% /
deploy:sha256 abc  -
`
	want := facts{uname: "Linux aarch64", free: 9000 << 10, freeKnown: true, sha256: "abc"}
	if got := parseFacts(out); got != want {
		t.Errorf("facts = %+v, want %+v", got, want)
	}
	for uname, want := range map[string]string{"Linux x86_64": "linux/amd64", "Linux armv7l": "linux/arm", "Darwin arm64": "darwin/arm64", "Plan9 mips": "plan9/mips", "": "/"} {
		if os, arch := goPlatform(uname); os+"/"+arch != want {
			t.Errorf("%q is %s/%s, want %s", uname, os, arch, want)
		}
	}
}

func FuzzParseFacts(f *testing.F) {
	f.Add("deploy:uname Linux x86_64\ndeploy:disk overlay 1 2 -3 4% /\ndeploy:sha256")
	f.Add("deploy:disk x 1 2 99999999999999999999 - /\n")
	f.Add("\x00deploy:disk  1 2 3 4% /")
	f.Fuzz(func(t *testing.T, out string) {
		if got := parseFacts(out); got.free < 0 || (got.free > 0 && !got.freeKnown) {
			t.Errorf("facts = %+v", got)
		}
	})
}

// A machine that boots slowly does all else slowly.
func TestSlowMachinesGetMoreTime(t *testing.T) {
	for _, test := range []struct{ boot, want time.Duration }{
		{0, 4 * time.Minute}, {UsualBoot / 2, 4 * time.Minute}, {UsualBoot, 4 * time.Minute}, {3 * UsualBoot, 12 * time.Minute},
	} {
		if got := (Machine{Boot: test.boot}).limit(step{limit: 4 * time.Minute}); got != test.want {
			t.Errorf("boot within %s: a step of 4m gets %s, not %s", test.boot, got, test.want)
		}
	}
}
