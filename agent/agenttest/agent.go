// Package agenttest starts a real agent, and a real bus, inside a test. The
// agent is the test binary itself, run again: a package that uses it has
//
//	func TestMain(m *testing.M) { agenttest.Main(m) }
package agenttest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent"
	"github.com/clusterworks/deploy/agent/client"
	"github.com/clusterworks/deploy/agent/host/sockets"
	"github.com/clusterworks/deploy/agent/internal/shim"
)

// startTimeout bounds the start and the end of an agent, on a busy machine.
const startTimeout = 30 * time.Second

// raceOptions keeps a program that was built with the race detector from
// sleeping a second before it exits; there are many exits.
const raceOptions = "GORACE=atexit_sleep_ms=0"

const (
	roleAgent = "agenttest-agent"
	roleShim  = "agenttest-shim"
)

// Main runs the tests, or, in a test binary that was run again, what it was run
// again for.
func Main(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == roleAgent {
		if err := runAgent(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "agent:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) > 2 && os.Args[1] == roleShim {
		os.Exit(shim.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func runAgent(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	a, err := agent.Open(ctx, agent.Config{
		Dir: dir, Root: Root(dir), Version: "0.0.0-test", Digest: "test", Shim: []string{executable, roleShim},
		Env: append(agent.BaseEnv(os.Environ()), raceOptions), Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return a.Close()
}

// Root returns the folder that has the etc of the agent's machine.
func Root(dir string) string { return filepath.Join(dir, "machine") }

// Agent is an agent process of a test.
type Agent struct {
	*client.Client // over the unix socket
	Dir            string
	VM             string // DEPLOY_VM of everything that the agent starts

	t       testing.TB
	mu      sync.Mutex
	process *exec.Cmd
	ended   chan error
	log     *testLog
	waits   sync.WaitGroup // for every agent process
}

// Start starts an agent in a folder of the test's. It ends with the test, with
// all that it started.
func Start(t testing.TB) *Agent {
	t.Helper()
	a := &Agent{Dir: t.TempDir(), t: t, log: &testLog{t: t}}
	a.VM = "agenttest-" + strconv.Itoa(os.Getpid()) + "-" + strings.ReplaceAll(a.Dir, "/", "_")
	a.Client = client.Unix(a.Dial)
	t.Cleanup(a.end)
	a.Run()
	return a
}

// Dial connects to the agent's socket.
func (a *Agent) Dial(ctx context.Context) (net.Conn, error) {
	return sockets.Dial(ctx, a.Socket())
}

// Socket is the path of the agent's socket.
func (a *Agent) Socket() string { return filepath.Join(a.Dir, "run", "agent.sock") }

// Run starts the agent again after Kill or Stop, and waits until it answers.
func (a *Agent) Run() {
	a.t.Helper()
	cmd, ended := a.launch()
	a.mu.Lock()
	a.process, a.ended = cmd, ended
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		inventory, err := a.Inventory(ctx)
		if err == nil && inventory.Agent.PID == cmd.Process.Pid {
			return
		}
		select {
		case err := <-ended:
			ended <- err
			a.t.Fatalf("the agent ended at its start: %v", err)
		case <-ctx.Done():
			a.t.Fatalf("the agent does not answer: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Standby starts a second agent, which waits until the first has ended, and
// gives its process id.
func (a *Agent) Standby() int {
	a.t.Helper()
	cmd, _ := a.launch()
	return cmd.Process.Pid
}

// launch starts an agent's process.
func (a *Agent) launch() (*exec.Cmd, chan error) {
	a.t.Helper()
	executable, err := os.Executable()
	if err != nil {
		a.t.Fatal(err)
	}
	cmd := exec.Command(executable, roleAgent, a.Dir)
	cmd.Env = append(os.Environ(), "DEPLOY_VM="+a.VM, raceOptions)
	// A file: a pipe of our own would be kept open by what the agent starts.
	log, err := os.CreateTemp(a.t.TempDir(), "agent-log")
	if err != nil {
		a.t.Fatal(err)
	}
	cmd.Stderr, cmd.Stdout = log, log
	if err := cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	ended := make(chan error, 1)
	a.waits.Go(func() {
		err := cmd.Wait()
		a.log.print(log)
		ended <- err
	})
	return cmd, ended
}

// Kill ends the agent as a crash does (SIGKILL); its processes stay.
func (a *Agent) Kill() { a.signal(syscall.SIGKILL) }

// Stop ends the agent in order; its processes stay.
func (a *Agent) Stop() {
	a.t.Helper()
	if err := a.signal(syscall.SIGTERM); err != nil {
		a.t.Errorf("the agent ended badly: %v", err)
	}
}

// signal ends the agent and waits for it. Ended already is no error.
func (a *Agent) signal(s syscall.Signal) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.process == nil {
		return nil
	}
	_ = a.process.Process.Signal(s) // it may have ended
	var err error
	select {
	case err = <-a.ended:
	case <-time.After(startTimeout):
		_ = a.process.Process.Kill()
		err = fmt.Errorf("it did not end within %s of signal %s: %w", startTimeout, s, <-a.ended)
	}
	a.process = nil
	return err
}

// end removes everything that the test's agent has started.
func (a *Agent) end() {
	a.Stop()
	defer a.waits.Wait()
	deadline := time.Now().Add(startTimeout)
	for {
		left := a.Processes()
		if len(left) == 0 {
			return
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
		if time.Now().After(deadline) {
			a.t.Errorf("processes %v of the test's agent do not end", left)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Processes lists whatever on this machine was started by the agent, shims
// included, without the agent itself.
func (a *Agent) Processes() []int {
	a.t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		a.t.Fatal(err)
	}
	var pids []int
	for _, name := range names {
		environ, err := os.ReadFile(name)
		if err != nil {
			continue // ended, or somebody else's
		}
		pid, _ := strconv.Atoi(strings.Split(name, "/")[2])
		own := a.process != nil && a.process.Process.Pid == pid
		if !own && strings.Contains("\x00"+string(environ), "\x00DEPLOY_VM="+a.VM+"\x00") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// testLog hands an agent's log to the test.
type testLog struct{ t testing.TB }

func (l *testLog) print(log *os.File) {
	defer log.Close()
	if _, err := log.Seek(0, io.SeekStart); err != nil {
		return
	}
	if text, err := io.ReadAll(log); err == nil && len(text) > 0 {
		l.t.Logf("agent's log:\n%s", text)
	}
}
