package install

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/agent/api"
)

// recorder is a supervisor whose processes are entries of a map.
type recorder struct {
	mu       sync.Mutex
	running  map[ref]api.ProcessStatus
	calls    []string
	expected []api.Job
	sick     error // what WaitHealthy answers
}

func (r *recorder) note(format string, args ...any) {
	r.calls = append(r.calls, fmt.Sprintf(format, args...))
}

func (r *recorder) Start(_ context.Context, job string, p api.Process, generation string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.running[ref{job, p.Name}]; s.State == api.ProcessRunning && s.Digest == p.Digest {
		return nil // left alone
	}
	r.note("start %s/%s", job, p.Name)
	r.running[ref{job, p.Name}] = api.ProcessStatus{Job: job, Name: p.Name, State: api.ProcessRunning, PID: 1 << 30,
		Digest: p.Digest, ReloadDigest: p.ReloadDigest, Generation: generation}
	return nil
}

func (r *recorder) Stop(_ context.Context, job, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note("stop %s/%s", job, name)
	s := r.running[ref{job, name}]
	s.State, s.PID = api.ProcessStopped, 0
	r.running[ref{job, name}] = s
	return nil
}

func (r *recorder) Drain(_ context.Context, job, name string, _ time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note("drain %s/%s", job, name)
	return nil
}

func (r *recorder) Reload(_ context.Context, job string, p api.Process) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note("reload %s/%s", job, p.Name)
	s := r.running[ref{job, p.Name}]
	s.ReloadDigest = p.ReloadDigest
	r.running[ref{job, p.Name}] = s
	return nil
}

func (r *recorder) Forget(_ context.Context, job, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note("forget %s/%s", job, name)
	delete(r.running, ref{job, name})
	return nil
}

func (r *recorder) Statuses() []api.ProcessStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []api.ProcessStatus
	for _, s := range r.running {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b api.ProcessStatus) int { return strings.Compare(a.Job+a.Name, b.Job+b.Name) })
	return out
}

func (r *recorder) Expect(jobs []api.Job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expected = jobs
}

func (r *recorder) WaitHealthy(context.Context, time.Duration) error { return r.sick }
func (r *recorder) LogTail(string, string, int) []string             { return []string{"last words"} }

func (r *recorder) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := strings.Join(r.calls, ", ")
	r.calls = nil
	return out
}

// steps is a report that ends an operation before its n-th step.
type steps struct {
	left   int
	mu     sync.Mutex
	events []string
}

var errCut = errors.New("cut")

func (s *steps) Proceed() error {
	if s.left--; s.left == 0 {
		return errCut
	}
	return nil
}

func (s *steps) Event(step, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, step+" "+message)
}

func (s *steps) Output(stream api.Stream, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, string(stream)+" "+string(data))
}

func (s *steps) ID() string { return fmt.Sprintf("test-%d-%p", os.Getpid(), s) }

func newInstaller(t testing.TB, dir string, r *recorder) *Installer {
	t.Helper()
	i, err := Open(Config{Dir: dir, Supervisor: r, Env: []string{"PATH=/usr/bin:/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// spec builds one from "job/process@digest/reload" items.
func spec(generation string, processes ...string) api.Spec {
	s := api.Spec{Generation: generation, Instance: "test/0", Address: "127.0.0.1"}
	for _, text := range processes {
		name, digests, _ := strings.Cut(text, "@")
		job, process, _ := strings.Cut(name, "/")
		digest, reload, _ := strings.Cut(digests, "/")
		if len(s.Jobs) == 0 || s.Jobs[len(s.Jobs)-1].Name != job {
			s.Jobs = append(s.Jobs, api.Job{Name: job, Files: []api.File{{Path: "config", Mode: 0o600, Content: []byte(generation)}}})
		}
		j := &s.Jobs[len(s.Jobs)-1]
		j.Processes = append(j.Processes, api.Process{Name: process, Command: []string{"true"}, Control: true,
			Digest: digest, ReloadDigest: reload, Reload: &api.Reload{Signal: "HUP"}})
	}
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func prepareAndUpdate(t testing.TB, i *Installer, s api.Spec) error {
	t.Helper()
	must(t, i.Prepare(t.Context(), s, &steps{}))
	return i.Update(t.Context(), api.Update{Generation: s.Generation}, &steps{})
}

func TestUpdateTouchesOnlyWhatDiffers(t *testing.T) {
	t.Parallel()
	r := &recorder{running: map[ref]api.ProcessStatus{}}
	i := newInstaller(t, t.TempDir(), r)
	for _, tc := range []struct {
		spec api.Spec
		want string
	}{
		{spec("g1", "a/one@1/1", "a/two@1/1", "b/three@1/1"), "start a/one, start a/two, start b/three"},
		{spec("g1", "a/one@1/1", "a/two@1/1", "b/three@1/1"), ""},
		{spec("g2", "a/one@1/1", "a/two@2/1", "b/three@1/1"), "drain a/two, stop a/two, start a/two"},
		{spec("g3", "a/one@1/2", "a/two@2/1", "b/three@1/1"), "reload a/one"},
		{spec("g4", "a/one@1/2", "b/three@1/1", "c/four@1/1"), "drain a/two, stop a/two, forget a/two, start c/four"},
		{spec("g5", "a/one@1/2", "b/three@1/1", "c/four@1/1"), ""},
	} {
		if err := prepareAndUpdate(t, i, tc.spec); err != nil {
			t.Fatal(err)
		}
		if got := r.take(); got != tc.want {
			t.Errorf("%s: calls %q, want %q", tc.spec.Generation, got, tc.want)
		}
		content, err := os.ReadFile(i.path("jobs", "a", "config"))
		if err != nil || string(content) != tc.spec.Generation {
			t.Errorf("%s: jobs/a/config is %q, %v", tc.spec.Generation, content, err)
		}
	}
	s := i.Installed()
	if s.Active != "g5" || s.Previous != "g4" || s.Interrupted {
		t.Errorf("got %+v", s)
	}
	entries, err := os.ReadDir(i.path("generations"))
	if err != nil || len(entries) > 3 { // g3 still names running processes
		t.Errorf("old generations stay: %v, %v", entries, err)
	}
	if _, err := os.Lstat(i.path("jobs", "c")); err != nil {
		t.Error(err)
	}
}

func TestNothingToDoWritesNothing(t *testing.T) {
	t.Parallel()
	r := &recorder{running: map[ref]api.ProcessStatus{}}
	i := newInstaller(t, t.TempDir(), r)
	must(t, prepareAndUpdate(t, i, spec("g1", "a/one@1/1")))
	before, err := os.Stat(i.path("generations.json"))
	must(t, err)
	report := &steps{}
	must(t, i.Update(t.Context(), api.Update{Generation: "g1"}, report))
	after, err := os.Stat(i.path("generations.json"))
	must(t, err)
	if !os.SameFile(before, after) {
		t.Error("generations.json was written")
	}
	if len(report.events) != 1 || !strings.HasPrefix(report.events[0], "healthy") {
		t.Errorf("events %q", report.events)
	}
}

func TestFailedUpdateRollsBackToWhatWasActive(t *testing.T) {
	t.Parallel()
	r := &recorder{running: map[ref]api.ProcessStatus{}}
	i := newInstaller(t, t.TempDir(), r)
	must(t, prepareAndUpdate(t, i, spec("g1", "a/one@1/1")))
	must(t, prepareAndUpdate(t, i, spec("g2", "a/one@2/1")))
	r.sick = errors.New("check fails")
	for _, bad := range []string{"g3", "g4"} { // the second goes forward from a failed one
		if err := prepareAndUpdate(t, i, spec(bad, "a/one@"+bad+"/1")); err == nil {
			t.Fatal("an unhealthy update must fail")
		}
		if s := i.Installed(); s.Active != bad || s.Previous != "g2" || !s.Interrupted {
			t.Errorf("got %+v", s)
		}
	}
	r.sick = nil
	r.take()
	for range 2 { // a rollback may be repeated
		must(t, i.Rollback(t.Context(), api.Rollback{}, &steps{}))
		if s := i.Installed(); s.Active != "g2" || s.Interrupted {
			t.Errorf("got %+v", s)
		}
	}
	if got := r.take(); got != "drain a/one, stop a/one, start a/one" {
		t.Errorf("calls %q", got)
	}
}

// What a rollback returns to is what ran as the update began, also if that was
// the wanted generation already.
func TestRollbackOfARestart(t *testing.T) {
	t.Parallel()
	r := &recorder{running: map[ref]api.ProcessStatus{}}
	i := newInstaller(t, t.TempDir(), r)
	must(t, prepareAndUpdate(t, i, spec("g1", "a/one@1/1")))
	must(t, prepareAndUpdate(t, i, spec("g2", "a/one@2/1")))
	if err := i.Restart(t.Context(), api.RestartProcesses{}, &steps{left: 6}); !errors.Is(err, errCut) {
		t.Fatal(err)
	}
	if s := i.Installed(); s.Active != "g2" || s.Previous != "g2" || !s.Interrupted {
		t.Errorf("got %+v", s)
	}
	must(t, i.Rollback(t.Context(), api.Rollback{}, &steps{}))
	if s := i.Installed(); s.Active != "g2" || s.Previous != "g1" || s.Interrupted {
		t.Errorf("got %+v", s)
	}
}

// Files and processes go back, data does not: after a pre_start hook only what
// its job declares compatible.
func TestNoWayBackAfterPreStart(t *testing.T) {
	t.Parallel()
	withPreStart := func(s api.Spec, compatible bool) api.Spec {
		h := hook(api.HookPreStart, "true", time.Minute)
		h.RollbackCompatible = compatible
		s.Jobs[0].Hooks = []api.Hook{h}
		return s
	}
	for name, tc := range map[string]struct {
		next    api.Spec
		cut     int // before this step, 0: the processes are not healthy
		refused bool
	}{
		"incompatible":       {next: withPreStart(spec("g2", "a/one@2/1"), false), refused: true},
		"compatible":         {next: withPreStart(spec("g2", "a/one@2/1"), true)},
		"before the hook":    {next: withPreStart(spec("g2", "a/one@2/1"), false), cut: 9},
		"does not start it":  {next: withPreStart(spec("g2", "a/one@1/1"), false)},
		"of another job":     {next: spec("g2", "a/one@2/1")},
		"begun and cut":      {next: withPreStart(spec("g2", "a/one@2/1"), false), cut: 11, refused: true},
		"none, one had been": {next: spec("g2", "a/one@2/1")},
	} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{running: map[ref]api.ProcessStatus{}}
			dir := t.TempDir()
			i := newInstaller(t, dir, r)
			must(t, prepareAndUpdate(t, i, withPreStart(spec("g1", "a/one@1/1"), false)))
			must(t, i.Prepare(t.Context(), tc.next, &steps{}))
			if tc.cut == 0 {
				r.sick = errors.New("check fails")
			}
			if err := i.Update(t.Context(), api.Update{Generation: "g2"}, &steps{left: tc.cut}); err == nil {
				t.Fatal("the update must fail")
			}
			r.sick = nil
			i = newInstaller(t, dir, r) // the agent starts anew
			err := i.Update(t.Context(), api.Update{Generation: "g1", Back: true}, &steps{})
			var refused *api.Error
			if tc.refused != (errors.As(err, &refused) && refused.Code == api.CodeIrreversible && strings.Contains(err.Error(), "pre_start of job a")) {
				t.Fatalf("got %v", err)
			}
			if !tc.refused {
				must(t, err)
				if s := i.Installed(); s.Active != "g1" || s.Interrupted {
					t.Errorf("got %+v", s)
				}
				return
			}
			if s := i.Installed(); s.Active != "g2" || s.Previous != "g1" || !s.Interrupted {
				t.Errorf("got %+v", s)
			}
			// Forward, and back on an operator's wish, are open.
			must(t, i.Update(t.Context(), api.Update{Generation: "g1"}, &steps{}))
		})
	}
}

// TestBadHooksDoNotKeepAnUpdateFromGoingBack: an update ends at a hook that
// fails, but what is bad about a version cannot keep it from being put back.
func TestBadHooksDoNotKeepAnUpdateFromGoingBack(t *testing.T) {
	t.Parallel()
	for _, kind := range []api.HookKind{api.HookPreStop, api.HookDrain, api.HookPostStop} {
		r := &recorder{running: map[ref]api.ProcessStatus{}}
		i := newInstaller(t, t.TempDir(), r)
		must(t, prepareAndUpdate(t, i, spec("g1", "a/one@1/1")))
		bad := spec("g2", "a/one@2/1")
		bad.Jobs[0].Hooks = []api.Hook{hook(kind, "exec sleep 1000", 50*time.Millisecond)}
		r.sick = errors.New("check fails")
		if err := prepareAndUpdate(t, i, bad); err == nil {
			t.Fatal("an unhealthy update must fail")
		}
		if err := prepareAndUpdate(t, i, spec("g3", "a/one@3/1")); err == nil || !strings.Contains(err.Error(), string(kind)) {
			t.Errorf("%s: going on from it gives %v", kind, err)
		}
		r.sick = nil
		must(t, i.Update(t.Context(), api.Update{Generation: "g1", Back: true}, &steps{}))
		if s := i.Installed(); s.Active != "g1" || s.Interrupted {
			t.Errorf("%s: got %+v", kind, s)
		}
	}
}

func TestRollbackOfTheFirstUpdateRemovesEverything(t *testing.T) {
	t.Parallel()
	r := &recorder{running: map[ref]api.ProcessStatus{}, sick: errors.New("check fails")}
	i := newInstaller(t, t.TempDir(), r)
	if err := prepareAndUpdate(t, i, spec("g1", "a/one@1/1")); err == nil {
		t.Fatal("an unhealthy update must fail")
	}
	must(t, i.Rollback(t.Context(), api.Rollback{}, &steps{}))
	if s := i.Installed(); s.Active != "" || s.Previous != "" || s.Interrupted || len(r.running) > 0 {
		t.Errorf("got %+v, running %v", s, r.running)
	}
	if entries, err := os.ReadDir(i.path("jobs")); err != nil || len(entries) > 0 {
		t.Errorf("links stay: %v, %v", entries, err)
	}
}

func TestStoppedStaysStoppedUntilUpdate(t *testing.T) {
	t.Parallel()
	r := &recorder{running: map[ref]api.ProcessStatus{}}
	dir := t.TempDir()
	i := newInstaller(t, dir, r)
	must(t, prepareAndUpdate(t, i, spec("g1", "a/one@1/1", "b/two@1/1")))
	r.take()
	must(t, i.Stop(t.Context(), api.Stop{Next: "recreate", SkipDrain: true}, &steps{}))
	if got := r.take(); got != "stop b/two, stop a/one" {
		t.Errorf("calls %q", got)
	}
	i = newInstaller(t, dir, r) // the agent starts anew
	must(t, i.Resume(t.Context()))
	if got := r.take(); got != "" || r.expected != nil {
		t.Errorf("calls %q, expected %v", got, r.expected)
	}
	must(t, i.Update(t.Context(), api.Update{Generation: "g1"}, &steps{}))
	if got := r.take(); got != "start a/one, start b/two" {
		t.Errorf("calls %q", got)
	}
	r.running = map[ref]api.ProcessStatus{} // the VM starts anew
	must(t, i.Resume(t.Context()))
	if got := r.take(); got != "start a/one, start b/two" {
		t.Errorf("calls %q", got)
	}
}

// An operation that ended at any step, as by a crash, is continued by the same
// operation or undone by a rollback, from any mixture of generations.
func TestAnyCutIsContinuedOrUndone(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	// Every case writes and syncs some fifty files.
	must(t, flag.Set("rapid.checks", "40"))
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(parent, "")
		must(t, err)
		r := &recorder{running: map[ref]api.ProcessStatus{}}
		i := newInstaller(t, dir, r)
		draw := func(name string) api.Spec {
			var processes []string
			for _, p := range []string{"a/one", "a/two", "b/three"} {
				if rapid.Bool().Draw(rt, name+p) {
					processes = append(processes, fmt.Sprintf("%s@%d/%d", p, rapid.IntRange(1, 2).Draw(rt, "digest"), rapid.IntRange(1, 2).Draw(rt, "reload")))
				}
			}
			return spec(name, processes...)
		}
		first, second := draw("g1"), draw("g2")
		must(t, prepareAndUpdate(t, i, first))
		must(t, i.Prepare(t.Context(), second, &steps{}))
		err = i.Update(t.Context(), api.Update{Generation: "g2"}, &steps{left: rapid.IntRange(0, 13).Draw(rt, "cut")})
		if err != nil && !errors.Is(err, errCut) {
			rt.Fatal(err)
		}
		i = newInstaller(t, dir, r)
		must(t, i.Resume(t.Context()))
		want := second
		if back := rapid.Bool().Draw(rt, "back"); back && i.Installed().Previous == "g1" {
			want = first
			if err := i.Rollback(t.Context(), api.Rollback{}, &steps{left: rapid.IntRange(0, 13).Draw(rt, "cut back")}); err != nil && !errors.Is(err, errCut) {
				rt.Fatal(err)
			}
			i = newInstaller(t, dir, r)
			must(t, i.Resume(t.Context()))
			must(t, i.Rollback(t.Context(), api.Rollback{}, &steps{}))
		} else {
			must(t, i.Update(t.Context(), api.Update{Generation: "g2"}, &steps{}))
		}
		if s := i.Installed(); s.Active != want.Generation || s.Interrupted {
			rt.Fatalf("got %+v, want %s", s, want.Generation)
		}
		got := map[ref]string{}
		for k, s := range r.running {
			got[k] = string(s.State) + s.Digest + s.ReloadDigest
		}
		for _, job := range want.Jobs {
			for _, p := range job.Processes {
				k := ref{job.Name, p.Name}
				if got[k] != "running"+p.Digest+p.ReloadDigest {
					rt.Fatalf("%s is %q", k, got[k])
				}
				delete(got, k)
			}
			content, err := os.ReadFile(i.path("jobs", job.Name, "config"))
			if err != nil || string(content) != want.Generation {
				rt.Fatalf("jobs/%s/config is %q, %v", job.Name, content, err)
			}
		}
		if len(got) > 0 {
			rt.Fatalf("left over: %v", got)
		}
	})
}

func hook(kind api.HookKind, script string, timeout time.Duration) api.Hook {
	return api.Hook{Kind: kind, Command: []string{"/bin/sh", "-c", script}, TimeoutMS: timeout.Milliseconds()}
}

func TestHooksRunAtTheirMoment(t *testing.T) {
	t.Parallel()
	r := &recorder{running: map[ref]api.ProcessStatus{}}
	i := newInstaller(t, t.TempDir(), r)
	said := filepath.Join(t.TempDir(), "said")
	withHooks := func(s api.Spec) api.Spec {
		for _, kind := range []api.HookKind{api.HookPreStart, api.HookPostStart, api.HookPreStop, api.HookDrain, api.HookPostStop} {
			s.Jobs[0].Hooks = append(s.Jobs[0].Hooks, hook(kind, fmt.Sprintf(`echo "$DEPLOY_HOOK $DEPLOY_NEXT $DEPLOY_INSTANCE $PWD" >> %s`, said), time.Minute))
		}
		s.Jobs[0].Hooks = append(s.Jobs[0].Hooks, hook(api.HookCheck, `cat "$DEPLOY_STAGED/config" >> `+said+`; echo " checked" >> `+said, time.Minute))
		return s
	}
	must(t, prepareAndUpdate(t, i, withHooks(spec("g1", "a/one@1/1"))))
	s := withHooks(spec("g2", "a/one@2/1"))
	must(t, i.Prepare(t.Context(), s, &steps{}))
	must(t, i.Update(t.Context(), api.Update{Generation: "g2", Next: "recreate"}, &steps{}))
	data := i.path("data", "a")
	want := strings.Join([]string{
		"g1 checked", "pre_start  test/0 " + data, "post_start  test/0 " + data,
		"g2 checked", "pre_stop recreate test/0 " + data, "drain recreate test/0 " + data, "post_stop recreate test/0 " + data,
		"pre_start  test/0 " + data, "post_start  test/0 " + data, "",
	}, "\n")
	if got, err := os.ReadFile(said); err != nil || string(got) != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, got, want)
	}
}

func TestHookFailureSaysWhatAndWhy(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		hook   api.Hook
		want   string
		status int
		log    string
	}{
		"status":     {hook(api.HookCheck, "echo first; echo no such user >&2; exit 7", time.Minute), "hook check of job a failed (a/check exited with status 7)", 7, "no such user"},
		"signal":     {hook(api.HookCheck, "echo dying; kill -TERM $$", time.Minute), "was ended by signal TERM", -1, "dying"},
		"timeout":    {hook(api.HookCheck, "echo waiting; sleep 1000 & sleep 1000", 2*time.Second), "did not end within 2s", -1, "waiting"},
		"not a file": {api.Hook{Kind: api.HookCheck, Command: []string{"/nonexistent"}, TimeoutMS: 1000}, "no such file", 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			i := newInstaller(t, t.TempDir(), &recorder{running: map[ref]api.ProcessStatus{}})
			s := spec("g1", "a/one@1/1")
			s.Jobs[0].Hooks = []api.Hook{tc.hook}
			err := i.Prepare(t.Context(), s, &steps{})
			var failure *api.Error
			if !errors.As(err, &failure) || !strings.Contains(failure.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if failure.Process == nil || !strings.Contains(strings.Join(failure.Process.Log, "\n"), tc.log) {
				t.Fatalf("got %+v, want %q in its log", failure.Process, tc.log)
			}
			if tc.status != 0 && (failure.Process.Exit == nil || failure.Process.Exit.Status != tc.status) {
				t.Errorf("exit %+v, want status %d", failure.Process.Exit, tc.status)
			}
			if err := i.Update(t.Context(), api.Update{Generation: "g1"}, &steps{}); err == nil {
				t.Error("a generation whose check failed must not become active")
			}
		})
	}
}

func TestDrainHookIsRepeatedUntilItSucceeds(t *testing.T) {
	t.Parallel()
	i := newInstaller(t, t.TempDir(), &recorder{running: map[ref]api.ProcessStatus{}})
	s := spec("g1", "a/one@1/1")
	s.Jobs[0].Hooks = []api.Hook{hook(api.HookDrain, "test -e again || { touch again; exit 1; }", time.Minute)}
	must(t, prepareAndUpdate(t, i, s))
	must(t, prepareAndUpdate(t, i, spec("g2", "a/one@2/1")))
	if _, err := os.Stat(i.path("data", "a", "again")); err != nil {
		t.Error(err)
	}
}

func TestDrainHookSaysHowLongItTakes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		script string
		events []string // of the drain
		fails  string
	}{
		"static":     {"echo draining; echo 1", []string{"drain a", "drain a waits 1s"}, ""},
		"nothing":    {"echo done", []string{"drain a"}, ""},
		"zero":       {"echo 0", []string{"drain a"}, ""},
		"dynamic":    {"test -e again && exec echo 0; touch again; echo -1", []string{"drain a", "drain a waits 1s"}, ""},
		"both":       {"test -e again && exec echo 1; touch again; echo -1; echo aside >&2", []string{"drain a", "drain a waits 1s", "drain a waits 1s"}, ""},
		"for ever":   {"echo -1", []string{"drain a", "drain a waits 1s", "drain a waits 1s"}, "did not end within 1.5s"},
		"too long":   {"echo 1000", []string{"drain a", "drain a waits 16m40s"}, "did not end within 1.5s"},
		"no number":  {"echo 5 seconds", []string{"drain a"}, ""},
		"on another": {"echo 5 >&2", []string{"drain a"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newInstaller(t, t.TempDir(), &recorder{running: map[ref]api.ProcessStatus{}})
			s := spec("g1", "a/one@1/1")
			limit := time.Minute
			if tc.fails != "" {
				limit = 1500 * time.Millisecond
			}
			s.Jobs[0].Hooks = []api.Hook{hook(api.HookDrain, tc.script, limit)}
			must(t, prepareAndUpdate(t, i, s))
			next := spec("g2", "a/one@2/1")
			must(t, i.Prepare(t.Context(), next, &steps{}))
			report := &steps{}
			err := i.Update(t.Context(), api.Update{Generation: "g2"}, report)
			if (err != nil) != (tc.fails != "") || err != nil && !strings.Contains(err.Error(), tc.fails) {
				t.Fatalf("got %v, want %q", err, tc.fails)
			}
			var drains []string
			for _, e := range report.events {
				if strings.HasPrefix(e, "drain a") && !strings.HasPrefix(e, "drain a/") {
					drains = append(drains, e)
				}
			}
			if tc.fails == "" && !slices.Equal(drains, tc.events) || !strings.HasPrefix(strings.Join(tc.events, "|"), strings.Join(drains, "|")) {
				t.Errorf("events %q, want %q", drains, tc.events)
			}
		})
	}
}

func TestHookMayTimeOut(t *testing.T) {
	t.Parallel()
	i := newInstaller(t, t.TempDir(), &recorder{running: map[ref]api.ProcessStatus{}})
	s := spec("g1", "a/one@1/1")
	h := hook(api.HookPreStart, "sleep 1000", 100*time.Millisecond)
	h.OnTimeout = "continue"
	s.Jobs[0].Hooks = []api.Hook{h}
	must(t, prepareAndUpdate(t, i, s))
}

func TestPrepareRefusesSpecsThatLeadOut(t *testing.T) {
	t.Parallel()
	i := newInstaller(t, t.TempDir(), &recorder{running: map[ref]api.ProcessStatus{}})
	for name, edit := range map[string]func(*api.Spec){
		"generation":   func(s *api.Spec) { s.Generation = "../x" },
		"hidden":       func(s *api.Spec) { s.Generation = ".x" },
		"job":          func(s *api.Spec) { s.Jobs[0].Name = "a/b" },
		"job twice":    func(s *api.Spec) { s.Jobs = append(s.Jobs, s.Jobs[0]) },
		"file":         func(s *api.Spec) { s.Jobs[0].Files[0].Path = "../../evil" },
		"absolute":     func(s *api.Spec) { s.Jobs[0].Files[0].Path = "/etc/evil" },
		"process":      func(s *api.Spec) { s.Jobs[0].Processes[0].Name = "../x" },
		"no command":   func(s *api.Spec) { s.Jobs[0].Processes[0].Command = nil },
		"package":      func(s *api.Spec) { s.Packages = []api.Package{{Digest: "../../etc"}} },
		"hook command": func(s *api.Spec) { s.Jobs[0].Hooks = []api.Hook{{Kind: api.HookCheck}} },
	} {
		s := spec("g1", "a/one@1/1")
		edit(&s)
		var refused *api.Error
		if err := i.Prepare(t.Context(), s, &steps{}); !errors.As(err, &refused) || refused.Code != api.CodeBadRequest {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestPortsAreTestedBeforeAnything(t *testing.T) {
	t.Parallel()
	r := &recorder{running: map[ref]api.ProcessStatus{}}
	i := newInstaller(t, t.TempDir(), r)
	tcp, err := net.Listen("tcp", "127.77.0.1:0")
	must(t, err)
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", "127.77.0.1:0")
	must(t, err)
	defer udp.Close()
	free, err := net.Listen("tcp", "127.77.0.1:0")
	must(t, err)
	free.Close()
	with := func(listens ...api.Listen) api.Spec {
		s := spec("g1", "a/one@1/1")
		s.Jobs[0].Listens = listens
		return s
	}
	me := fmt.Sprintf("process %d (", os.Getpid())
	for name, tc := range map[string]struct {
		spec api.Spec
		want string
	}{
		"tcp":     {with(api.Listen{Name: "web", Network: "tcp", Address: tcp.Addr().String()}), me},
		"udp":     {with(api.Listen{Name: "dns", Network: "udp", Address: udp.LocalAddr().String()}), me},
		"twice":   {with(api.Listen{Name: "x", Network: "tcp", Address: free.Addr().String()}, api.Listen{Name: "y", Network: "tcp", Address: free.Addr().String()}), "opens it, too"},
		"foreign": {with(api.Listen{Name: "x", Network: "tcp", Address: "203.0.113.7:80"}), "cannot assign"},
		"network": {with(api.Listen{Name: "x", Network: "sctp", Address: "127.0.0.1:80"}), "neither"},
	} {
		err := i.Prepare(t.Context(), tc.spec, &steps{})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
	must(t, i.Prepare(t.Context(), with(api.Listen{Name: "x", Network: "tcp", Address: free.Addr().String()}), &steps{}))
	// What a process of this instance holds is no obstacle.
	r.running[ref{"a", "one"}] = api.ProcessStatus{Job: "a", Name: "one", State: api.ProcessRunning, PID: os.Getpid(), Generation: "g1"}
	must(t, i.Prepare(t.Context(), with(api.Listen{Name: "web", Network: "tcp", Address: tcp.Addr().String()}), &steps{}))
}

func TestMissingProgramNamesItsPackages(t *testing.T) {
	t.Parallel()
	i := newInstaller(t, t.TempDir(), &recorder{running: map[ref]api.ProcessStatus{}})
	s := spec("g1", "a/one@1/1")
	s.SystemPackages = []api.SystemPackage{{Name: "shell", Program: "sh"}, {Name: "nginx", Program: "no-such-nginx", Apt: []string{"nginx-light"}}}
	var missing *api.Error
	if err := i.Prepare(t.Context(), s, &steps{}); !errors.As(err, &missing) || missing.Code != api.CodeSystemPackage ||
		!strings.Contains(missing.Message, "no-such-nginx") || !strings.Contains(missing.Message, "apt-get install nginx-light") {
		t.Errorf("got %v", err)
	}
}

func TestLostGenerationBlocksNothing(t *testing.T) {
	t.Parallel()
	r := &recorder{running: map[ref]api.ProcessStatus{}}
	dir := t.TempDir()
	i := newInstaller(t, dir, r)
	must(t, prepareAndUpdate(t, i, spec("g1", "a/one@1/1")))
	must(t, os.RemoveAll(i.path("generations", "g1")))
	i = newInstaller(t, dir, r)
	if err := i.Resume(t.Context()); err == nil {
		t.Error("a lost generation must be told")
	}
	r.take()
	must(t, prepareAndUpdate(t, i, spec("g2", "a/one@2/1")))
	if got := r.take(); got != "drain a/one, stop a/one, start a/one" {
		t.Errorf("calls %q", got)
	}
}

// Files belong to whom the job's processes run as, where the agent may say so.
func TestFilesBelongToTheProcessesUser(t *testing.T) {
	t.Parallel()
	i := newInstaller(t, t.TempDir(), &recorder{running: map[ref]api.ProcessStatus{}})
	s := spec("g1", "a/one@1/1", "b/two@1/1")
	s.Jobs[1].Processes[0].User = "nobody"
	must(t, i.Prepare(t.Context(), s, &steps{}))
	owner := func(job string) string {
		info, err := os.Stat(i.path("generations", "g1", "jobs", job, "config"))
		must(t, err)
		return strconv.Itoa(int(info.Sys().(*syscall.Stat_t).Uid))
	}
	want := strconv.Itoa(os.Getuid())
	if got := owner("a"); got != want {
		t.Errorf("a's file belongs to %s, want %s", got, want)
	}
	if os.Getuid() == 0 {
		nobody, err := user.Lookup("nobody")
		must(t, err)
		want = nobody.Uid
	}
	if got := owner("b"); got != want {
		t.Errorf("b's file belongs to %s, want %s", got, want)
	}
}
