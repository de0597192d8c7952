package main

import (
	"context"
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

	"github.com/clusterworks/deploy/agent/client"
	"github.com/clusterworks/deploy/agent/host/sockets"
)

// keepRunning runs a program again whenever it ends, as an init does, and ignores
// that its services are to be read again.
func keepRunning(t *testing.T, env []string, program string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	hangups := make(chan os.Signal, 8)
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			cmd := exec.CommandContext(ctx, program, args...)
			cmd.Env = env
			cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
			_ = cmd.Run() // it may be missing for a moment, or be ended
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond): // an init does not spin either
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done; signal.Stop(hangups) })
}

// An agent whose folder, or socket, was removed runs on and can be reached no more:
// install ends it, so that its init starts another.
func TestInstallEndsAnAgentThatLostItsSocket(t *testing.T) {
	t.Parallel()
	for _, lost := range []string{"run/agent.sock", "run", "."} {
		t.Run(lost, func(t *testing.T) {
			t.Parallel()
			dir, services := t.TempDir(), t.TempDir()
			env := append(os.Environ(), "DEPLOY_SERVICES="+services, "DEPLOY_INIT_PID="+strconv.Itoa(os.Getpid()), "DEPLOY_VM=lost-test-"+strings.ReplaceAll(dir[1:], "/", "-"))
			program := filepath.Join(dir, "bin", "agent-0123456789ab")
			copyFile(t, executable(t), program)
			keepRunning(t, env, program, "run", "--dir", dir)
			c := client.Unix(func(ctx context.Context) (net.Conn, error) {
				return sockets.Dial(ctx, filepath.Join(dir, "run", "agent.sock"))
			})
			if _, err := runInstall(t, program, dir, env); err != nil {
				t.Fatal(err)
			}
			before, err := c.Inventory(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			entries, err := os.ReadDir(filepath.Join(dir, lost))
			if err != nil { // it is a file
				if err := os.Remove(filepath.Join(dir, lost)); err != nil {
					t.Fatal(err)
				}
			}
			for _, e := range entries {
				if err := os.RemoveAll(filepath.Join(dir, lost, e.Name())); err != nil {
					t.Fatal(err)
				}
			}
			copyFile(t, executable(t), program+".new") // as the bootstrap puts it there
			if err := os.Rename(program+".new", program); err != nil {
				t.Fatal(err)
			}
			if _, err := runInstall(t, program, dir, env); err != nil {
				t.Fatal(err)
			}
			after, err := c.Inventory(t.Context())
			if err != nil || after.Agent.PID == before.Agent.PID {
				t.Errorf("process %d, then %d, %v", before.Agent.PID, after.Agent.PID, err)
			}
			// Its own programs are watched over, too.
			if err := os.Remove(program); err != nil {
				t.Fatal(err)
			}
			if in, err := c.Inventory(t.Context()); err != nil || len(in.Agent.Damaged) != 1 || !strings.Contains(in.Agent.Damaged[0], program+" is missing") {
				t.Errorf("without its program: %v, %v", in.Agent.Damaged, err)
			}
		})
	}
}

// An agent that cannot start says why to who installs it, and soon.
func TestInstallSaysWhyAnAgentDoesNotStart(t *testing.T) {
	t.Parallel()
	dir, services := t.TempDir(), t.TempDir()
	env := append(os.Environ(), "DEPLOY_SERVICES="+services, "DEPLOY_INIT_PID="+strconv.Itoa(os.Getpid()), "DEPLOY_VM=lost-test-"+filepath.Base(dir))
	program := filepath.Join(dir, "bin", "agent-0123456789ab")
	copyFile(t, executable(t), program)
	if err := os.WriteFile(filepath.Join(dir, "ops"), nil, 0o600); err != nil { // a file where a folder should be
		t.Fatal(err)
	}
	keepRunning(t, env, program, "run", "--dir", dir)
	_, err := runInstall(t, program, dir, env)
	if err == nil || !strings.Contains(err.Error(), "cannot start the agent in") || !strings.Contains(err.Error(), filepath.Join(dir, "ops")) {
		t.Errorf("got %v", err)
	}
}
