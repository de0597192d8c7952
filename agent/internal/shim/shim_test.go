package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/host/parent"
	"github.com/clusterworks/deploy/agent/host/proc"
)

// TestMain lets the test binary be a shim.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "shim" {
		os.Exit(Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// patience is the time that a test waits for what must come; a busy machine is slow.
const patience = 60 * time.Second

// shimEnv lets a shim that was built with the race detector end without the
// second that it sleeps else.
var shimEnv = []string{"PATH=/usr/bin:/bin", "GORACE=atexit_sleep_ms=0"}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx := testContext(t)
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("in vain awaited: %s", what)
		case <-ticker.C:
		}
	}
}

// shell is a spec that runs a script.
func shell(t *testing.T, script string) (dir string, spec Spec) {
	root := t.TempDir()
	spec = Spec{
		ID: "id-" + filepath.Base(root) + "-" + strconv.Itoa(os.Getpid()) + "-" + t.Name(), Command: []string{"/bin/sh", "-c", script}, Dir: root,
		KillMode: api.KillGroup, Log: filepath.Join(root, "log", "p.log"), LogBytes: 1 << 20, LogKeep: 3,
	}
	spec.Env = []string{"PATH=/usr/bin:/bin", ProcessVariable + "=" + spec.ID}
	return filepath.Join(root, "p.shim"), spec
}

func launch(t *testing.T, dir string, spec Spec) *Conn {
	t.Helper()
	c, err := Launch(testContext(t), []string{os.Args[0], "shim"}, shimEnv, dir, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Whatever the test has made of it, nothing stays.
		_ = parent.Kill(context.Background(), c.Started.ShimPID, c.Started.ShimTicks)
		_ = Sweep(context.Background(), spec.ID, &c.Started)
		c.Close()
		c.Reap()
	})
	return c
}

// ended waits for the shim's end and reads its record.
func ended(t *testing.T, c *Conn, dir string) Ended {
	t.Helper()
	done := make(chan struct{})
	go func() { c.Wait(); close(done) }()
	select {
	case <-done:
	case <-testContext(t).Done():
		t.Fatal("the shim does not end")
	}
	e, err := ReadEnded(dir)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// logged reads the log with its rotated files, the oldest first.
func logged(t *testing.T, spec Spec) string {
	t.Helper()
	var all bytes.Buffer
	for n := spec.LogKeep; n >= 0; n-- {
		name := spec.Log
		if n > 0 {
			name += "." + strconv.Itoa(n)
		}
		data, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		all.Write(data)
	}
	return all.String()
}

// awaitLog waits until the log holds a word and returns the log.
func awaitLog(t *testing.T, spec Spec, word string) string {
	t.Helper()
	eventually(t, word+" in the log", func() bool { return strings.Contains(logged(t, spec), word) })
	return logged(t, spec)
}

// alive tells whether a process is there and has not ended.
func alive(pid int) bool {
	_, err := proc.Stat(pid)
	return err == nil
}

// number finds "name=123" in the log.
func number(t *testing.T, log, name string) int {
	t.Helper()
	for line := range strings.Lines(log) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), name+"="); found {
			n, err := strconv.Atoi(value)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no %s in the log %q", name, log)
	return 0
}

func TestExitIsRecorded(t *testing.T) {
	tests := []struct {
		script string
		want   api.Exit
	}{
		{"exit 0", api.Exit{Status: 0}},
		{"exit 7", api.Exit{Status: 7}},
		{"kill -KILL $$", api.Exit{Status: -1, Signal: "KILL"}},
		{"kill -TERM $$", api.Exit{Status: -1, Signal: "TERM"}},
	}
	for _, tt := range tests {
		t.Run(tt.script, func(t *testing.T) {
			dir, spec := shell(t, "echo said; "+tt.script)
			c := launch(t, dir, spec)
			e := ended(t, c, dir)
			if e.ID != spec.ID || e.Status != tt.want.Status || e.Signal != tt.want.Signal || e.Expected {
				t.Errorf("recorded %+v, want %+v", e, tt.want)
			}
			if e.At.Before(c.Started.At) || time.Since(e.At) > time.Hour {
				t.Errorf("ended at %s, started at %s", e.At, c.Started.At)
			}
			if log := logged(t, spec); log != "said\n" {
				t.Errorf("logged %q", log)
			}
			if _, err := Connect(testContext(t), dir); !errors.Is(err, parent.ErrGone) {
				t.Errorf("a connection to a shim that has ended: %v", err)
			}
		})
	}
}

func TestStartedIsTheProcess(t *testing.T) {
	dir, spec := shell(t, "echo pid=$$; exec sleep 1000")
	c := launch(t, dir, spec)
	if pid := number(t, awaitLog(t, spec, "pid="), "pid"); pid != c.Started.PID {
		t.Errorf("pid %d, recorded %d", pid, c.Started.PID)
	}
	again, err := Connect(testContext(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	recorded, err := ReadStarted(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again.Started != c.Started || recorded.PID != c.Started.PID || recorded.Ticks == 0 || recorded.BootID == "" {
		t.Errorf("records differ: %+v, %+v, %+v", c.Started, again.Started, recorded)
	}
	if s, err := proc.Stat(c.Started.PID); err != nil || s.PGRP != c.Started.PID || s.Session != c.Started.ShimPID {
		t.Errorf("the process has group %d, session %d, want its own and the shim's: %v", s.PGRP, s.Session, err)
	}
}

func TestStartFailureSaysWhy(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Spec)
		want   string
	}{
		{"no program", func(s *Spec) { s.Command = []string{"/nowhere/program"} }, "/nowhere/program"},
		{"no command", func(s *Spec) { s.Command = nil }, "command is empty"},
		{"no folder", func(s *Spec) { s.Dir = "/nowhere" }, "working folder"},
		{"not executable", func(s *Spec) { s.Command = []string{"/etc/passwd"} }, "permission denied"},
		{"limit", func(s *Spec) { s.Limits.OpenFiles = 1 << 62 }, "limit on files"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, spec := shell(t, "exit 0")
			tt.change(&spec)
			_, err := Launch(testContext(t), []string{os.Args[0], "shim"}, shimEnv, dir, spec)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if log := logged(t, spec); !strings.Contains(log, tt.want) {
				t.Errorf("the log does not tell: %q", log)
			}
		})
	}
	t.Run("no shim", func(t *testing.T) {
		dir, spec := shell(t, "exit 0")
		_, err := Launch(testContext(t), []string{"/bin/sh", "-c", "echo no shim here >&2; exit 3"}, nil, dir, spec)
		if err == nil || !strings.Contains(err.Error(), "no shim here") {
			t.Errorf("got %v", err)
		}
	})
}

func TestStopEndsAll(t *testing.T) {
	// A grandchild in the group, one in a session of its own, none of which
	// heeds TERM.
	const stubborn = `trap "" TERM; sleep 1000 & echo grandchild=$!; setsid sh -c 'trap "" TERM; echo daemon=$$; sleep 1000; :' & wait; sleep 1000; :`
	tests := []struct {
		name, script string
		grace        time.Duration
		want         api.Exit
	}{
		{"heeds", `trap "echo bye; exit 3" TERM; sleep 1000 & echo grandchild=$!; setsid sh -c 'echo daemon=$$; exec sleep 1000' & wait`, 5 * time.Second, api.Exit{Status: 3}},
		{"stubborn", stubborn, 50 * time.Millisecond, api.Exit{Status: -1, Signal: "KILL"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, spec := shell(t, tt.script)
			c := launch(t, dir, spec)
			awaitLog(t, spec, "grandchild=")
			log := awaitLog(t, spec, "daemon=")
			began := time.Now()
			if err := Stop(testContext(t), dir, "TERM", tt.grace); err != nil {
				t.Fatal(err)
			}
			e := ended(t, c, dir)
			if !e.Expected || e.Status != tt.want.Status || e.Signal != tt.want.Signal {
				t.Errorf("recorded %+v, want %+v, expected", e, tt.want)
			}
			if took := time.Since(began); took < tt.grace {
				t.Errorf("took %s although something had the grace of %s", took, tt.grace)
			}
			for _, name := range []string{"grandchild", "daemon"} {
				if pid := number(t, log, name); alive(pid) {
					t.Errorf("%s %d is left", name, pid)
				}
			}
		})
	}
}

func TestCrashLeavesNothing(t *testing.T) {
	dir, spec := shell(t, `sleep 1000 & echo grandchild=$!; setsid sh -c 'echo daemon=$$; exec sleep 1000' & read x < $0/go`)
	spec.Command = append(spec.Command, spec.Dir)
	if err := syscall.Mkfifo(filepath.Join(spec.Dir, "go"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := launch(t, dir, spec)
	awaitLog(t, spec, "grandchild=")
	log := awaitLog(t, spec, "daemon=")
	if err := syscall.Kill(c.Started.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := ended(t, c, dir); e.Signal != "KILL" || e.Expected {
		t.Errorf("recorded %+v", e)
	}
	for _, name := range []string{"grandchild", "daemon"} {
		if pid := number(t, log, name); alive(pid) {
			t.Errorf("%s %d is left", name, pid)
		}
	}
}

func TestKillModeProcessLeavesOthers(t *testing.T) {
	dir, spec := shell(t, `trap "" TERM; setsid sleep 1000 & other=$!; trap "exit 0" TERM; echo other=$other; wait`)
	spec.KillMode = api.KillProcess
	c := launch(t, dir, spec)
	other := number(t, awaitLog(t, spec, "other="), "other")
	if err := Stop(testContext(t), dir, "TERM", patience); err != nil {
		t.Fatal(err)
	}
	if e := ended(t, c, dir); e.Status != 0 || !e.Expected {
		t.Errorf("recorded %+v", e)
	}
	if !alive(other) {
		t.Error("what the process left running was ended")
	}
	if err := Sweep(testContext(t), spec.ID, nil); err != nil {
		t.Fatal(err)
	}
	if alive(other) {
		t.Error("a sweep does not find it")
	}
}

func TestKilledShimTakesItsProcessAlong(t *testing.T) {
	dir, spec := shell(t, `sleep 1000 & echo grandchild=$!; env -i setsid sh -c 'echo hidden=$$; exec sleep 1000' & exec env -i sleep 1000`)
	c := launch(t, dir, spec)
	awaitLog(t, spec, "hidden=")
	grandchild := number(t, awaitLog(t, spec, "grandchild="), "grandchild")
	if err := syscall.Kill(c.Started.ShimPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.Wait()
	c.Reap()
	eventually(t, "the end of the process", func() bool { return !alive(c.Started.PID) })
	if _, err := ReadEnded(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a record of the end: %v", err)
	}
	if err := Sweep(testContext(t), spec.ID, &c.Started); err != nil {
		t.Fatal(err)
	}
	if alive(grandchild) {
		t.Error("the grandchild is left")
	}
	// Own session and no environment: nothing can find that one.
	_ = syscall.Kill(number(t, logged(t, spec), "hidden"), syscall.SIGKILL)
}

func TestTermedShimStopsItsProcess(t *testing.T) {
	dir, spec := shell(t, `trap "echo bye; exit 4" TERM; echo up; while :; do sleep 0.01; done`)
	c := launch(t, dir, spec)
	awaitLog(t, spec, "up")
	if err := syscall.Kill(c.Started.ShimPID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if e := ended(t, c, dir); e.Status != 4 || e.Expected {
		t.Errorf("recorded %+v, want status 4, not asked for by the agent", e)
	}
}

func TestSignalReachesTheProcess(t *testing.T) {
	dir, spec := shell(t, `trap "echo hup" HUP; echo up; while :; do sleep 0.01; done`)
	launch(t, dir, spec)
	awaitLog(t, spec, "up")
	if err := Signal(testContext(t), dir, "HUP"); err != nil {
		t.Fatal(err)
	}
	awaitLog(t, spec, "hup")
	if err := Signal(testContext(t), dir, "NONSENSE"); err == nil || !strings.Contains(err.Error(), "NONSENSE") {
		t.Errorf("an unknown signal: %v", err)
	}
}

func TestLimitsAndEnvironment(t *testing.T) {
	dir, spec := shell(t, `echo files=$(ulimit -n); echo memory=$(ulimit -v); echo "<$0 $1>"; pwd; env; echo end`)
	spec.Command = append(spec.Command, "zero", "one")
	spec.Limits = api.Limits{OpenFiles: 77, MemoryBytes: 8 << 30}
	c := launch(t, dir, spec)
	if e := ended(t, c, dir); e.Status != 0 {
		t.Errorf("recorded %+v: %s", e, logged(t, spec))
	}
	log := logged(t, spec)
	if number(t, log, "files") != 77 || number(t, log, "memory") != 8<<20 {
		t.Errorf("limits do not hold: %s", log)
	}
	for _, want := range []string{"<zero one>\n", spec.Dir + "\n", ProcessVariable + "=" + spec.ID + "\n"} {
		if !strings.Contains(log, want) {
			t.Errorf("%q is not in %s", want, log)
		}
	}
	for _, not := range []string{"GOMAXPROCS", "GOGC"} {
		if strings.Contains(log, not) {
			t.Errorf("the shim's own %s reaches the process", not)
		}
	}
}

func TestUserIsSwitched(t *testing.T) {
	if os.Getuid() != 0 {
		// Without privileges there is only one user to run as.
		dir, spec := shell(t, "id -u")
		spec.User = &User{UID: uint32(os.Getuid()) + 1, GID: 1}
		if _, err := Launch(testContext(t), []string{os.Args[0], "shim"}, shimEnv, dir, spec); err == nil {
			t.Error("an ordinary user may become another")
		}
		return
	}
	dir, spec := shell(t, `echo uid=$(id -u); echo gid=$(id -g); echo group=$(id -G | cut -d" " -f2); exec sleep 1000`)
	spec.Dir = "/"
	spec.User = &User{UID: 65534, GID: 65533, Groups: []uint32{65533, 65532}}
	c := launch(t, dir, spec)
	log := awaitLog(t, spec, "group=")
	if number(t, log, "uid") != 65534 || number(t, log, "gid") != 65533 || number(t, log, "group") != 65532 {
		t.Errorf("runs as %s", log)
	}
	// PDEATHSIG must survive the change of user.
	if err := syscall.Kill(c.Started.ShimPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the process", func() bool { return !alive(c.Started.PID) })
}

func TestLogLosesNoLine(t *testing.T) {
	const lines = 20000
	dir, spec := shell(t, fmt.Sprintf(`i=0; while [ $i -lt %d ]; do echo "line $i"; i=$((i+1)); done; printf unfinished`, lines))
	spec.LogBytes, spec.LogKeep = 50_000, 20
	c := launch(t, dir, spec)
	ended(t, c, dir)
	var want strings.Builder
	for i := range lines {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	want.WriteString("unfinished")
	if got := logged(t, spec); got != want.String() {
		t.Errorf("the log has %d bytes, %d were written", len(got), want.Len())
	}
	if _, err := os.Stat(spec.Log + ".3"); err != nil {
		t.Errorf("the log was not rotated: %v", err)
	}
	rotated, err := os.ReadFile(spec.Log + ".1")
	if err != nil || !bytes.HasSuffix(rotated, []byte("\n")) {
		t.Errorf("a line was cut by rotation: %v", err)
	}
}

func TestSocketInLongPath(t *testing.T) {
	dir, spec := shell(t, "exec sleep 1000")
	dir = filepath.Join(dir, strings.Repeat("long/", 40), "p.shim")
	c := launch(t, dir, spec)
	if err := Stop(testContext(t), dir, "TERM", patience); err != nil {
		t.Fatal(err)
	}
	if e := ended(t, c, dir); e.Signal != "TERM" || !e.Expected {
		t.Errorf("recorded %+v", e)
	}
}

// A process that forks faster than it can be killed is stopped first.
func TestForkBombEnds(t *testing.T) {
	dir, spec := shell(t, `exec perl -MPOSIX -e '$SIG{TERM} = "IGNORE"; $| = 1; print "go "; while (1) { my $pid = fork; setsid if defined $pid && !$pid }'`)
	// The limit counts all processes of the user.
	spec.Limits.Processes = 40
	if os.Geteuid() == 0 {
		spec.User, spec.Dir = &User{UID: 61234, GID: 61234}, "/"
	} else {
		spec.Limits.Processes += uint64(threads(t))
	}
	c := launch(t, dir, spec)
	eventually(t, "a bomb", func() bool { return len(members(t, c)) > 20 })
	if err := Stop(testContext(t), dir, "TERM", 10*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	ended(t, c, dir)
	if left := members(t, c); len(left) > 0 {
		t.Errorf("%d processes are left", len(left))
	}
}

// members returns the processes that carry the id of a start.
func members(t *testing.T, c *Conn) (pids []int) {
	t.Helper()
	all, err := proc.All()
	if err != nil {
		t.Fatal(err)
	}
	for pid := range all {
		if proc.HasVariable(pid, ProcessVariable+"="+c.Started.ID) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// threads counts the threads of this user.
func threads(t *testing.T) (n int) {
	t.Helper()
	all, err := proc.All()
	if err != nil {
		t.Fatal(err)
	}
	for pid, s := range all {
		if info, err := os.Stat("/proc/" + strconv.Itoa(pid)); err == nil && info.Sys().(*syscall.Stat_t).Uid == uint32(os.Getuid()) {
			n += s.NumThreads
		}
	}
	return n
}

func TestLimitsSurviveTheirText(t *testing.T) {
	want := api.Limits{OpenFiles: 1, MemoryBytes: 2, Processes: 3}
	command := limitedCommand([]string{"agent", "shim"}, want, "/bin/true", []string{"true", "x"})
	if len(command) != 7 || command[2] != limitsCommand {
		t.Fatalf("command %q", command)
	}
	if got, err := parseLimits(command[3]); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{"", "files", "files=-1", "sheep=3"} {
		if _, err := parseLimits(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
