package deployer

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

// crashLoops makes an instance fail as a crash loop does.
func crashLoops(in *api.Inventory) {
	in.State, in.Reasons = api.InstanceFailing, []string{"hello: exited with status 9"}
	in.Processes[0].State, in.Processes[0].PID, in.Processes[0].Reason = api.ProcessBackoff, 0, "exited with status 9"
}

// What fails is not as it shall be, although its files and digests are.
func TestGreenMeansHealthy(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 10)
	ctx := t.Context()
	if s, err := c.deployer(t).Status(ctx); err != nil || !s.Healthy() {
		t.Fatalf("healthy, and status says %+v, %v", s, err)
	}
	c.agents["hello/1"].Lie(crashLoops)
	p := c.surveyed(t)
	if len(p.Failing) != 1 || p.Failing[0].Instance != "hello/1" || !p.Failing[0].Restartable || p.Failing[0].Reasons[0] != "hello: exited with status 9" || !p.Empty() {
		t.Errorf("plan: %+v", p.Failing)
	}
	if s, err := c.deployer(t).Status(ctx); err != nil || s.Healthy() {
		t.Errorf("status is green: %v", err)
	}

	// Its end is repeated: the apply says so, and is not green.
	c.agents["hello/1"].Fail(api.KindRestart, &api.Error{Code: api.CodeFailed, Message: "not healthy: exited with status 9", Process: &api.ProcessFailure{Job: "hello", Name: "hello", Log: []string{"no database"}}})
	asked := 0
	result, err := c.deployer(t).Apply(ctx, ApplyRequest{Approve: func(p *plan.Plan) (bool, error) {
		asked++
		return len(p.Failing) == 1 && p.Empty(), nil
	}})
	var failed *api.Error
	if !errors.Is(err, ErrFailing) || !errors.As(err, &failed) || failed.Process == nil || !strings.Contains(err.Error(), "hello/1") {
		t.Errorf("apply: %v", err)
	}
	if asked != 1 || result == nil || len(result.Failing) != 1 || strings.Contains(result.Summary, "matches the manifest") {
		t.Errorf("asked %d times, %+v", asked, result)
	}

	// A restart helps.
	c.agents["hello/1"].Fail(api.KindRestart, nil)
	if result := c.apply(t, "Hello", 0); !result.Changed || len(result.Failing) > 0 || result.Counts.EngineRuns > 0 {
		t.Errorf("restarted: %+v", result)
	}
	c.noop(t)

	// Beside a change to others, it is restarted all the same; what an operator has
	// stopped, or says to ignore, is no failure.
	c.agents["router/0"].Lie(crashLoops)
	c.apply(t, "Servus", 4)
	c.noop(t)
	c.agents["router/0"].Lie(crashLoops)
	c.agents["router/0"].Lie(func(in *api.Inventory) { in.Held = true })
	c.noop(t)
	c.agents["router/0"].Lie(func(in *api.Inventory) { in.Held = false })
	if _, err := c.deployer(t).Ignore(ctx, []string{"router/0"}); err != nil {
		t.Fatal(err)
	}
	c.noop(t)
	if s, err := c.deployer(t).Status(ctx); err != nil || !s.Healthy() {
		t.Errorf("an ignored instance counts: %v", err)
	}
}

// What breaks while others change, and was healthy when the apply began, is found at
// its end. What recovers meanwhile is no failure.
func TestAppliedIsWhatIs(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 10)
	healthy, err := c.agents["lb/0"].Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	apply := func(greeting string, limit time.Duration, report func(Event)) (*Result, error) {
		t.Helper()
		c.vars["greeting"] = greeting
		d := c.deployer(t)
		d.config.Report, d.confirmTime = report, limit
		return d.Apply(t.Context(), ApplyRequest{Approve: func(*plan.Plan) (bool, error) { return true, nil }})
	}
	breaks := func(e Event) {
		if e.Phase == PhaseRollout && e.Step == "update" && e.Done {
			c.agents["lb/0"].Lie(crashLoops)
		}
	}
	result, err := apply("Moin", time.Millisecond, breaks)
	if !errors.Is(err, ErrFailing) || !strings.Contains(err.Error(), "lb/0") || result == nil || len(result.Failing) != 1 || result.Failing[0].Instance != "lb/0" {
		t.Errorf("an instance broke: %+v, %v", result, err)
	}
	recover := func() { c.agents["lb/0"].Lie(func(in *api.Inventory) { *in = healthy }) }
	recover()
	waited := ""
	result, err = apply("Grüezi", time.Minute, func(e Event) {
		breaks(e)
		if strings.HasPrefix(e.Message, "waited for") {
			waited = e.Instance
			recover()
		}
	})
	if err != nil || waited != "lb/0" || len(result.Failing) != 0 {
		t.Errorf("it recovered, was waited for: %q, %+v, %v", waited, result, err)
	}
}

func TestFailingProcesses(t *testing.T) {
	t.Parallel()
	process := func(job, name string, state api.ProcessState) api.ProcessStatus {
		return api.ProcessStatus{Job: job, Name: name, State: state}
	}
	runs, ended, sick := api.ProcessRunning, api.ProcessBackoff, api.ProcessFailing
	for name, tc := range map[string]struct {
		all  []api.ProcessStatus
		want api.RestartProcesses
	}{
		"none":            {[]api.ProcessStatus{process("a", "x", runs)}, api.RestartProcesses{}},
		"one ended":       {[]api.ProcessStatus{process("a", "x", runs), process("a", "y", ended)}, api.RestartProcesses{Job: "a", Process: "y", SkipDrain: true}},
		"one sick":        {[]api.ProcessStatus{process("a", "x", sick), process("a", "y", runs)}, api.RestartProcesses{Job: "a", Process: "x"}},
		"all ended":       {[]api.ProcessStatus{process("a", "x", ended), process("a", "y", ended)}, api.RestartProcesses{Job: "a", SkipDrain: true}},
		"two of three":    {[]api.ProcessStatus{process("a", "x", ended), process("a", "y", ended), process("a", "z", runs)}, api.RestartProcesses{Job: "a"}},
		"of several jobs": {[]api.ProcessStatus{process("a", "x", ended), process("b", "y", sick)}, api.RestartProcesses{}},
	} {
		if got := failingProcesses(tc.all); got != tc.want {
			t.Errorf("%s: got %+v, want %+v", name, got, tc.want)
		}
	}
}
