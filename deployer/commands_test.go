package deployer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/deployer/internal/credentials"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/infra"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

func yes(*plan.Plan) (bool, error) { return true, nil }

// apply applies with a greeting and expects so many changed instances.
func (c *cluster) apply(t *testing.T, greeting string, changes int, targets ...string) *Result {
	t.Helper()
	c.vars["greeting"] = greeting
	n := 0
	result, err := c.deployer(t).Apply(t.Context(), ApplyRequest{Targets: targets, Approve: func(p *plan.Plan) (bool, error) {
		n = len(p.Changes())
		return true, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if n != changes {
		t.Fatalf("greeting %s changed %d instances, want %d", greeting, n, changes)
	}
	return result
}

// owed are the instances that a plan would change, and those that it would leave.
func (c *cluster) owed(t *testing.T) (changes, left []string) {
	t.Helper()
	for _, x := range c.plan(t).Instances {
		if x.Action != plan.None {
			changes = append(changes, x.Instance)
		} else if x.Owed != "" {
			left = append(left, x.Instance)
		}
	}
	return changes, left
}

func (c *cluster) history(t *testing.T) []HistoryEntry {
	t.Helper()
	h, err := c.deployer(t).History()
	if err != nil {
		t.Fatal(err)
	}
	return h.Entries
}

func (c *cluster) store() state.Store { return state.Store{Dir: filepath.Join(c.stateDir, "scale")} }

func TestTargetsAndIgnored(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 10) // nats/0, lb/0, four routers, four hellos
	ctx := t.Context()
	if changed, err := c.deployer(t).Ignore(ctx, []string{"hello/3", "router"}); err != nil || len(changed) != 5 {
		t.Fatalf("ignored %v: %v", changed, err)
	}
	if changed, err := c.deployer(t).Unignore(ctx, []string{"router", "hello/0"}); err != nil || len(changed) != 4 {
		t.Fatalf("no longer ignored %v: %v", changed, err)
	}
	if _, err := c.deployer(t).Ignore(ctx, []string{"helo/3"}); err == nil || !strings.Contains(err.Error(), `did you mean "hello/`) {
		t.Errorf("an instance that is not there: %v", err)
	}
	c.apply(t, "One", 1, "hello/1", "router")
	changes, left := c.owed(t)
	if !slices.Equal(changes, []string{"hello/0", "hello/2"}) || !slices.Equal(left, []string{"hello/3"}) {
		t.Errorf("after hello/1: owed to %v, left %v", changes, left)
	}
	c.apply(t, "One", 2)
	if result := c.apply(t, "One", 0); result.Changed {
		t.Errorf("there was something to do: %+v", result)
	}
	if _, err := c.deployer(t).Restart(ctx, OperateRequest{Targets: []string{"hello/3"}, Approve: yes}); err == nil || !strings.Contains(err.Error(), "unignore") {
		t.Errorf("restarted what is ignored: %v", err)
	}
	if _, err := c.deployer(t).Destroy(ctx, DestroyRequest{Approve: yes}); err == nil || !strings.Contains(err.Error(), "hello/3") {
		t.Errorf("destroyed what is ignored: %v", err)
	}
	if _, err := c.deployer(t).Unignore(ctx, []string{"hello/3"}); err != nil {
		t.Fatal(err)
	}
	c.apply(t, "One", 1)
}

func TestOperations(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 10)
	ctx := t.Context()
	operate := func(do func(*Deployer, context.Context, OperateRequest) (*Result, error), want string, targets ...string) {
		t.Helper()
		result, err := do(c.deployer(t), ctx, OperateRequest{Targets: targets, Approve: yes})
		if err != nil {
			t.Fatal(err)
		}
		if result.Summary != want {
			t.Errorf("got %q, want %q", result.Summary, want)
		}
	}
	held := func() (out []string) {
		s, err := c.deployer(t).Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range s.Instances {
			if x.Held {
				out = append(out, x.ID)
			}
		}
		return out
	}
	operate((*Deployer).Restart, "Restarted hello/0, hello/1, hello/2, hello/3", "hello")
	operate((*Deployer).Stop, "Stopped hello/1, router/0", "hello/1", "router/0")
	operate((*Deployer).Stop, "nothing to stop", "hello/1", "router/0")
	if got := held(); !slices.Equal(got, []string{"hello/1", "router/0"}) {
		t.Errorf("held are %v", got)
	}
	if changes, _ := c.owed(t); changes != nil {
		t.Errorf("what an operator has stopped is owed something: %v", changes)
	}
	if _, err := c.deployer(t).Restart(ctx, OperateRequest{Targets: []string{"hello"}, Approve: yes}); err == nil || !strings.Contains(err.Error(), "deploy start") {
		t.Errorf("restarted what was stopped: %v", err)
	}
	operate((*Deployer).Start, "Started hello/1", "hello")
	operate((*Deployer).Start, "Started router/0", "router", "hello")
	if got := held(); got != nil {
		t.Errorf("held are %v", got)
	}
	if _, err := c.deployer(t).Stop(ctx, OperateRequest{Targets: []string{"hello"}, Approve: func(*plan.Plan) (bool, error) { return false, nil }}); !errors.Is(err, ErrNotApproved) {
		t.Errorf("stopped without approval: %v", err)
	}
	if _, err := c.deployer(t).Pause(ctx); !errors.Is(err, ErrNothingRuns) {
		t.Errorf("paused nothing: %v", err)
	}
	var what []string
	for _, e := range c.history(t) {
		if e.Result != "done" {
			t.Errorf("%+v", e)
		}
		what = append(what, e.What)
	}
	want := []string{"restart hello", "stop hello/1, router/0", "start hello", "start router, hello"}
	if !slices.Equal(what, want) {
		t.Errorf("history tells %q, want %q", what, want)
	}
}

func TestRollback(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 10)
	ctx := t.Context()
	rollback := func(revision int) (*Result, error) {
		return c.deployer(t).Rollback(ctx, RollbackRequest{Revision: revision, Approve: yes})
	}
	if _, err := rollback(0); err == nil || !strings.Contains(err.Error(), "nothing to return to") {
		t.Errorf("without a revision: %v", err)
	}
	c.apply(t, "One", 4)
	if _, err := rollback(0); err == nil || !strings.Contains(err.Error(), "no earlier one") {
		t.Errorf("with one revision: %v", err)
	}
	c.apply(t, "Two", 4)

	diff, err := c.deployer(t).Diff(1, 2)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(diff.Plan.Changes()); n != 4 || !strings.Contains(diff.Plan.Changes()[0].Files[0].Diff, "+greeting: \"Two\"") {
		t.Errorf("between the revisions: %d changes, %+v", n, diff.Plan.Changes())
	}
	if diff, err := c.deployer(t).Diff(2, 0); err != nil || !diff.Plan.Empty() {
		t.Errorf("from the last revision to the manifest: %+v, %v", diff, err)
	}

	// What was done last was only part of an apply: it is taken back first.
	c.apply(t, "Three", 1, "hello/2")
	manifest, err := os.ReadFile(c.manifest)
	if err != nil {
		t.Fatal(err)
	}
	// A manifest that cannot be applied does not keep from going back.
	if err := os.WriteFile(c.manifest, append(manifest, "\ngroup \"broken\" {\n  job \"none\" {}\n}\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	// The journal is history only.
	if err := os.Remove(filepath.Join(c.store().Dir, "journal.jsonl")); err != nil {
		t.Fatal(err)
	}
	if result, err := rollback(0); err != nil || result.Summary != "Rolled back to revision 2" {
		t.Fatalf("%+v, %v", result, err)
	}
	if result, err := rollback(0); err != nil || result.Summary != "Rolled back to revision 1" {
		t.Fatalf("%+v, %v", result, err)
	}
	if result, err := rollback(1); err != nil || result.Changed {
		t.Fatalf("again: %+v, %v", result, err)
	}
	if err := os.WriteFile(c.manifest, manifest, 0o600); err != nil {
		t.Fatal(err)
	}
	c.vars["greeting"] = "One"
	c.noop(t)
	if _, err := rollback(9); err == nil || !strings.Contains(err.Error(), "kept are 1, 2, 3") {
		t.Errorf("a revision that is not kept: %v", err)
	}
	var what []string
	for _, e := range c.history(t) {
		what = append(what, e.What+" "+e.Result)
	}
	want := []string{"apply done", "apply done", "rollback to revision 2 done", "rollback to revision 1 done"}
	if !slices.Equal(what, want) {
		t.Errorf("history tells %q, want %q", what, want)
	}
}

// A pass of a rotation makes other generations of the same revision, and an apply the
// next one. Ten are kept.
func TestPassesMakeNoRevision(t *testing.T) {
	c := newCluster(t, 10)
	revisions := func() []Revision {
		t.Helper()
		r, err := c.deployer(t).StateFolder().Revisions()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	c.apply(t, "One", 4)
	pass := func() {
		t.Helper()
		d := c.deployer(t)
		if err := changeCA(t.Context(), d, "pass", func(*credentials.Credentials) error { return nil }); err != nil {
			t.Fatal(err)
		}
		x, err := d.load()
		if err != nil {
			t.Fatal(err)
		}
		defer x.fleet.Close()
		wanted, err := x.desired.Render(nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range wanted {
			wanted[i].Spec.Generation += "-pass"
		}
		if err := x.keepRevision(wanted, true); err != nil {
			t.Fatal(err)
		}
	}
	pass()
	if r := revisions(); len(r) != 1 || !strings.HasSuffix(r[0].Generations["hello/0"], "-pass") {
		t.Errorf("after a pass: %+v", r)
	}
	c.vars["greeting"] = "Two" // a pass that brings another manifest's values is a revision
	pass()
	if r := revisions(); len(r) != 2 || r[1].Number != 2 {
		t.Errorf("after a pass with another value: %+v", r)
	}
	for i := range state.KeptRevisions {
		c.apply(t, fmt.Sprint("Greeting ", i), 4)
	}
	if r := revisions(); len(r) != state.KeptRevisions || r[0].Number != 3 {
		t.Errorf("%d revisions are kept, the first is %+v", len(r), r[0])
	}
}

// Whatever is done is done the same without the journal.
func TestJournalIsHistoryOnly(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 10)
	c.apply(t, "One", 2, "hello/0", "hello/1")
	c.vars["greeting"] = "Two"
	planned := func() string {
		data, err := json.Marshal(c.plan(t))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	before := planned()
	if err := os.Remove(filepath.Join(c.store().Dir, "journal.jsonl")); err != nil {
		t.Fatal(err)
	}
	if after := planned(); after != before {
		t.Errorf("another plan without the journal:\n%s\n%s", before, after)
	}
	c.apply(t, "Two", 4)
	c.noop(t)
}

func TestSavedPlanRefusesAnotherWorld(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 10)
	c.vars["greeting"] = "One"
	// As SavePlan and Apply do, without the engine.
	look := func() (*deployment, comparison) {
		t.Helper()
		r, err := c.deployer(t).load()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.fleet.Close)
		p, err := r.compare(t.Context(), infra.Plan{}, fleet.Quick)
		if err != nil {
			t.Fatal(err)
		}
		return r, p
	}
	r, p := look()
	w, err := r.world(p)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "next.plan")
	saved, err := c.deployer(t).source.Save(r.Session, w, p.plan)
	if err != nil {
		t.Fatal(err)
	}
	if err := saved.Write(file); err != nil {
		t.Fatal(err)
	}
	if !IsPlan(file) || IsPlan(c.manifest) {
		t.Error("a plan and a manifest are not told apart")
	}
	data, err := os.ReadFile(file)
	if err != nil || strings.Contains(string(data), r.Secrets.Values["nats"]["value"]) {
		t.Errorf("the plan holds a secret: %v", err)
	}
	if saved, err = OpenPlan(file); err != nil {
		t.Fatal(err)
	}
	moved := func(wants ...string) {
		t.Helper()
		r, p := look()
		w, err := r.world(p)
		if err == nil {
			err = saved.Moved(w, p.plan, r.Store, r.fleet.Reason)
		}
		if len(wants) == 0 {
			if err != nil {
				t.Errorf("the same world: %v", err)
			}
			return
		}
		if !errors.Is(err, ErrMoved) {
			t.Fatalf("it is applied all the same: %v", err)
		}
		for _, want := range wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("it does not tell %q: %v", want, err)
			}
		}
	}
	moved()
	c.vars["greeting"] = "Two"
	moved(`the variable "greeting"`)
	c.vars["greeting"] = "One"
	manifest, err := os.ReadFile(c.manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.manifest, append(manifest, "# a comment\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	moved(c.manifest + " changed")
	if err := os.WriteFile(c.manifest, manifest, 0o600); err != nil {
		t.Fatal(err)
	}
	moved()
	if _, err := c.deployer(t).Stop(t.Context(), OperateRequest{Targets: []string{"router/1"}, Approve: yes}); err != nil {
		t.Fatal(err)
	}
	moved("stop router/1 by", "router/1 was stopped or started by an operator")
}

// A run that another one takes over from does nothing more.
func TestSupersededRunDoesNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 10)
	c.vars["greeting"] = "One"
	first := c.deployer(t)
	step := 0
	first.config.Report = func(e Event) {
		if e.Phase != PhaseRollout || step > 0 {
			return
		}
		step++ // it has begun, and nothing was updated
		vars := map[string]string{"port": c.vars["port"], "greeting": "Two"}
		second := (&cluster{c.manifest, c.stateDir, c.programs, vars, nil}).deployer(t)
		second.config.Takeover = true
		if _, err := second.Apply(t.Context(), ApplyRequest{Approve: yes}); err != nil {
			t.Errorf("the second run: %v", err)
		}
	}
	if _, err := first.Apply(t.Context(), ApplyRequest{Approve: yes}); !errors.Is(err, ErrSuperseded) {
		t.Errorf("the first run ended with %v", err)
	}
	if step == 0 {
		t.Fatal("nobody took over")
	}
	c.vars["greeting"] = "Two"
	c.noop(t)
}
