package supervise

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/internal/shim"
)

// TestMain lets the test binary be a shim, or a component with the control
// contract.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "shim":
			os.Exit(shim.Main(os.Args[2:]))
		case "component":
			component()
			return
		}
	}
	os.Exit(m.Run())
}

// component keeps the control contract. It is ready while the file "ready" is in
// its folder, counts reloads and notes its drain there. A reload fails while the
// file "broken" is there.
func component() {
	socket := os.Getenv("DEPLOY_CONTROL")
	home, err := os.Getwd()
	must(err)
	must(os.Chdir(filepath.Dir(socket)))
	l, err := net.Listen("unix", filepath.Base(socket))
	must(err)
	must(os.Chdir(home))
	there := func(name string) bool { _, err := os.Stat(name); return err == nil }
	http.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("Deploy-Fact", "isolation=full")
		if !there("ready") {
			http.Error(w, "not yet warm", http.StatusServiceUnavailable)
		}
	})
	http.HandleFunc("POST /drain", func(http.ResponseWriter, *http.Request) {
		must(os.WriteFile("drained", nil, 0o600))
		if there("leaves") {
			os.Exit(0)
		}
	})
	reloads := 0
	http.HandleFunc("POST /reload", func(w http.ResponseWriter, _ *http.Request) {
		if there("broken") {
			http.Error(w, "broken configuration", http.StatusInternalServerError)
			return
		}
		reloads++
		must(os.WriteFile("reloads", []byte(strconv.Itoa(reloads)), 0o600))
	})
	must(http.Serve(l, nil))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// patience is the time that a test waits for what must come; a busy machine is slow.
const patience = 60 * time.Second

// bench is an agent's folder with supervisors over it.
type bench struct {
	*testing.T
	dir     string
	changed chan struct{}
	*Supervisor
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, dir: t.TempDir(), changed: make(chan struct{}, 1)}
	t.Cleanup(b.endAll)
	b.open()
	return b
}

func (b *bench) context() context.Context {
	ctx, cancel := context.WithTimeout(b.T.Context(), patience)
	b.T.Cleanup(cancel)
	return ctx
}

// open opens the supervisor over what is there.
func (b *bench) open() {
	b.T.Helper()
	s, err := Open(b.context(), Config{
		Dir: b.dir, Shim: []string{os.Args[0], "shim"},
		// The race detector's second at exit would hide how quick restarts are.
		Env: []string{"PATH=/usr/bin:/bin", "GORACE=atexit_sleep_ms=0"},
		Log: slog.New(slog.NewTextHandler(testLog{b.T}, nil)),
		Changed: func() {
			select {
			case b.changed <- struct{}{}:
			default:
			}
		},
	})
	b.check(err)
	b.Supervisor = s
}

// testLog shows what a supervisor logs when its test fails.
type testLog struct{ t *testing.T }

func (l testLog) Write(line []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(line)))
	return len(line), nil
}

var _ io.Writer = testLog{}

func (b *bench) close() {
	if b.Supervisor != nil {
		b.check(b.Supervisor.Close())
		b.Supervisor = nil
	}
}

// endAll ends every shim and what is left of its process.
func (b *bench) endAll() {
	b.close()
	folders, err := filepath.Glob(filepath.Join(b.dir, "run", "*", "*.shim"))
	b.check(err)
	for _, folder := range folders {
		spec, err := shim.ReadSpec(folder)
		if err != nil {
			continue // never started
		}
		if started, err := shim.ReadStarted(folder); err == nil {
			b.check(shim.Sweep(context.Background(), spec.ID, &started))
			_, _ = syscall.Wait4(started.ShimPID, nil, 0, nil) // ours, or reaped already
		}
	}
}

func (b *bench) check(err error) {
	b.T.Helper()
	if err != nil {
		b.T.Fatal(err)
	}
}

// eventually polls until the condition holds.
func (b *bench) eventually(what string, holds func() bool) {
	b.T.Helper()
	ctx := b.context()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			b.T.Fatalf("in vain awaited: %s; statuses %+v", what, b.Statuses())
		case <-ticker.C:
		}
	}
}

// status is that of job/name; empty if it is not known.
func (b *bench) status(job, name string) api.ProcessStatus {
	for _, s := range b.Statuses() {
		if s.Job == job && s.Name == name {
			return s
		}
	}
	return api.ProcessStatus{}
}

// await waits until job/main is in a state.
func (b *bench) await(job string, state api.ProcessState) api.ProcessStatus {
	b.T.Helper()
	var s api.ProcessStatus
	b.eventually(fmt.Sprintf("%s is %s", job, state), func() bool {
		s = b.status(job, "main")
		return s.State == state
	})
	return s
}

// start starts job/main, and expects it.
func (b *bench) start(job string, p api.Process) {
	b.T.Helper()
	b.Expect([]api.Job{{Name: job, Processes: []api.Process{p}}})
	b.check(b.Supervisor.Start(b.context(), job, p, "g1"))
}

// shell is a process that runs a script.
func shell(script string) api.Process {
	return api.Process{Name: "main", Command: []string{"/bin/sh", "-c", script}, Digest: "d1", ReloadDigest: "r1"}
}

func sleeper() api.Process { return shell("exec sleep 1000") }

// controlled is a component, see there.
func controlled() api.Process {
	return api.Process{
		Name: "main", Command: []string{os.Args[0], "component"}, Digest: "d1", ReloadDigest: "r1",
		Control: true, Reload: &api.Reload{Control: true},
		Checks: []api.Check{{Kind: api.CheckControl, IntervalMS: 10, Failures: 2, TimeoutMS: 5000}},
	}
}

// data is a file in a job's folder.
func (b *bench) data(job, name string) string { return filepath.Join(b.dir, "data", job, name) }

func (b *bench) touch(path string) {
	b.T.Helper()
	b.check(os.MkdirAll(filepath.Dir(path), 0o755))
	b.check(os.WriteFile(path, nil, 0o600))
}

// log is the whole log of job/main, the oldest lines first.
func (b *bench) log(job string) string {
	var all strings.Builder
	for n := logKeep; n >= 0; n-- {
		name := filepath.Join(b.dir, "log", job, "main.log")
		if n > 0 {
			name += "." + strconv.Itoa(n)
		}
		if data, err := os.ReadFile(name); err == nil {
			all.Write(data)
		}
	}
	return all.String()
}

func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(data), ") Z ")
}

func (b *bench) kill(pid int) {
	b.T.Helper()
	b.check(syscall.Kill(pid, syscall.SIGKILL))
}

func (b *bench) shimPID(job string) int {
	b.T.Helper()
	started, err := shim.ReadStarted(filepath.Join(b.dir, "run", job, "main.shim"))
	b.check(err)
	return started.ShimPID
}
