package supervise

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

func TestKilledProcessIsBackWithinASecond(t *testing.T) {
	b := newBench(t)
	// A machine that is busy with other things takes its time for each start: then
	// a restart may take what a few first starts do, but has no pause beside that.
	var took []time.Duration
	for try := range 5 {
		job := fmt.Sprintf("web%d", try)
		began := time.Now()
		b.start(job, sleeper())
		limit := max(time.Second, 4*time.Since(began))
		first := b.await(job, api.ProcessRunning)
		began = time.Now()
		b.kill(first.PID)
		var again api.ProcessStatus
		b.eventually("a new pid", func() bool {
			again = b.status(job, "main")
			return again.PID != 0 && again.PID != first.PID
		})
		took = append(took, time.Since(began))
		if again.Restarts != 1 || again.LastExit == nil || again.LastExit.Signal != "KILL" || again.LastExit.Expected {
			t.Errorf("status %+v, exit %+v", again, again.LastExit)
		}
		if b.await(job, api.ProcessRunning).PID != again.PID {
			t.Error("was started twice")
		}
		if took[try] <= limit {
			return
		}
	}
	t.Errorf("was back after %s", took)
}

func TestReopenedSupervisorKeepsProcesses(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.start("web", sleeper())
	b.check(b.Start(b.context(), "db", sleeper(), "g0"))
	web, db := b.await("web", api.ProcessRunning), b.await("db", api.ProcessRunning)
	b.close()
	b.open()
	for _, was := range []api.ProcessStatus{web, db} {
		now := b.await(was.Job, api.ProcessRunning)
		if now.PID != was.PID || now.Restarts != 0 || now.LastExit != nil || now.Digest != "d1" || now.ReloadDigest != "r1" || now.Generation != was.Generation {
			t.Errorf("was %+v, is %+v", was, now)
		}
	}
	// It is supervised again.
	b.kill(web.PID)
	b.eventually("a restart", func() bool { return b.status("web", "main").Restarts == 1 })
	b.check(b.Stop(b.context(), "db", "main"))
	if alive(db.PID) {
		t.Error("was not stopped")
	}
}

func TestExitWithoutSupervisorIsReported(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	// Ends with 7 at a word, the first time; then it stays.
	p := shell(`test -e second && exec sleep 1000; touch second; while ! test -e go; do sleep 0.01; done; exit 7`)
	b.start("web", p)
	first := b.await("web", api.ProcessRunning)
	b.close()
	b.touch(b.data("web", "go"))
	exit := filepath.Join(b.dir, "run", "web", "main.shim", "exit.json")
	for ctx := b.context(); ; {
		if _, err := os.Stat(exit); err == nil {
			break
		}
		b.check(ctx.Err())
	}
	b.open()
	b.eventually("the restart", func() bool { return b.status("web", "main").Restarts == 1 })
	again := b.await("web", api.ProcessRunning)
	if again.PID == first.PID || again.LastExit == nil || again.LastExit.Status != 7 || again.LastExit.Expected {
		t.Errorf("status %+v, exit %+v", again, again.LastExit)
	}
	// Counted once, however often it is opened.
	b.close()
	b.open()
	if s := b.await("web", api.ProcessRunning); s.Restarts != 1 || s.PID != again.PID {
		t.Errorf("opened again: %+v", s)
	}
}

func TestKilledShim(t *testing.T) {
	for _, open := range []bool{true, false} {
		t.Run(fmt.Sprintf("supervisor open %v", open), func(t *testing.T) {
			b := newBench(t)
			b.start("web", shell(`sleep 1000 & echo $!; exec sleep 1000`))
			first := b.await("web", api.ProcessRunning)
			b.eventually("a log", func() bool { return strings.HasSuffix(b.log("web"), "\n") })
			child, err := strconv.Atoi(strings.TrimSpace(b.log("web")))
			b.check(err)
			pid := b.shimPID("web")
			if !open {
				b.close()
			}
			b.kill(pid)
			if !open {
				b.open()
			}
			b.eventually("a new start", func() bool {
				s := b.status("web", "main")
				return s.PID != 0 && s.PID != first.PID
			})
			s := b.await("web", api.ProcessRunning)
			if s.Restarts != 1 || s.LastExit == nil || s.LastExit.Status != -1 {
				t.Errorf("status %+v, exit %+v", s, s.LastExit)
			}
			if alive(first.PID) || alive(child) {
				t.Error("an orphan is left")
			}
		})
	}
}

func TestStopIsKeptAndStubbornGroupIsKilled(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := shell(`trap "" TERM; sh -c 'trap "" TERM; echo $$; while :; do sleep 1; done' & while :; do sleep 1; done`)
	p.StopGrace = 50
	b.start("web", p)
	first := b.await("web", api.ProcessRunning)
	b.eventually("a log", func() bool { return strings.HasSuffix(b.log("web"), "\n") })
	child, err := strconv.Atoi(strings.TrimSpace(b.log("web")))
	b.check(err)
	b.check(b.Stop(b.context(), "web", "main"))
	if alive(first.PID) || alive(child) {
		t.Error("something is left")
	}
	s := b.status("web", "main")
	if s.State != api.ProcessStopped || s.PID != 0 || s.Restarts != 0 || s.LastExit == nil || !s.LastExit.Expected || s.LastExit.Signal != "KILL" {
		t.Errorf("status %+v, exit %+v", s, s.LastExit)
	}
	b.check(b.Stop(b.context(), "web", "main")) // again
	b.close()
	b.open()
	if s := b.status("web", "main"); s.State != api.ProcessStopped {
		t.Errorf("after reopening: %+v", s)
	}
	b.check(b.Forget(b.context(), "web", "main"))
	b.close()
	b.open()
	if s := b.Statuses(); len(s) != 0 {
		t.Errorf("forgotten: %+v", s)
	}
}

func TestStopEndsWhenTheCallerLeaves(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := shell(`trap "" TERM; while :; do sleep 0.05; done`)
	p.StopGrace = 300
	b.start("web", p)
	b.await("web", api.ProcessRunning)
	ctx, cancel := context.WithTimeout(b.context(), 10*time.Millisecond)
	defer cancel()
	if err := b.Stop(ctx, "web", "main"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	// A start now waits for the end, and gets its way.
	b.check(b.Start(b.context(), "web", sleeper(), "g2"))
	if s := b.await("web", api.ProcessRunning); s.Generation != "g2" || s.Restarts != 0 {
		t.Errorf("status %+v", s)
	}
}

func TestHungShimIsKilled(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := sleeper()
	p.StopGrace = 10
	b.start("web", p)
	first := b.await("web", api.ProcessRunning)
	pid := b.shimPID("web")
	b.check(syscall.Kill(pid, syscall.SIGSTOP))
	b.check(b.Stop(b.context(), "web", "main"))
	if alive(first.PID) || alive(pid) {
		t.Error("something is left")
	}
}

func TestStartIsIdempotentByDigest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := sleeper()
	b.start("web", p)
	first := b.await("web", api.ProcessRunning)
	p.StopGrace = 1234 // not covered by the digest
	p.ReloadDigest = "r2"
	b.check(b.Start(b.context(), "web", p, "g2"))
	s := b.status("web", "main")
	if s.PID != first.PID || s.Generation != "g1" || s.ReloadDigest != "r1" {
		t.Errorf("the same digest: %+v, was %+v", s, first)
	}
	p.Digest = "d2"
	b.check(b.Start(b.context(), "web", p, "g2"))
	s = b.await("web", api.ProcessRunning)
	if s.PID == first.PID || s.Digest != "d2" || s.ReloadDigest != "r2" || s.Generation != "g2" || s.Restarts != 0 || alive(first.PID) {
		t.Errorf("another digest: %+v, was %+v", s, first)
	}
}

func TestStartFailureSaysWhyAndIsTriedAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	program := filepath.Join(b.dir, "program")
	p := api.Process{Name: "main", Command: []string{program}, Digest: "d1"}
	err := b.Start(b.context(), "web", p, "g1")
	var failure *api.Error
	if !errors.As(err, &failure) || failure.Code != api.CodeFailed || failure.Process == nil || failure.Process.Job != "web" {
		t.Fatalf("got %#v", err)
	}
	if !strings.Contains(failure.Message, program) || !strings.Contains(strings.Join(failure.Process.Log, "\n"), program) {
		t.Errorf("does not say why: %s, log %q", failure.Message, failure.Process.Log)
	}
	b.check(os.Symlink("/bin/sleep", program+".new"))
	b.check(os.Rename(program+".new", program))
	p.Command = append(p.Command, "1000") // of no consequence: the pinned spec is tried again, and fails
	b.eventually("more tries", func() bool { return b.status("web", "main").Restarts >= 3 })
	if err := b.Start(b.context(), "web", p, "g1"); err != nil {
		t.Errorf("with a program: %v", err)
	}
	if s := b.await("web", api.ProcessRunning); s.Restarts != 0 {
		t.Errorf("status %+v", s)
	}
	for _, bad := range []string{"", "..", "a/b"} {
		if err := b.Start(b.context(), bad, p, "g1"); !errors.As(err, &failure) || failure.Code != api.CodeBadRequest {
			t.Errorf("job %q: %v", bad, err)
		}
	}
}

func TestCrashLoopBacksOff(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := shell(`date +%s%N; exit 3`)
	p.Restart = &api.Restart{MinMS: 200, MaxMS: 400, StableMS: 60_000}
	b.start("web", p)
	b.eventually("five starts", func() bool { return strings.Count(b.log("web"), "\n") >= 5 })
	var at []int64
	for line := range strings.Lines(b.log("web")) {
		n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		b.check(err)
		at = append(at, n)
	}
	for i, atLeast := range []time.Duration{0, 200, 400, 400} {
		if gap := time.Duration(at[i+1] - at[i]); gap < atLeast*time.Millisecond {
			t.Errorf("start %d came after %s, want at least %d ms", i+1, gap, atLeast)
		}
	}
	s := b.await("web", api.ProcessBackoff)
	if s.Restarts < 5 || s.Reason != "exited with status 3" || s.PID != 0 {
		t.Errorf("status %+v", s)
	}
	if state, reasons, since := b.Health(); state != api.InstanceFailing || len(reasons) != 1 || since != nil {
		t.Errorf("health %s %q %v", state, reasons, since)
	}
	b.check(b.Stop(b.context(), "web", "main"))
}

func TestRebootStartsWhatIsWanted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.start("web", sleeper())
	b.check(b.Start(b.context(), "off", sleeper(), "g1"))
	first := b.await("web", api.ProcessRunning)
	b.check(b.Stop(b.context(), "off", "main"))
	// A reboot takes the supervisor, all processes, and run/.
	b.endAll()
	b.check(os.RemoveAll(filepath.Join(b.dir, "run")))
	b.open()
	s := b.await("web", api.ProcessRunning)
	if s.PID == first.PID || s.Digest != "d1" || s.Generation != "g1" || s.Restarts != 0 {
		t.Errorf("status %+v", s)
	}
	if s := b.status("off", "main"); s.State != api.ProcessStopped {
		t.Errorf("status %+v", s)
	}
}

func TestRecordsOfAnEarlierBootMeanNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.start("web", sleeper())
	b.await("web", api.ProcessRunning)
	b.endAll()
	started := filepath.Join(b.dir, "run", "web", "main.shim", "start.json")
	data, err := os.ReadFile(started)
	b.check(err)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	b.check(err)
	other := strings.Replace(string(data), strings.TrimSpace(string(boot)), "another-boot", 1)
	b.check(os.WriteFile(started, []byte(other), 0o600))
	b.open()
	if s := b.await("web", api.ProcessRunning); s.Restarts != 0 || s.LastExit != nil {
		t.Errorf("a reboot counts as a crash: %+v", s)
	}
}

// What a failure shows was said by the start that failed, not by an earlier one, also
// when the agent was replaced or the log rotated meanwhile.
func TestTailIsOfThisStart(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tail := func() string { return strings.Join(b.LogTail("web", "main", 5), "|") }
	b.start("web", shell(`echo "FATAL: an hour ago"; exec sleep 1000`))
	b.eventually("the first words", func() bool { return tail() == "FATAL: an hour ago" })
	b.check(b.Stop(b.context(), "web", "main"))
	b.start("web", shell(`exec sleep 1000 # silent`))
	if got := tail(); got != "" {
		t.Errorf("a silent start said %q", got)
	}
	b.check(b.Stop(b.context(), "web", "main"))
	b.start("web", shell(`echo second; exec sleep 1000`))
	b.eventually("the second words", func() bool { return tail() == "second" })
	b.close()
	b.open()
	if got := tail(); got != "second" {
		t.Errorf("after the agent was replaced: %q", got)
	}
	b.check(b.Stop(b.context(), "web", "main"))
	b.start("web", shell(`echo before; seq -f "%0100.0f" 105000; echo last; exec sleep 1000`)) // some 10.6 MB: rotated
	b.eventually("the last words", func() bool { return strings.HasSuffix(tail(), "last") })
	if lines := b.LogTail("web", "main", 200_000); strings.Contains(strings.Join(lines, "|"), "second") {
		t.Error("an earlier start's words are among them")
	}
}

func TestLogGoesOnAcrossSupervisors(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	// Some 12 MB, so it is rotated once.
	const lines = 120_000
	p := shell(fmt.Sprintf(`seq -f "%%0100.0f" %d; echo end; exec sleep 1000`, lines))
	b.start("web", p)
	for range 3 {
		b.close()
		b.open()
	}
	b.eventually("the end", func() bool { return strings.Join(b.LogTail("web", "main", 1), "") == "end" })
	i := 0
	for line := range strings.Lines(b.log("web")) {
		i++
		if want := fmt.Sprintf("%0100d\n", i); i <= lines && line != want {
			t.Fatalf("line %d is %q", i, line)
		}
	}
	if i != lines+1 {
		t.Errorf("%d lines, want %d", i, lines+1)
	}
	if _, err := os.Stat(filepath.Join(b.dir, "log", "web", "main.log.1")); err != nil {
		t.Errorf("was not rotated: %v", err)
	}
	if tail := b.LogTail("web", "main", 3); len(tail) != 3 || tail[1] != fmt.Sprintf("%0100d", lines) {
		t.Errorf("tail %q", tail)
	}
	if tail := b.LogTail("none", "main", 3); len(tail) != 0 {
		t.Errorf("tail of nothing %q", tail)
	}
}

func TestReadinessDrainAndReload(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := controlled()
	b.start("web", p)
	b.eventually("the reason", func() bool {
		_, reasons, _ := b.Health()
		return strings.Contains(strings.Join(reasons, ""), "not yet warm")
	})
	if s := b.status("web", "main"); s.State != api.ProcessStarting {
		t.Errorf("not ready, and %s", s.State)
	}
	b.touch(b.data("web", "ready"))
	first := b.await("web", api.ProcessRunning)
	if facts := b.status("web", "main").Facts; len(facts) != 1 || facts["isolation"] != "full" {
		t.Errorf("facts %v", facts)
	}

	// A failing check, and its end.
	b.check(os.Remove(b.data("web", "ready")))
	if s := b.await("web", api.ProcessFailing); !strings.Contains(s.Reason, "503: not yet warm") {
		t.Errorf("status %+v", s)
	}
	b.touch(b.data("web", "ready"))
	if s := b.await("web", api.ProcessRunning); s.PID != first.PID || s.Reason != "" {
		t.Errorf("status %+v", s)
	}

	// A reload that fails stays owed.
	p.ReloadDigest = "r2"
	b.Expect([]api.Job{{Name: "web", Processes: []api.Process{p}}})
	b.touch(b.data("web", "broken"))
	if err := b.Reload(b.context(), "web", p); err == nil || !strings.Contains(err.Error(), "broken configuration") {
		t.Errorf("got %v", err)
	}
	state, reasons, _ := b.Health()
	if loaded := b.status("web", "main").ReloadDigest; state != api.InstanceFailing || !strings.Contains(strings.Join(reasons, ""), "broken configuration") || loaded == "r1" || loaded == "r2" {
		t.Errorf("health %s %q", state, reasons)
	}
	b.check(os.Remove(b.data("web", "broken")))
	b.check(b.Reload(b.context(), "web", p))
	if data, err := os.ReadFile(b.data("web", "reloads")); err != nil || string(data) != "1" {
		t.Errorf("reloads %q: %v", data, err)
	}
	if state, reasons, _ := b.Health(); state != api.InstanceRunning {
		t.Errorf("health %s %q", state, reasons)
	}
	b.close()
	b.open()
	if s := b.await("web", api.ProcessRunning); s.ReloadDigest != "r2" || s.PID != first.PID {
		t.Errorf("after reopening %+v", s)
	}

	// Drained, then stopped.
	b.check(b.Drain(b.context(), "web", "main", patience))
	if _, err := os.Stat(b.data("web", "drained")); err != nil {
		t.Error(err)
	}
	if s := b.status("web", "main"); s.PID != first.PID {
		t.Errorf("after its drain %+v", s)
	}
	b.check(b.Stop(b.context(), "web", "main"))
}

func TestDrainedProcessMayLeave(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.touch(b.data("web", "ready"))
	b.touch(b.data("web", "leaves"))
	b.start("web", controlled())
	b.await("web", api.ProcessRunning)
	b.check(b.Drain(b.context(), "web", "main", patience))
	if s := b.await("web", api.ProcessStopped); s.Restarts != 0 || s.LastExit == nil || !s.LastExit.Expected {
		t.Errorf("status %+v", s)
	}
	b.check(b.Drain(b.context(), "web", "main", patience)) // nothing to drain
	b.check(b.Drain(b.context(), "none", "main", patience))
	b.check(b.Start(b.context(), "web", controlled(), "g2"))
	b.await("web", api.ProcessRunning)
}

func TestDrainHasATimeout(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := sleeper()
	p.Control = true // it says so, but nothing answers
	b.start("web", p)
	if err := b.Drain(b.context(), "web", "main", 10*time.Millisecond); err == nil || !strings.Contains(err.Error(), "web/main") {
		t.Errorf("got %v", err)
	}
}

func TestReloadBySignalAndCommand(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := shell(`trap "echo reloaded; touch loaded" HUP; echo up; while :; do sleep 0.01; done`)
	b.start("web", p)
	b.eventually("a trap", func() bool { return strings.Contains(b.log("web"), "up") })
	p.Reload = &api.Reload{Signal: "HUP", Verify: []string{"/bin/sh", "-c", "while ! test -e loaded; do sleep 0.01; done"}}
	p.ReloadDigest = "r2"
	b.check(b.Reload(b.context(), "web", p))
	if s := b.status("web", "main"); s.ReloadDigest != "r2" {
		t.Errorf("status %+v", s)
	}
	tests := []struct {
		name   string
		change func(*api.Process)
		want   string
	}{
		{"verification", func(p *api.Process) {
			p.Reload = &api.Reload{Command: []string{"/bin/true"}, Verify: []string{"/bin/sh", "-c", "echo too old; exit 1"}}
		}, "too old"},
		{"command", func(p *api.Process) { p.Reload = &api.Reload{Command: []string{"/bin/false"}} }, "exit status 1"},
		{"time", func(p *api.Process) {
			p.Reload = &api.Reload{Command: []string{"/bin/sleep", "1000"}, TimeoutMS: 20}
		}, "not done within 20ms"},
		{"signal", func(p *api.Process) { p.Reload = &api.Reload{Signal: "SHEEP"} }, "SHEEP"},
		{"no way", func(p *api.Process) { p.Reload = nil }, "no way to reload"},
		{"other spec", func(p *api.Process) { p.Digest = "d2" }, "another spec"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			changed := p
			changed.ReloadDigest = "r3"
			tt.change(&changed)
			if err := b.Reload(b.context(), "web", changed); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v", err)
			}
			// Nor is it known to have what it had: the way back reloads too.
			if s := b.status("web", "main"); s.ReloadDigest == "r3" || s.ReloadDigest == "r2" {
				t.Errorf("status %+v", s)
			}
		})
	}
	if err := b.Reload(b.context(), "none", p); err == nil {
		t.Error("what is not there was reloaded")
	}
}

func TestChecksOfEachKind(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "web.localhost" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Location", "http://127.0.0.1:1/")
		w.WriteHeader(http.StatusFound)
	}))
	defer server.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	b.check(err)
	closed := l.Addr().String()
	l.Close()
	open := strings.TrimPrefix(server.URL, "http://")
	tests := []struct {
		check api.Check
		want  string // "" if it passes
	}{
		{api.Check{Kind: api.CheckHTTP, Target: server.URL, Host: "web.localhost"}, ""},
		{api.Check{Kind: api.CheckHTTP, Target: server.URL}, "answers 404"},
		{api.Check{Kind: api.CheckTCP, Target: open}, ""},
		{api.Check{Kind: api.CheckTCP, Target: closed}, "refused"},
		{api.Check{Kind: api.CheckExec, Command: []string{"/bin/sh", "-c", `test "$GREETING" = hello`}}, ""},
		{api.Check{Kind: api.CheckExec, Command: []string{"/bin/sh", "-c", "echo not in the mood; exit 9"}}, "exit status 9: not in the mood"},
		{api.Check{Kind: api.CheckExec, Command: []string{"/bin/sleep", "1000"}, TimeoutMS: 20}, "no answer within 20ms"},
		{api.Check{Kind: "seance"}, "seance"},
	}
	for i, tt := range tests {
		job := fmt.Sprintf("job%d", i)
		p := sleeper()
		p.Env = map[string]string{"GREETING": "hello"}
		tt.check.TimeoutMS = max(tt.check.TimeoutMS, 20)
		if tt.want == "" {
			tt.check.TimeoutMS = patience.Milliseconds()
		}
		p.Checks = []api.Check{tt.check}
		b.check(b.Start(b.context(), job, p, "g1"))
	}
	for i, tt := range tests {
		job := fmt.Sprintf("job%d", i)
		if tt.want == "" {
			b.await(job, api.ProcessRunning)
			continue
		}
		b.eventually(job+" says "+tt.want, func() bool { return strings.Contains(b.status(job, "main").Reason, tt.want) })
		if s := b.status(job, "main"); s.State != api.ProcessStarting {
			t.Errorf("%s: %+v", job, s)
		}
	}
}

// TestOtherChecks: checks that change under a running process are asked, and
// what was healthy is so again only when they pass.
func TestOtherChecks(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := sleeper()
	b.start("job", p)
	pid := b.status("job", "main").PID
	exec := func(script string) {
		p.Checks = []api.Check{{Kind: api.CheckExec, Command: []string{"/bin/sh", "-c", script}, TimeoutMS: patience.Milliseconds()}}
		b.check(b.Start(b.context(), "job", p, "g2"))
	}
	exec("echo out of order; exit 1")
	if state := b.status("job", "main").State; state != api.ProcessStarting {
		t.Errorf("with another check it is %s at once", state)
	}
	b.eventually("the new check is asked", func() bool { return strings.Contains(b.status("job", "main").Reason, "out of order") })
	exec("exit 0")
	b.await("job", api.ProcessRunning)
	p.Checks = nil
	b.check(b.Start(b.context(), "job", p, "g3"))
	b.await("job", api.ProcessRunning)
	if now := b.status("job", "main").PID; now != pid {
		t.Errorf("its pid was %d and is %d", pid, now)
	}
}

func TestWaitHealthy(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.check(b.WaitHealthy(b.context(), time.Hour)) // nothing is expected

	began := time.Now()
	b.start("web", sleeper())
	const healthyFor = 200 * time.Millisecond
	b.check(b.WaitHealthy(b.context(), healthyFor))
	state, reasons, since := b.Health()
	if state != api.InstanceRunning || len(reasons) != 0 || since == nil || time.Since(*since) < healthyFor {
		t.Errorf("health %s %q since %v", state, reasons, since)
	}
	if took := time.Since(began); took < healthyFor+settled {
		t.Errorf("took %s, and it must have stayed up first", took)
	}

	// A kill during the wait ends it, although the process is back at once.
	failed := make(chan error, 1)
	go func() { failed <- b.WaitHealthy(b.context(), time.Hour) }()
	b.kill(b.status("web", "main").PID)
	select {
	case err := <-failed:
		var failure *api.Error
		if !errors.As(err, &failure) || failure.Process == nil || failure.Process.Exit == nil || failure.Process.Exit.Signal != "KILL" {
			t.Errorf("got %#v", err)
		}
	case <-b.context().Done():
		t.Fatal("the wait goes on after a crash")
	}
}

func TestWaitHealthyFailsFast(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.start("web", shell("echo cannot go on; exit 5"))
	err := b.WaitHealthy(b.context(), time.Hour)
	var failure *api.Error
	if !errors.As(err, &failure) || failure.Code != api.CodeFailed || failure.Process == nil ||
		failure.Process.Exit == nil || failure.Process.Exit.Status != 5 || len(failure.Process.Log) == 0 || failure.Process.Log[0] != "cannot go on" {
		t.Errorf("got %v: %+v", err, failure)
	}
	b.check(b.Stop(b.context(), "web", "main"))
}

func TestWaitHealthySaysAtTheDeadlineWhatIsWrong(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := shell("echo warming up; exec sleep 1000")
	p.Checks = []api.Check{{Kind: api.CheckExec, Command: []string{"/bin/sh", "-c", "echo cold; exit 1"}}}
	b.start("web", p)
	b.eventually("the check's answer", func() bool { return strings.Contains(b.status("web", "main").Reason, "cold") && b.log("web") != "" })
	ctx, cancel := context.WithTimeout(b.context(), 10*time.Millisecond)
	defer cancel()
	err := b.WaitHealthy(ctx, 0)
	var failure *api.Error
	if !errors.As(err, &failure) || failure.Process == nil || !strings.Contains(failure.Message, "cold") || len(failure.Process.Log) != 1 {
		t.Errorf("got %v: %+v", err, failure)
	}
	// Healthy, but the deadline comes first.
	b.start("web", func() api.Process { p := sleeper(); p.Digest = "d2"; return p }())
	b.check(b.WaitHealthy(b.context(), 0))
	ctx, cancel = context.WithTimeout(b.context(), 10*time.Millisecond)
	defer cancel()
	if err := b.WaitHealthy(ctx, time.Hour); !errors.As(err, &failure) || !strings.Contains(failure.Message, "long enough") {
		t.Errorf("got %v", err)
	}
	gone, cancel := context.WithCancel(b.context())
	cancel()
	if err := b.WaitHealthy(gone, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestChangedIsCalledAndFiguresAreTaken(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.start("web", shell(`while :; do :; done`))
	select {
	case <-b.changed:
	case <-b.context().Done():
		t.Fatal("nobody was told")
	}
	b.eventually("memory and CPU", func() bool {
		s := b.status("web", "main")
		return s.RSSBytes > 0 && s.CPUPercent > 0 && s.StartedAt != nil
	})
	b.check(b.Stop(b.context(), "web", "main"))
	if s := b.status("web", "main"); s.RSSBytes != 0 || s.CPUPercent != 0 {
		t.Errorf("status %+v", s)
	}
}

func TestLongSocketPath(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	job := strings.Repeat("long-", 30)
	b.touch(b.data(job, "ready"))
	b.start(job, controlled())
	b.await(job, api.ProcessRunning)
	b.check(b.Drain(b.context(), job, "main", patience))
	b.check(b.Stop(b.context(), job, "main"))
}
