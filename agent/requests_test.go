package agent_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// What operators ask for, over both transports: stop, start, restart, errands,
// post_deploy.

func script(kind api.HookKind, name, text string) api.Hook {
	return api.Hook{Kind: kind, Name: name, Command: []string{"/bin/sh", "-c", text, name}, TimeoutMS: patience.Milliseconds()}
}

// withErrands is a job with one process and these hooks.
func withErrands(hooks ...api.Hook) api.Job {
	job := jobOf("app", sleeper("main", "d1"))
	job.Hooks = hooks
	return job
}

// heard describes what an operation says.
type heard struct{ stdout, stderr bytes.Buffer }

func (h *heard) take(o api.Output) {
	if o.Stream == api.Stdout {
		h.stdout.Write(o.Data)
	} else {
		h.stderr.Write(o.Data)
	}
}

func (f *fixture) hear(body any) (*heard, error) {
	h := &heard{}
	return h, f.c.Stream(f.context(), f.submission(body), nil, h.take)
}

func TestErrand(t *testing.T) {
	overBoth(t, func(f *fixture) {
		f.refused(f.do(api.Errand{Job: "app", Name: "greet"}), api.CodeConflict, "nothing is installed")
		f.apply(specOf("g1", withErrands(
			script(api.HookErrand, "greet", `echo "hello $1 $2 from $DEPLOY_INSTANCE $DEPLOY_HOOK $COLOR"; echo aside >&2`),
			script(api.HookErrand, "fail", `echo working; echo no space >&2; exit 3`),
			script(api.HookPostDeploy, "", `echo deployed`),
		)))
		got, err := f.hear(api.Errand{Job: "app", Name: "greet", Arguments: []api.Argument{"a b", "*"}, Env: map[string]string{"COLOR": "red"}})
		if err != nil || got.stdout.String() != "hello a b * from web/0 errand red\n" || got.stderr.String() != "aside\n" {
			f.Errorf("said %q and %q: %v", got.stdout.String(), got.stderr.String(), err)
		}
		got, err = f.hear(api.Errand{Job: "app", Name: "fail"})
		failed := f.refused(err, api.CodeFailed, "errand fail of job app", "status 3")
		if p := failed.Process; p == nil || p.Job != "app" || p.Name != "errand-fail" || p.Exit.Status != 3 || !slices.Contains(p.Log, "no space") {
			f.Errorf("got %+v", p)
		}
		if got.stdout.String() != "working\n" || got.stderr.String() != "no space\n" {
			f.Errorf("said %q and %q", got.stdout.String(), got.stderr.String())
		}
		chunk, err := f.c.Log(f.context(), api.LogRequest{Job: "app", Process: "errand-fail"})
		if err != nil || !strings.Contains(string(chunk.Data), "working\n") {
			f.Errorf("logged %q: %v", chunk.Data, err)
		}
		if got, err := f.hear(api.PostDeploy{}); err != nil || got.stdout.String() != "deployed\n" {
			f.Errorf("said %q: %v", got.stdout.String(), err)
		}
		f.refused(f.do(api.Errand{Job: "app", Name: "post_deploy"}), api.CodeNotFound, "app/greet, app/fail")
		f.refused(f.do(api.Errand{Job: "app", Name: "greet", Env: map[string]string{"DEPLOY_INSTANCE": "x"}}), api.CodeBadRequest, "DEPLOY_INSTANCE")
		if pid := f.pids()["app/main"]; pid == 0 {
			f.Error("an errand ended the process")
		}

		// The same op_id is the same run, and says the same.
		counter := filepath.Join(f.TempDir(), "counter")
		f.apply(specOf("g2", withErrands(script(api.HookErrand, "count", `echo once | tee -a `+counter))))
		s := f.submission(api.Errand{Job: "app", Name: "count"})
		for range 2 {
			again := &heard{}
			if err := f.c.Stream(f.context(), s, nil, again.take); err != nil || again.stdout.String() != "once\n" {
				f.Errorf("said %q: %v", again.stdout.String(), err)
			}
		}
		if ran, err := os.ReadFile(counter); err != nil || string(ran) != "once\n" {
			f.Errorf("ran %q: %v", ran, err)
		}
	})
}

func TestErrandSaysMuch(t *testing.T) {
	overBoth(t, func(f *fixture) {
		f.apply(specOf("g1", withErrands(
			script(api.HookErrand, "some", `i=0; while [ $i -lt 6000 ]; do printf "%0100d\\n" $i; i=$((i+1)); done`),
			script(api.HookErrand, "more", `head -c 10000000 /dev/zero`))))
		var want bytes.Buffer
		for i := range 6000 {
			fmt.Fprintf(&want, "%0100d\n", i)
		}
		got, err := f.hear(api.Errand{Job: "app", Name: "some"})
		if err != nil || sha256.Sum256(got.stdout.Bytes()) != sha256.Sum256(want.Bytes()) || got.stderr.Len() > 0 {
			f.Errorf("%d bytes arrived of %d: %v", got.stdout.Len(), want.Len(), err)
		}
		got, err = f.hear(api.Errand{Job: "app", Name: "more"})
		if err != nil || got.stdout.Len() != api.MaxOutput || !strings.Contains(got.stderr.String(), "the rest is in the log") {
			f.Errorf("%d bytes arrived, and %q: %v", got.stdout.Len(), got.stderr.String(), err)
		}
		info, err := os.Stat(filepath.Join(f.agent.Dir, "log", "app", "errand-more.log"))
		if err != nil || info.Size() < 10000000 {
			f.Errorf("the log: %v, %v", info, err)
		}
	})
}

// until the errand has said something.
func (f *fixture) saysSomething(opID string) {
	f.Helper()
	var from int64
	f.until("the errand says something", func() bool {
		p, err := f.c.Wait(f.context(), api.WaitRequest{OpID: opID, MaxMS: 1000, Output: &from})
		return err == nil && len(p.Output) > 0
	})
}

func TestErrandEndsInTime(t *testing.T) {
	overBoth(t, func(f *fixture) {
		// What it has started goes with it, also out of its process group.
		f.apply(specOf("g1", withErrands(script(api.HookErrand, "hang", `echo begun; setsid sleep 1000 & sleep 1000`))))
		before := len(f.agent.Processes())
		f.refused(f.do(api.Errand{Job: "app", Name: "hang", TimeoutMS: 200}), api.CodeFailed, "did not end within 200ms")
		f.until("its processes have ended", func() bool { return len(f.agent.Processes()) == before })

		s := f.submission(api.Errand{Job: "app", Name: "hang"})
		_, err := f.c.Submit(f.context(), s)
		f.must(err)
		f.saysSomething(s.OpID)
		cancel := api.CancelRequest{DeploymentID: deployment, Instance: instance, Epoch: f.epoch, OpID: s.OpID}
		for _, wrong := range []struct {
			edit func(*api.CancelRequest)
			code api.Code
		}{
			{func(r *api.CancelRequest) { r.OpID = "unknown" }, api.CodeNotFound},
			{func(r *api.CancelRequest) { r.Epoch = 0 }, api.CodeStaleEpoch},
			{func(r *api.CancelRequest) { r.DeploymentID = "dep-2" }, api.CodeOtherDeployment},
		} {
			bad := cancel
			wrong.edit(&bad)
			_, err := f.c.Cancel(f.context(), bad)
			f.refused(err, wrong.code)
		}
		_, err = f.c.Cancel(f.context(), cancel)
		f.must(err)
		f.refused(f.c.Do(f.context(), s, nil), api.CodeCancelled)
		f.until("its processes have ended", func() bool { return len(f.agent.Processes()) == before })
		ended, err := f.c.Cancel(f.context(), cancel) // no error, and no other end
		if err != nil || ended.State != api.OperationFailed || ended.Error.Code != api.CodeCancelled {
			f.Errorf("got %+v, %v", ended, err)
		}

		// An agent that was killed ends what it finds of it.
		s = f.submission(api.Errand{Job: "app", Name: "hang"})
		_, err = f.c.Submit(f.context(), s)
		f.must(err)
		f.saysSomething(s.OpID)
		f.agent.Kill()
		f.agent.Run()
		f.until("the agent is back on its transport", func() bool { _, err := f.c.Inventory(f.context()); return err == nil })
		got := &heard{}
		f.refused(f.c.Stream(f.context(), s, nil, got.take), api.CodeInterrupted)
		if got.stdout.String() != "begun\n" {
			f.Errorf("said %q", got.stdout.String())
		}
		if now := f.agent.Processes(); len(now) != before {
			f.Errorf("%d processes run, %d did before", len(now), before)
		}
	})
}

func TestUpdateIsNotCancelled(t *testing.T) {
	overBoth(t, func(f *fixture) {
		gate := filepath.Join(f.TempDir(), "gate")
		job := withErrands(script(api.HookPreStart, "", "until test -e "+gate+"; do sleep 0.05; done"))
		f.must(f.prepare(specOf("g1", job)))
		update := f.submission(api.Update{Generation: "g1", DeadlineMS: patience.Milliseconds()})
		_, err := f.c.Submit(f.context(), update)
		f.must(err)
		_, err = f.c.Cancel(f.context(), api.CancelRequest{DeploymentID: deployment, Instance: instance, Epoch: f.epoch, OpID: update.OpID})
		f.refused(err, api.CodeConflict, "half changed")
		f.must(os.WriteFile(gate, nil, 0o600))
		f.must(f.c.Do(f.context(), update, nil))
	})
}

func TestHeldInstanceStaysStopped(t *testing.T) {
	overBoth(t, func(f *fixture) {
		said := filepath.Join(f.TempDir(), "said")
		tell := func(kind api.HookKind) api.Hook { return script(kind, "", `echo "$DEPLOY_HOOK $DEPLOY_NEXT" >> `+said) }
		job := func(digest string) []api.Job {
			once := jobOf("once")
			once.Hooks = []api.Hook{tell(api.HookPreStart), tell(api.HookPostDeploy)}
			app := jobOf("app", sleeper("main", digest))
			app.Hooks = []api.Hook{tell(api.HookPreStop), tell(api.HookPostStop), tell(api.HookPreStart), tell(api.HookPostStart)}
			return []api.Job{app, once}
		}
		took := func() string {
			text, err := os.ReadFile(said)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				f.Fatal(err)
			}
			f.must(os.WriteFile(said, nil, 0o600))
			return strings.Join(strings.Fields(string(text)), " ")
		}
		f.apply(specOf("g1", job("d1")...))
		took()
		f.must(f.do(api.Stop{Next: api.NextStop, Hold: true}))
		if got := took(); got != "pre_stop stop post_stop stop" {
			f.Errorf("hooks %q", got)
		}
		held := func(generation string) {
			f.Helper()
			if i := f.inventory(); !i.Held || i.State != api.InstanceStopped || i.Interrupted || i.Active != generation || len(f.pids()) > 0 {
				f.Errorf("got %+v", i)
			}
		}
		held("g1")
		f.apply(specOf("g2", job("d2")...))
		f.must(f.update("g2")) // nothing to do
		held("g2")
		f.must(f.do(api.PostDeploy{}))
		f.refused(f.do(api.RestartProcesses{}), api.CodeConflict, "start it")
		f.must(f.do(api.Rollback{DeadlineMS: patience.Milliseconds()}))
		held("g1")
		f.apply(specOf("g2", job("d2")...))
		f.agent.Kill()
		f.agent.Run()
		f.until("the agent is back on its transport", func() bool { _, err := f.c.Inventory(f.context()); return err == nil })
		held("g2")
		if got := took(); got != "" {
			f.Errorf("hooks %q", got)
		}
		f.must(f.do(api.Start{MinHealthyMS: 50, DeadlineMS: patience.Milliseconds()}))
		if got := took(); got != "pre_start pre_start post_start" {
			f.Errorf("hooks %q", got)
		}
		i := f.inventory()
		if i.Held || i.State != api.InstanceRunning || i.Interrupted || i.Active != "g2" || f.pids()["app/main"] == 0 {
			f.Errorf("got %+v", i)
		}
		pids := f.pids()
		f.must(f.do(api.Start{DeadlineMS: patience.Milliseconds()})) // all runs
		if after := f.pids(); fmt.Sprint(after) != fmt.Sprint(pids) || took() != "" {
			f.Errorf("pids %v, then %v", pids, after)
		}
	})
}

// A new VM of a stopped instance is told of it.
func TestUpdateHolds(t *testing.T) {
	overBoth(t, func(f *fixture) {
		f.must(f.prepare(specOf("g1", jobOf("app", sleeper("main", "d1")))))
		f.must(f.do(api.Update{Generation: "g1", MinHealthyMS: 50, DeadlineMS: patience.Milliseconds(), Hold: true}))
		if i := f.inventory(); !i.Held || i.Active != "g1" || len(f.pids()) > 0 {
			f.Errorf("got %+v", i)
		}
		f.must(f.do(api.Start{DeadlineMS: patience.Milliseconds()}))
		f.must(f.do(api.Update{Generation: "g1", MinHealthyMS: 50, DeadlineMS: patience.Milliseconds(), Hold: true}))
		if i := f.inventory(); !i.Held || len(f.pids()) > 0 {
			f.Errorf("got %+v", i)
		}
	})
}

func TestRestart(t *testing.T) {
	overBoth(t, func(f *fixture) {
		said := filepath.Join(f.TempDir(), "said")
		job := func(name string, processes ...api.Process) api.Job {
			j := jobOf(name, processes...)
			for _, kind := range []api.HookKind{api.HookPreStop, api.HookDrain, api.HookPostStop, api.HookPreStart, api.HookPostStart} {
				j.Hooks = append(j.Hooks, script(kind, "", `echo "$DEPLOY_JOB:$DEPLOY_HOOK:$DEPLOY_NEXT" >> `+said))
			}
			return j
		}
		f.refused(f.do(api.RestartProcesses{}), api.CodeConflict, "apply first")
		f.apply(specOf("g1", job("one", sleeper("a", "d1"), sleeper("b", "d1")), job("two", sleeper("c", "d1"))))
		for _, tc := range []struct {
			restart api.RestartProcesses
			changed []string
			hooks   string
		}{
			{api.RestartProcesses{Job: "one", Process: "b"}, []string{"one/b"},
				"one:pre_stop:restart one:drain:restart one:post_stop:restart one:pre_start: one:post_start:"},
			{api.RestartProcesses{Job: "two", SkipDrain: true}, []string{"two/c"},
				"two:post_stop:restart two:pre_start: two:post_start:"},
			{api.RestartProcesses{SkipDrain: true}, []string{"one/a", "one/b", "two/c"},
				"two:post_stop:restart one:post_stop:restart one:pre_start: two:pre_start: one:post_start: two:post_start:"},
		} {
			f.must(os.WriteFile(said, nil, 0o600))
			before := f.pids()
			tc.restart.MinHealthyMS, tc.restart.DeadlineMS = 50, patience.Milliseconds()
			s := f.submission(tc.restart)
			f.must(f.c.Do(f.context(), s, nil))
			f.must(f.c.Do(f.context(), s, nil)) // once
			after := f.pids()
			for name, pid := range before {
				if changed := slices.Contains(tc.changed, name); after[name] == 0 || (after[name] != pid) != changed {
					f.Errorf("%+v: %s had pid %d and has %d", tc.restart, name, pid, after[name])
				}
			}
			hooks, err := os.ReadFile(said)
			if got := strings.Join(strings.Fields(string(hooks)), " "); err != nil || got != tc.hooks {
				f.Errorf("%+v: hooks\n%s, want\n%s: %v", tc.restart, got, tc.hooks, err)
			}
			if i := f.inventory(); i.Interrupted || i.State != api.InstanceRunning || i.Active != "g1" {
				f.Errorf("got %+v", i)
			}
		}
		f.refused(f.do(api.RestartProcesses{Job: "three"}), api.CodeNotFound, "one/a, one/b, two/c")
	})
}

// A takeover reaches errands too: the next step is refused, and another
// deployer may end one that hangs.
func TestErrandAndTakeOver(t *testing.T) {
	overBoth(t, func(f *fixture) {
		f.apply(specOf("g1", withErrands(script(api.HookErrand, "hang", `echo begun; sleep 1000`))))
		s := f.submission(api.Errand{Job: "app", Name: "hang"})
		_, err := f.c.Submit(f.context(), s)
		f.must(err)
		f.saysSomething(s.OpID)
		f.epoch = 2
		began := time.Now()
		_, err = f.c.Submit(f.context(), f.submission(api.Watch{}))
		f.refused(err, api.CodeConflict, s.OpID, "errand")
		_, err = f.c.Cancel(f.context(), api.CancelRequest{DeploymentID: deployment, Instance: instance, Epoch: 2, OpID: s.OpID})
		f.must(err)
		f.refused(f.c.Do(f.context(), s, nil), api.CodeCancelled)
		f.must(f.do(api.Watch{DeadlineMS: patience.Milliseconds()}))
		if took := time.Since(began); took > patience {
			f.Errorf("it took %s", took)
		}
	})
}

// What only looks or fetches for a deployer that was taken over from does not
// hold up the next one.
func TestTakeOverBreaksOffWhatOnlyLooks(t *testing.T) {
	overBoth(t, func(f *fixture) {
		f.apply(specOf("g1", jobOf("app", sleeper("main", "d1"))))
		hangs := jobOf("app", sleeper("main", "d1"))
		hangs.Hooks = []api.Hook{script(api.HookCheck, "", "sleep 1000")}
		for _, body := range []any{
			api.Watch{MinHealthyMS: time.Hour.Milliseconds(), DeadlineMS: 2 * time.Hour.Milliseconds()},
			api.Prepare{Spec: specOf("g2", hangs)},
		} {
			old := f.submission(body)
			_, err := f.c.Submit(f.context(), old)
			f.must(err)
			_, err = f.c.Submit(f.context(), f.submission(api.PostDeploy{})) // of the same deployer
			f.refused(err, api.CodeConflict, old.OpID)
			if p, err := f.c.Wait(f.context(), api.WaitRequest{OpID: old.OpID}); err != nil || p.Operation.State != api.OperationRunning {
				f.Errorf("got %+v, %v", p.Operation, err)
			}
			f.epoch++
			f.until("the next deployer is heard", func() bool {
				_, err := f.c.Submit(f.context(), f.submission(api.PostDeploy{}))
				return err == nil
			})
			f.refused(f.c.Do(f.context(), old, nil), api.CodeStaleEpoch)
		}
	})
}
