package boot

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const patience = 60 * time.Second

// TestMain lets the test binary be a keeper, and an agent that says which
// program it is and waits.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[2] == "--dir" {
		os.Exit(program(os.Args[1], os.Args[3]))
	}
	os.Exit(m.Run())
}

func program(command, dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	executable, err := os.Executable()
	if err == nil && command == "keep" {
		err = keeperMachine(dir).Keep(ctx, executable, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	} else if err == nil {
		name := filepath.Join(dir, "agent.pid")
		if err = os.WriteFile(name+".new", []byte(strconv.Itoa(os.Getpid())+" "+executable), 0o600); err == nil {
			err = os.Rename(name+".new", name)
		}
		<-ctx.Done()
	}
	if err != nil {
		slog.Error("failed", "err", err)
		return 1
	}
	return 0
}

func keeperMachine(dir string) Machine {
	return Machine{Dir: dir, UID: 1000, SystemdRuns: filepath.Join(dir, "no systemd"), Units: filepath.Join(dir, "no units")}
}

// bench is a machine with two agent programs.
type bench struct {
	Machine
	t             *testing.T
	first, second string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{keeperMachine(dir), t, filepath.Join(dir, "bin", "agent-1"), filepath.Join(dir, "bin", "agent-2")}
	self, err := os.Executable()
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "bin"), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	syscall.ForkLock.RLock() // a child of another test would hold the file open for writing, and it could not start
	for _, name := range []string{b.first, b.second} {
		err = errors.Join(err, os.WriteFile(name, data, 0o755))
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.endKeeper(ctx); err != nil {
			t.Error(err)
		}
		if pid, _ := b.agent(); alive(pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Errorf("the agent is left")
		}
		if t.Failed() {
			log, _ := os.ReadFile(b.logFile())
			t.Logf("%s", log)
		}
	})
	return b
}

func (b *bench) install(program string) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	note, err := b.Install(ctx, program, func() bool { return false })
	if err != nil {
		b.t.Fatal(err)
	}
	return note
}

// agent is the agent that was started last, and its program.
func (b *bench) agent() (pid int, program string) {
	data, _ := os.ReadFile(b.path("agent.pid"))
	number, program, _ := strings.Cut(string(data), " ")
	pid, _ = strconv.Atoi(number)
	return pid, program
}

// await waits until an agent of the program runs with another pid than before.
func (b *bench) await(program string, before int) (pid int) {
	b.t.Helper()
	b.eventually("an agent "+program, func() bool {
		var is string
		pid, is = b.agent()
		return is == program && pid != before && alive(pid)
	})
	return pid
}

func (b *bench) keeperPID() int {
	b.t.Helper()
	pid, err := b.keeper()
	if err != nil {
		b.t.Fatal(err)
	}
	return pid
}

func (b *bench) eventually(what string, holds func() bool) {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Now().After(deadline) {
			b.t.Fatalf("not in time: %s", what)
		}
		<-tick.C
	}
}

// alive tells whether a process runs; one that is only not reaped yet does not.
func alive(pid int) bool {
	if pid == 0 {
		return false
	}
	cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return err == nil && len(cmdline) > 0
}

func TestKeeperStartsTheAgentAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if note := b.install(b.first); !strings.Contains(note, b.program()+" keep --dir "+b.Dir) {
		t.Errorf("note %q", note)
	}
	keeper, agent := b.keeperPID(), b.await(b.first, 0)
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		if err := syscall.Kill(agent, signal); err != nil {
			t.Fatal(err)
		}
		agent = b.await(b.first, agent)
	}
	b.install(b.first) // again: nothing is owed
	// A second keeper, as a line in the machine's init could start it.
	if out, err := exec.Command(b.program(), "keep", "--dir", b.Dir).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("a second keeper: %q, %v", out, err)
	}
	if now, _ := b.agent(); b.keeperPID() != keeper || now != agent {
		t.Errorf("keeper %d and agent %d are now %d and %d", keeper, agent, b.keeperPID(), now)
	}
	if err := b.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b.keeperPID() != 0 || alive(keeper) || alive(agent) {
		t.Error("after Remove something runs")
	}
}

func TestKeeperTakesAnotherProgram(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.install(b.first)
	keeper, agent := b.keeperPID(), b.await(b.first, 0)
	b.install(b.second)
	next := b.await(b.second, agent)
	if alive(agent) {
		t.Error("two agents run")
	}
	b.eventually("the keeper is of the second program too", func() bool {
		program, err := os.Readlink("/proc/" + strconv.Itoa(keeper) + "/exe")
		return err == nil && program == b.second && b.keeperPID() == keeper
	})

	// A program that cannot be run: the agent before it goes on.
	broken := b.path("bin", "agent-3")
	if err := os.WriteFile(broken, []byte("?"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.install(broken)
	next = b.await(b.second, next)
	// And the keeper still takes a good one.
	b.install(b.first)
	b.await(b.first, next)
}

func TestKilledKeeperLeavesTheAgent(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.install(b.first)
	keeper, agent := b.keeperPID(), b.await(b.first, 0)
	if err := syscall.Kill(keeper, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.eventually("its lock is free", func() bool { return b.keeperPID() == 0 })
	if !alive(agent) {
		t.Error("the agent went with it")
	}
	b.install(b.first)
	b.await(b.first, agent) // a standby of the other, by the agent's own lock
	if err := syscall.Kill(agent, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}
