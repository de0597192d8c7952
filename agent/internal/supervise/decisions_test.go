package supervise

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/agent/api"
)

func TestNext(t *testing.T) {
	type row struct {
		state api.ProcessState
		event event
		want  api.ProcessState
		do    []action
	}
	const (
		stopped, starting, running = api.ProcessStopped, api.ProcessStarting, api.ProcessRunning
		failing, backoff, stopping = api.ProcessFailing, api.ProcessBackoff, api.ProcessStopping
	)
	tests := []row{
		{stopped, eventStart, starting, []action{actLaunch}},
		{backoff, eventStart, starting, []action{actEndPause, actLaunch}},
		{backoff, eventRetry, starting, []action{actLaunch}},
		{backoff, eventStop, stopped, []action{actEndPause}},
		{starting, eventReady, running, nil},
		{running, eventUnready, failing, nil},
		{failing, eventReady, running, nil},
		{stopping, eventEnded, stopped, nil},
		{stopping, eventLeft, stopped, nil},
		{running, eventReady, running, nil},
	}
	for _, s := range []api.ProcessState{starting, running, failing} {
		tests = append(tests,
			row{s, eventEnded, backoff, []action{actEndChecks, actPause}},
			row{s, eventLeft, stopped, []action{actEndChecks}},
			row{s, eventStop, stopping, []action{actEndChecks, actStop}},
		)
	}
	for _, s := range []api.ProcessState{stopped, starting, running, failing, backoff, stopping} {
		for e := eventStart; e <= eventLeft; e++ {
			want := row{s, e, s, nil} // what is not in the table changes nothing
			for _, tt := range tests {
				if tt.state == s && tt.event == e {
					want = tt
				}
			}
			got, do := next(s, e)
			if got != want.want || !slices.Equal(do, want.do) {
				t.Errorf("%s, event %d: %s %v, want %s %v", s, e, got, do, want.want, want.do)
			}
		}
	}
}

func TestRestarts(t *testing.T) {
	const ms = time.Millisecond
	policy := &api.Restart{MinMS: 100, MaxMS: 1000, StableMS: 5000}
	tests := []struct {
		name string
		ran  []time.Duration
		want []time.Duration
	}{
		{"crash loop", []time.Duration{0, 0, 0, 0, 0, 0, 0}, []time.Duration{0, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1000 * ms, 1000 * ms}},
		{"stable between", []time.Duration{0, 0, 5000 * ms, 4999 * ms}, []time.Duration{0, 100 * ms, 0, 100 * ms}},
	}
	for _, tt := range tests {
		r := newRestarts(policy, 0)
		for i, ran := range tt.ran {
			if got := r.ended(ran); got != tt.want[i] {
				t.Errorf("%s: pause %d is %s, want %s", tt.name, i, got, tt.want[i])
			}
		}
	}
	if r := newRestarts(policy, 2); r.ended(0) != 200*ms {
		t.Error("the row is not taken up again")
	}
	if r := newRestarts(nil, 0); r != (restarts{defaultMinPause, defaultMaxPause, defaultStable, 0}) {
		t.Errorf("defaults %+v", r)
	}
}

func TestRestartsNeverExceedMax(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRestarts(&api.Restart{
			MinMS: rapid.Int64Range(0, 1<<40).Draw(t, "min"), MaxMS: rapid.Int64Range(0, 1<<40).Draw(t, "max"),
		}, rapid.IntRange(0, 100).Draw(t, "row"))
		var last time.Duration
		for range rapid.IntRange(1, 80).Draw(t, "ends") {
			pause := r.ended(0)
			if pause < last || pause > r.max {
				t.Fatalf("pause %s after %s, of at most %s", pause, last, r.max)
			}
			last = pause
		}
	})
}

func TestChecklist(t *testing.T) {
	bad := errors.New("refused")
	type step struct {
		check int
		err   error
	}
	tests := []struct {
		name   string
		steps  []step
		event  event
		sure   bool
		reason string
	}{
		{"nothing yet", nil, eventReady, false, ""},
		{"one of two", []step{{0, nil}}, eventReady, false, ""},
		{"not passed, however often", []step{{0, bad}, {0, bad}, {0, bad}, {0, bad}, {1, nil}}, eventReady, false, "refused"},
		{"both", []step{{0, nil}, {1, nil}}, eventReady, true, ""},
		{"one failure", []step{{0, nil}, {1, nil}, {0, bad}}, eventReady, true, ""},
		{"failures in a row", []step{{0, nil}, {1, nil}, {0, bad}, {0, bad}}, eventUnready, true, "refused"},
		{"failures apart", []step{{0, nil}, {1, nil}, {0, bad}, {0, nil}, {0, bad}}, eventReady, true, ""},
		{"back", []step{{0, nil}, {1, nil}, {0, bad}, {0, bad}, {0, nil}}, eventReady, true, ""},
	}
	for _, tt := range tests {
		l := newChecklist([]api.Check{{Failures: 2}, {Failures: 2}})
		for _, s := range tt.steps {
			l.answered(answer{index: s.check, err: s.err})
		}
		event, sure, reason := l.verdict()
		if sure != tt.sure || sure && event != tt.event || reason != tt.reason {
			t.Errorf("%s: %d %v %q", tt.name, event, sure, reason)
		}
	}
}

func TestChecksOf(t *testing.T) {
	if got := checksOf(api.Process{}); len(got) != 0 {
		t.Errorf("checks of nothing: %v", got)
	}
	got := checksOf(api.Process{Control: true, Checks: []api.Check{{Kind: api.CheckTCP}}})
	if len(got) != 2 || got[1].Kind != api.CheckControl || got[0].Failures != 3 || got[0].IntervalMS != 1000 {
		t.Errorf("control is not implied, or defaults are missing: %+v", got)
	}
	if got := checksOf(api.Process{Control: true, Checks: []api.Check{{Kind: api.CheckControl, IntervalMS: 7}}}); len(got) != 1 || got[0].IntervalMS != 7 {
		t.Errorf("control is checked twice: %+v", got)
	}
}

func TestJudge(t *testing.T) {
	a, b := key{"a", "main"}, key{"b", "main"}
	expected := []expectation{{a, "d", "r"}, {b, "d", "r"}}
	good := fact{state: api.ProcessRunning, digest: "d", reloadDigest: "r"}
	with := func(change func(*fact)) map[key]fact {
		f := good
		change(&f)
		return map[key]fact{a: good, b: f}
	}
	tests := []struct {
		name     string
		expected []expectation
		facts    map[key]fact
		want     api.InstanceState
		reason   string
	}{
		{"nothing expected", nil, map[key]fact{a: good}, api.InstanceStopped, ""},
		{"all well", expected, with(func(*fact) {}), api.InstanceRunning, ""},
		{"crashed before, ready again", expected, with(func(f *fact) { f.reason = "" }), api.InstanceRunning, ""},
		{"missing", expected, map[key]fact{a: good}, api.InstanceStarting, "b/main is wanted and stopped"},
		{"starting", expected, with(func(f *fact) { f.state, f.reason = api.ProcessStarting, "refused" }), api.InstanceStarting, "b/main is starting: refused"},
		{"stopping", expected, with(func(f *fact) { f.state = api.ProcessStopping }), api.InstanceStarting, "stopping"},
		{"crashed, starting", expected, with(func(f *fact) { f.state, f.crashed = api.ProcessStarting, true }), api.InstanceFailing, "starting again"},
		{"backoff", expected, with(func(f *fact) { f.state, f.reason = api.ProcessBackoff, "exited with status 7" }), api.InstanceFailing, "status 7"},
		{"check fails", expected, with(func(f *fact) { f.state = api.ProcessFailing }), api.InstanceFailing, "check"},
		{"other spec", expected, with(func(f *fact) { f.digest = "old" }), api.InstanceStarting, "another spec"},
		{"reload owed", expected, with(func(f *fact) { f.reloadDigest = "old" }), api.InstanceStarting, "not loaded"},
		{"reload failed", expected, with(func(f *fact) { f.reloadDigest, f.reloadError = "old", "bad syntax" }), api.InstanceFailing, "bad syntax"},
		{"failing outweighs starting", expected, map[key]fact{a: {state: api.ProcessFailing}, b: {state: api.ProcessStarting}}, api.InstanceFailing, "a/main"},
		{"in either order", expected, map[key]fact{b: {state: api.ProcessFailing}, a: {state: api.ProcessStarting}}, api.InstanceFailing, "a/main"},
	}
	for _, tt := range tests {
		state, reasons := judge(tt.expected, tt.facts)
		if state != tt.want || !strings.Contains(strings.Join(reasons, "; "), tt.reason) || (tt.reason == "") != (len(reasons) == 0) {
			t.Errorf("%s: %s %q", tt.name, state, reasons)
		}
	}
}

func TestEnvironment(t *testing.T) {
	n := names{"/agent", "job", "main"}
	base := []string{"PATH=/bin", "HOME=/root", "DEPLOY_VM=vm"}
	p := api.Process{Env: map[string]string{"PATH": "/opt", "DEPLOY_PROCESS": "mine", "DEPLOY_CONTROL": "mine"}}
	if got := environment(n, base, p, nil); !slices.Equal(got, []string{"DEPLOY_VM=vm", "HOME=/root", "PATH=/opt"}) {
		t.Errorf("environment %q", got)
	}
	p.Control = true
	got := environment(n, base, p, &account{name: "nobody", home: "/nowhere"})
	want := []string{"DEPLOY_CONTROL=/agent/run/job/main.sock", "DEPLOY_VM=vm", "HOME=/nowhere", "LOGNAME=nobody", "PATH=/opt", "USER=nobody"}
	if !slices.Equal(got, want) {
		t.Errorf("environment %q", got)
	}
}
