package healthmanager

import (
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/wire"
)

// The tables' clock: the bus is heard from start on.
var start = time.Date(2012, 8, 1, 10, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return start.Add(component.Seconds(seconds).Duration()) }

func testSettings() Settings { return defaults().settings() }

// story is a state with one app, "7", two instances of version v-1 wanted.
type story struct {
	*State
	t *testing.T
}

func tell(t *testing.T, change func(*Settings)) *story {
	t.Helper()
	settings := testSettings()
	if change != nil {
		change(&settings)
	}
	s := &story{State: NewState(settings, func() float64 { return 0 }), t: t}
	s.Connected(start)
	s.read(0, wanted("v-1", 2))
	return s
}

func wanted(version string, instances int) *Desired {
	return &Desired{Started: true, Staged: true, Version: version, Instances: instances, Updated: at(-1000)}
}

// read is a complete reading of the wanted state; nil: there is no app.
func (s *story) read(seconds float64, d *Desired) (starts []Start) {
	there := map[wire.ID]bool{}
	if d != nil {
		there["7"] = true
		starts = s.Desire("7", d, at(seconds))
	}
	s.Passed(at(seconds), there, at(seconds))
	return starts
}

// listen lets some DEA be heard all the time until then.
func (s *story) listen(seconds float64) {
	for s.heard.IsZero() || s.heard.Add(20*time.Second).Before(at(seconds)) {
		s.Heard(later(s.heard, start).Add(20 * time.Second))
	}
}

func (s *story) runs(seconds float64, version, name string, index int) []wire.ID {
	return s.beat(seconds, wire.StateRunning, version, name, index)
}

func (s *story) beat(seconds float64, state, version, name string, index int) []wire.ID {
	s.listen(seconds)
	return s.Heartbeat(wire.DEAHeartbeat{DEA: "dea", Droplets: []wire.InstanceHeartbeat{{
		Droplet: "7", Version: version, Instance: name, Index: index, State: state, StateTimestamp: at(seconds).Unix(), CCPartition: "default",
	}}}, at(seconds))
}

func (s *story) ends(seconds float64, reason, version, name string, index int) (*Start, bool) {
	return s.Exited(wire.DropletExited{Droplet: "7", Version: version, Instance: name, Index: index, Reason: reason, CCPartition: "default"}, at(seconds))
}

// starting are the indices that an analysis would start, stopping the instances
// that it would stop.
func (s *story) starting(seconds float64) (indices []int) {
	for _, start := range s.Analyse(at(seconds)).Starts {
		indices = append(indices, start.Indices...)
	}
	return indices
}

func (s *story) stopping(seconds float64) (names []string) {
	for _, stop := range s.Analyse(at(seconds)).Stops {
		names = append(names, stop.Instances...)
	}
	return names
}

func (s *story) want(what string, got, want any) {
	s.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

var none []int

func TestMissing(t *testing.T) {
	s := tell(t, nil)
	s.runs(5, "v-1", "a", 0)
	s.want("everybody has droplet_lost to be heard", s.starting(30), none)
	s.want("an index that was never heard of is missing", s.starting(31), []int{1})
	s.runs(34, "v-1", "a", 0)
	s.want("an instance is there for droplet_lost after its last word", s.starting(60), []int{1})
	s.runs(60, "v-1", "b", 1)
	s.want("and gone after it", s.starting(65), []int{0})

	v := s.Analyse(at(65))
	s.want("the whole start", v.Starts, []Start{{App: "7", Version: "v-1", Updated: at(-1000), Indices: []int{0}, Urgency: Missing}})
	s.Requested(v.Starts[0].request(), at(65))
	s.want("a start that was asked for just now is given time", s.starting(85), none)
	s.Heard(at(90))
	s.want("and asked for again", s.starting(86), []int{0})
	s.beat(95, wire.StateStarting, "v-1", "c", 0)
	s.runs(95, "v-1", "b", 1)
	s.want("an instance that starts is there", s.starting(96), none)
}

func TestNothingIsJudged(t *testing.T) {
	for name, spoil := range map[string]func(*story){
		"while the bus is away":                        func(s *story) { s.Disconnected() },
		"within droplet_lost after the bus was away":   func(s *story) { s.Disconnected(); s.Connected(at(75)) },
		"when no DEA at all is heard":                  func(s *story) { s.heard = at(60) },
		"on a wanted state that was read too long ago": func(s *story) { s.passed = at(-200) },
		"before the wanted state was read":             func(s *story) { s.passed = time.Time{} },
		"of an app that was just changed":              func(s *story) { s.Updated("7", at(90)) },
		"of an app that was just stopped in part":      func(s *story) { s.ends(90, wire.ReasonStopped, "v-1", "b", 1) },
		"of an app that is not staged": func(s *story) {
			d := wanted("v-1", 2)
			d.Staged = false
			s.Desire("7", d, at(90))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := tell(t, nil)
			s.runs(90, "v-0", "old", 0)
			s.Heard(at(95))
			if v := s.Analyse(at(100)); len(v.Starts) != 1 || len(v.Stops) != 1 {
				t.Fatalf("unspoilt: %+v", v)
			}
			spoil(s)
			if v := s.Analyse(at(100)); !reflect.DeepEqual(v, Verdict{}) {
				t.Errorf("%+v", v)
			}
		})
	}
}

// TestSilence: when DEAs are heard again after a silence of all, each has its
// time to be heard.
func TestSilence(t *testing.T) {
	s := tell(t, nil)
	s.runs(40, "v-1", "a", 0)
	s.runs(40, "v-1", "b", 1)
	s.Heard(at(100))
	s.want("nobody was heard", s.starting(101), none)
	s.runs(125, "v-1", "a", 0)
	s.want("nor yet", s.starting(130), none)
	s.want("but now it should have been", s.starting(131), []int{1})
	if health, _ := s.Healthy("7", "", at(131)); health.Healthy != 1 {
		t.Errorf("healthy: %+v", health)
	}
}

func TestExtra(t *testing.T) {
	t.Run("version that is not wanted", func(t *testing.T) {
		s := tell(t, nil)
		s.runs(40, "v-1", "a", 0)
		s.runs(40, "v-1", "b", 1)
		s.want("an unknown version is asked for", s.runs(40, "v-0", "old", 0), []wire.ID{"7"})
		s.want("once", s.runs(41, "v-0", "old", 0), []wire.ID(nil))
		v := s.Analyse(at(42))
		s.want("stopped", v, Verdict{Stops: []Stop{{App: "7", Updated: at(-1000), Instances: []string{"old"}}}})
		s.Requested(wire.HealthManagerRequest{Droplet: "7", Op: wire.OpStop, Instances: []string{"old"}}, at(42))
		s.want("not at once again", s.stopping(62), []string(nil))
		s.want("but after a while", s.stopping(63), []string{"old"})
		s.ends(64, wire.ReasonStopped, "v-0", "old", 0)
		s.Heard(at(100))
		s.want("gone", s.stopping(100), []string(nil))
	})
	t.Run("index beyond what is wanted", func(t *testing.T) {
		s := tell(t, nil)
		s.runs(40, "v-1", "a", 0)
		s.runs(40, "v-1", "b", 1)
		s.runs(40, "v-1", "c", 2)
		s.want("stopped", s.stopping(41), []string{"c"})
	})
	t.Run("second instance of an index", func(t *testing.T) {
		s := tell(t, nil)
		s.runs(40, "v-1", "z-first", 0)
		s.runs(41, "v-1", "a-second", 0)
		s.beat(35, wire.StateStarting, "v-1", "starts", 0)
		s.runs(41, "v-1", "b", 1)
		s.want("the one that runs longest stays", s.stopping(42), []string{"a-second", "starts"})
		if start, _ := s.ends(43, wire.ReasonCrashed, "v-1", "a-second", 0); start != nil {
			t.Errorf("the end of one too many starts %+v", start)
		}
	})
	t.Run("stopped app", func(t *testing.T) {
		s := tell(t, nil)
		s.runs(40, "v-1", "a", 0)
		d := wanted("v-1", 2)
		d.Started = false
		s.Desire("7", d, at(40))
		s.want("all are too much", s.Analyse(at(41)), Verdict{Stops: []Stop{{App: "7", Updated: at(-1000), Instances: []string{"a"}}}})
	})
	t.Run("app that is gone", func(t *testing.T) {
		s := tell(t, nil)
		for second := 0.0; second < 200; second += 10 {
			s.runs(second, "v-1", "a", 0)
		}
		s.read(150, nil)
		s.Heard(at(200))
		s.want("stopped", s.Analyse(at(200)), Verdict{Stops: []Stop{{App: "7", Instances: []string{"a"}}}})
	})
	t.Run("app that was never known", func(t *testing.T) {
		s := tell(t, nil)
		s.read(10, nil)
		for second := 20.0; second < 140; second += 10 {
			s.runs(second, "v-1", "a", 0)
		}
		s.read(60, nil)
		s.want("is given the time to become known", s.stopping(140), []string(nil))
		s.runs(140, "v-1", "a", 0)
		s.want("and then stopped", s.stopping(141), []string{"a"})
		s.passed = at(15)
		s.want("but not on a reading from before it came", s.stopping(141), []string(nil))
	})
}

func TestExits(t *testing.T) {
	for _, tc := range []struct {
		name, reason, version string
		index                 int
		want                  *Urgency
		read                  bool
	}{
		{"crash", wire.ReasonCrashed, "v-1", 0, ptr(Crashed), false},
		{"DEA ended", wire.ReasonShutdown, "v-1", 1, ptr(Lost), false},
		{"DEA will end", wire.ReasonEvacuation, "v-1", 1, ptr(Evacuated), false},
		{"user's stop", wire.ReasonStopped, "v-1", 0, nil, false},
		{"unknown reason", "BORED", "v-1", 0, nil, false},
		{"index beyond what is wanted", wire.ReasonCrashed, "v-1", 2, nil, false},
		{"another version", wire.ReasonCrashed, "v-2", 0, nil, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := tell(t, nil)
			s.runs(1, tc.version, "a", tc.index)
			got, read := s.ends(2, tc.reason, tc.version, "a", tc.index)
			var want *Start
			if tc.want != nil {
				want = &Start{App: "7", Version: "v-1", Updated: at(-1000), Indices: []int{tc.index}, Urgency: *tc.want}
			}
			s.want("start", got, want)
			s.want("read", read, tc.read)
		})
	}
	t.Run("other partition", func(t *testing.T) {
		s := tell(t, nil)
		start, read := s.Exited(wire.DropletExited{Droplet: "7", Version: "v-1", Instance: "a", Reason: wire.ReasonCrashed, CCPartition: "other"}, at(1))
		s.want("nothing", start == nil && !read, true)
		s.Heartbeat(wire.DEAHeartbeat{Droplets: []wire.InstanceHeartbeat{{Droplet: "8", Instance: "a", State: wire.StateRunning, CCPartition: "other"}}}, at(1))
		s.want("known apps", s.ids(), []wire.ID{"7"})
	})
	t.Run("older dialect, without partition", func(t *testing.T) {
		s := tell(t, nil)
		start, _ := s.Exited(wire.DropletExited{Droplet: "7", Version: "v-1", Instance: "a", Reason: wire.ReasonCrashed}, at(1))
		s.want("taken", start != nil, true)
	})
	t.Run("before the version is known", func(t *testing.T) {
		s := tell(t, nil)
		if start, read := s.ends(2, wire.ReasonCrashed, "v-2", "a", 0); start != nil || !read {
			t.Errorf("%+v, %v", start, read)
		}
		starts := s.Desire("7", wanted("v-2", 2), at(3))
		s.want("counts when it is", starts, []Start{{App: "7", Version: "v-2", Updated: at(-1000), Indices: []int{0}, Urgency: Crashed}})
		s.want("once", len(s.Desire("7", wanted("v-2", 2), at(4))), 0)
	})
}

func ptr[T any](v T) *T { return &v }

func TestFlapping(t *testing.T) {
	s := tell(t, nil) // one crash is free, then 60 s, doubled up to 480, given up after 4
	crash := func(seconds float64) *Start {
		start, _ := s.ends(seconds, wire.ReasonCrashed, "v-1", "a", 0)
		return start
	}
	due := func(seconds float64) (n int) {
		starts, _ := s.Due(at(seconds))
		for _, start := range starts {
			if !start.Flapping || start.Indices[0] != 0 {
				t.Errorf("restart %+v", start)
			}
			s.Requested(start.request(), at(seconds))
		}
		return len(starts)
	}
	if crash(100) == nil {
		t.Error("the first crash is not restarted at once")
	}
	if crash(110) != nil {
		t.Error("the second crash is restarted at once")
	}
	flapping, known := s.Flapping("7", "v-1", at(111))
	s.want("known", known, true)
	s.want("flapping", flapping.Indices, []wire.FlappingIndex{{Index: 0, Since: at(110).Unix()}})
	other, _ := s.Flapping("7", "v-9", at(111))
	s.want("flapping indices of another version", other.Indices, []wire.FlappingIndex{})
	s.runs(111, "v-1", "b", 1)
	s.want("nothing is missing while a restart is put off", s.starting(112), none)
	if _, next := s.Due(at(112)); !next.Equal(at(170)) {
		t.Errorf("due at %v", next)
	}
	s.want("not before its time", due(169.9), 0)
	s.want("at its time", due(170), 1)
	s.want("once", due(171), 0)
	crash(180)
	s.want("twice as long", due(299.9), 0)
	s.want("twice as long", due(300), 1)
	crash(310)
	s.want("four times", due(549.9), 0)
	s.want("four times", due(550), 1)
	crash(560)
	s.want("given up", due(10000), 0)
	s.read(560, wanted("v-1", 2))
	s.runs(590, "v-1", "b", 1)
	s.want("given up", s.starting(591), none)
	s.runs(592, "v-1", "c", 0)
	after, _ := s.Flapping("7", "v-1", at(593))
	s.want("no index flaps that runs", after.Indices, []wire.FlappingIndex{})

	s.Desire("7", wanted("v-2", 2), at(600))
	s.ends(601, wire.ReasonCrashed, "v-2", "a", 0)
	if start, _ := s.ends(602, wire.ReasonCrashed, "v-2", "a", 1); start == nil {
		t.Error("crashes of another index or version count")
	}
}

// TestFaults: what a DEA could not start for no fault of the app's is tried again,
// later each time, and never given up; nor does it count as a crash.
func TestFaults(t *testing.T) {
	s := tell(t, nil)
	now := 100.0
	for _, delay := range []float64{60, 120, 240, 480, 480, 480, 480} {
		if start, _ := s.ends(now, wire.ReasonFault, "v-1", "a", 0); start != nil {
			t.Errorf("at %v it is started at once, where it cannot be", now)
		}
		if starts, next := s.Due(at(now + delay - 0.1)); len(starts) != 0 || !next.Equal(at(now+delay)) {
			t.Errorf("before its time: %+v, next %v", starts, next)
		}
		now += delay
		starts, _ := s.Due(at(now))
		if len(starts) != 1 || starts[0].Flapping || starts[0].Indices[0] != 0 {
			t.Fatalf("at %v: %+v", now, starts)
		}
		s.Requested(starts[0].request(), at(now))
	}
	s.runs(now, "v-1", "b", 0)
	if start, _ := s.ends(now+1, wire.ReasonCrashed, "v-1", "b", 0); start == nil {
		t.Error("its first crash is not restarted at once")
	}
	s.ends(now+2, wire.ReasonFault, "v-1", "c", 0)
	if _, next := s.Due(at(now + 2)); !next.Equal(at(now + 62)) {
		t.Errorf("after it ran, a fault puts it off until %v", next)
	}
}

func TestCrashesAreForgotten(t *testing.T) {
	s := tell(t, nil)
	s.ends(100, wire.ReasonCrashed, "v-1", "a", 0)
	if start, _ := s.ends(601, wire.ReasonCrashed, "v-1", "b", 0); start == nil {
		t.Error("a crash that is flapping_timeout ago counts")
	}
	list, _ := s.Crashes("7")
	s.want("crashes", list.Instances, []wire.CrashedInstance{{Instance: "a", Since: at(100).Unix(), Version: "v-1"}, {Instance: "b", Since: at(601).Unix(), Version: "v-1"}})
	s.Forget(at(602))
	list, _ = s.Crashes("7")
	s.want("crashes", list.Instances, []wire.CrashedInstance{{Instance: "b", Since: at(601).Unix(), Version: "v-1"}})
	if _, known := s.Crashes("8"); known {
		t.Error("an app that nobody heard of is known")
	}
}

func TestDelays(t *testing.T) {
	for _, tc := range []struct {
		name  string
		set   func(*Settings)
		want  []float64 // seconds after the crash 2, 3, ...
		noise float64
	}{
		{"the original's", func(s *Settings) { s.GiveupCrashNumber = -1 }, []float64{60, 120, 240, 480, 480}, 0},
		{"noise", func(s *Settings) {}, []float64{62.5, 122.5}, 0.5},
		{"noise below nothing", func(s *Settings) { s.MinRestartDelay, s.DelayTimeNoise = time.Second, time.Minute }, []float64{0, 0}, -1},
		{"more at first than at most", func(s *Settings) { s.MinRestartDelay = time.Hour }, []float64{480, 480}, 0},
		{"none", func(s *Settings) { s.MinRestartDelay, s.MaxRestartDelay = 0, 0 }, []float64{0, 0}, 0},
		{"as long as there is", func(s *Settings) { s.MinRestartDelay, s.MaxRestartDelay = 1<<61, 1<<62 }, []float64{2305843009.213693952, 4611686018.427387904, 4611686018.427387904, 4611686018.427387904}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			settings := testSettings()
			tc.set(&settings)
			s := NewState(settings, func() float64 { return tc.noise })
			for i, want := range tc.want {
				if got := s.delay(1 + i); got != component.Seconds(want).Duration() {
					t.Errorf("put off for the time %d: %v, want %v s", 1+i, got, want)
				}
			}
		})
	}
}

func TestUpdateCancelsRestarts(t *testing.T) {
	s := tell(t, nil)
	s.ends(100, wire.ReasonCrashed, "v-1", "a", 0)
	s.ends(101, wire.ReasonCrashed, "v-1", "a", 0)
	s.Updated("7", at(102))
	if starts, next := s.Due(at(1000)); len(starts) > 0 || !next.IsZero() {
		t.Errorf("due: %+v at %v", starts, next)
	}
	s.Heard(at(130))
	s.want("its time to change", s.starting(131), none)
	v := s.Analyse(at(132))
	s.want("then it is missing, and still flaps", v.Starts, []Start{{App: "7", Version: "v-1", Updated: at(-1000), Indices: []int{0, 1}, Urgency: Missing, Flapping: true}})
}

// TestManyAreGivenTime: a cloud controller starts one instance after the other.
func TestManyAreGivenTime(t *testing.T) {
	s := tell(t, nil)
	s.read(40, wanted("v-1", 102)) // scaled up by a hundred: 30 s, and 30 s for them
	s.listen(99)
	s.passed = at(99)
	s.want("just scaled up", s.starting(99), none)
	s.listen(101)
	v := s.Analyse(at(101))
	if len(v.Starts) != 1 || len(v.Starts[0].Indices) != 102 {
		t.Fatalf("%+v", v)
	}
	s.Requested(v.Starts[0].request(), at(101))
	s.listen(130)
	s.want("the first ten are asked for again after their 20 s", len(s.starting(101+20+3)), 10)
	s.want("a new version is all new instances", func() []int {
		s.read(125, wanted("v-2", 102))
		s.listen(180)
		s.passed = at(180)
		return s.starting(180)
	}(), none)
}

// TestNewAppIsGivenTime as one that is scaled up, if it was started just now.
func TestNewAppIsGivenTime(t *testing.T) {
	for told, want := range map[bool]int{true: 0, false: 100} {
		s := tell(t, nil)
		s.read(0, nil)
		if told {
			s.Updated("7", at(40))
		}
		s.read(41, wanted("v-1", 100))
		s.listen(71)
		if got := s.starting(71); len(got) != want {
			t.Errorf("told of it %v: %d are missing, want %d", told, len(got), want)
		}
	}
}

func TestHealthyAndRecord(t *testing.T) {
	s := tell(t, nil)
	s.runs(1, "v-1", "a", 0)
	s.beat(1, wire.StateStarting, "v-1", "b", 1)
	s.runs(1, "v-0", "old", 1)
	s.beat(1, wire.StateCrashed, "v-1", "c", 1)
	health, known := s.Healthy("7", "v-1", at(2))
	s.want("known", known, true)
	s.want("healthy", health, wire.Health{Droplet: "7", Version: "v-1", Healthy: 1})
	health, _ = s.Healthy("7", "v-0", at(2))
	s.want("healthy, another version", health, wire.Health{Droplet: "7", Version: "v-0", Healthy: 1})
	if _, known := s.Healthy("8", "v-1", at(2)); known {
		t.Error("an app that nobody heard of is known")
	}
	record, _ := s.Record("7", at(2))
	s.want("record", record, wire.HealthRecord{
		Droplet: "7", State: wire.AppStarted, LiveVersion: "v-1", Instances: 2, LastUpdated: at(-1000).Unix(),
		Indices: []wire.HealthIndex{
			{Index: 0, State: wire.StateRunning, Instance: "a", LastHeartbeat: at(1).Unix()},
			{Index: 1, State: wire.StateStarting, Instance: "b", LastHeartbeat: at(1).Unix()},
		},
		Extra:   []wire.HealthInstance{{Instance: "old", Version: "v-0", Index: 1, Since: at(1).Unix()}},
		Crashes: []wire.CrashedInstance{{Instance: "c", Since: at(1).Unix(), Version: "v-1"}},
	})
	total, started := s.Sum(at(2))
	want := Figures{Apps: 1, Instances: 2, Running: 1, Crashed: 1}
	s.want("sums", []Figures{total.Figures, started.Figures, *total.Runtimes[""]}, []Figures{want, want, want})
}

// TestUpdatesAreLeftAlone: while an app is updated, instances of either version are
// wanted, each index has one, and what is too many is the update's to stop; crashes
// of the new version are its own when it has become the app's.
func TestUpdatesAreLeftAlone(t *testing.T) {
	s := tell(t, nil)
	under := wanted("v-1", 2)
	under.Updating = "v-2"
	s.read(0, under)
	s.runs(1, "v-1", "a", 0)
	s.runs(1, "v-1", "b", 1)
	if read := s.runs(40, "v-2", "c", 0); read != nil {
		t.Errorf("an instance of the update is no reason to read %v", read)
	}
	beat := func(seconds float64) {
		for index, name := range []string{"a", "b"} {
			s.runs(seconds, "v-1", name, index)
		}
		s.runs(seconds, "v-2", "c", 0)
	}
	beat(60)
	s.passed = at(60)
	s.want("too many", s.stopping(60), []string(nil))
	s.want("missing", s.starting(60), []int(nil))
	if start, _ := s.ends(61, wire.ReasonStopped, "v-1", "a", 0); start != nil {
		t.Errorf("what the update has replaced is started: %+v", start)
	}
	health, _ := s.Healthy("7", "v-1", at(62))
	s.want("healthy", health.Healthy, 2)
	if start, read := s.ends(63, wire.ReasonCrashed, "v-2", "c", 0); start != nil || !read {
		t.Errorf("the health manager meddles with the update: %+v", start)
	}
	if starts := s.read(63, under); starts != nil {
		t.Errorf("the health manager meddles with the update: %+v", starts)
	}
	if start, _ := s.ends(64, wire.ReasonCrashed, "v-1", "b", 1); start == nil || start.Version != "v-1" {
		t.Errorf("a crash of what is not replaced yet: %+v", start)
	}
	// It is over: the old one is too many.
	s.read(65, wanted("v-2", 2))
	s.runs(66, "v-2", "d", 0)
	s.runs(66, "v-2", "e", 1)
	s.runs(180, "v-1", "b2", 1)
	s.runs(180, "v-2", "d", 0)
	s.runs(180, "v-2", "e", 1)
	s.passed = at(180)
	s.want("too many", s.stopping(180), []string{"b2"})
	if start, _ := s.ends(181, wire.ReasonCrashed, "v-2", "d", 0); start == nil || start.Flapping {
		t.Errorf("the first crash of the new version: %+v", start)
	}
}

func TestForgetsApps(t *testing.T) {
	s := tell(t, nil)
	s.runs(1, "v-1", "a", 0)
	s.read(2, nil)
	s.Heard(at(30))
	s.Forget(at(31))
	s.want("known while an instance is", s.ids(), []wire.ID{"7"})
	s.Heard(at(32))
	s.Forget(at(32))
	s.want("forgotten", s.ids(), []wire.ID(nil))
	s.Desire("9", nil, at(32))
	s.want("what is not there is not remembered", s.ids(), []wire.ID(nil))
}

func TestQueue(t *testing.T) {
	old, young := at(-1000), at(-10)
	order := []Start{
		{App: "evacuated", Urgency: Evacuated, Updated: young, Indices: []int{0}},
		{App: "lost", Urgency: Lost, Updated: young, Indices: []int{0}},
		{App: "old", Urgency: Missing, Updated: old, Indices: []int{0, 1}},
		{App: "young, first", Urgency: Missing, Updated: young, Indices: []int{0}},
		{App: "young, then", Urgency: Missing, Updated: young, Indices: []int{0}},
		{App: "crashed", Urgency: Crashed, Updated: old, Indices: []int{0}},
	}
	q := NewQueue(4, time.Second)
	for _, i := range []int{5, 3, 4, 1, 2, 0} {
		q.Push(order[i])
	}
	q.Push(order[2])                                                             // known
	q.Push(Start{App: "old", Urgency: Missing, Updated: old, Indices: []int{1}}) // as well
	var got []Start
	pop := func(now time.Time) (n int) {
		for {
			s, ok := q.Pop(now)
			if !ok {
				return n
			}
			got, n = append(got, s), n+1
		}
	}
	if n := pop(at(0)); n != 4 || q.Len() != 2 || !q.Next().Equal(at(1)) {
		t.Errorf("%d at first, %d wait until %v", n, q.Len(), q.Next())
	}
	if n := pop(at(0.9)); n != 0 {
		t.Errorf("%d before the time", n)
	}
	if n := pop(at(1)); n != 2 || q.Len() != 0 {
		t.Errorf("%d at last, %d wait", n, q.Len())
	}
	if diff := cmp.Diff(order, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	q.Push(order[2])
	if n := pop(at(1)); n != 1 {
		t.Error("what has left cannot come again")
	}
	q.Push(order[2])
	q.Clear()
	q.Push(order[2])
	if q.Len() != 1 {
		t.Errorf("%d wait after a clear", q.Len())
	}
	unbounded := NewQueue(0, time.Second)
	for _, s := range order {
		unbounded.Push(s)
	}
	got = nil
	q = unbounded
	if n := pop(at(0)); n != len(order) {
		t.Errorf("%d left a queue without bound", n)
	}
}

func TestElection(t *testing.T) {
	one, two := NewElection("one", time.Second), NewElection("two", time.Second)
	leads := func(seconds float64, wantOne, wantTwo bool) {
		t.Helper()
		if a, b := one.Leads(at(seconds)), two.Leads(at(seconds)); a != wantOne || b != wantTwo {
			t.Errorf("at %v s: one leads %v, two leads %v; want %v, %v", seconds, a, b, wantOne, wantTwo)
		}
	}
	leads(0, false, false)
	one.Connected(at(0))
	leads(0.9, false, false)
	leads(1, true, false)
	two.Connected(at(5))
	if !one.Heard(two.Presence(), at(5)) {
		t.Error("a new one is not new")
	}
	two.Heard(one.Presence(), at(5.1))
	leads(6, true, false)
	if one.Heard(two.Presence(), at(6)) {
		t.Error("a known one is new")
	}
	if one.Heard(one.Presence(), at(6)) {
		t.Error("it is news to itself")
	}
	leads(8.1, true, false)
	leads(8.2, true, true) // two has not heard of one for three intervals
	two.Heard(one.Presence(), at(9))
	one.Heard(two.Presence(), at(9))
	leads(9, true, false)

	// Who was away for a moment has missed something.
	one.Disconnected()
	leads(10, false, false)
	one.Connected(at(10))
	one.Heard(two.Presence(), at(10.1))
	two.Heard(one.Presence(), at(10.1))
	leads(11, false, true)

	goodbye := two.Presence()
	goodbye.Leaving = true
	one.Heard(goodbye, at(11.1))
	if !one.Leads(at(11.1)) {
		t.Error("one does not lead when two has left")
	}

	a, b := NewElection("a", time.Second), NewElection("b", time.Second)
	a.Connected(at(0))
	b.Connected(at(0))
	a.Heard(b.Presence(), at(0))
	b.Heard(a.Presence(), at(0))
	if !a.Leads(at(1)) || b.Leads(at(1)) {
		t.Error("of two that are equally old, not the first in the alphabet leads")
	}
}
