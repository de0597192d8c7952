package rolling

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var epoch = time.Unix(1343815200, 0)

// world describes what a machine acts on: DEAs that run instances, as slow and lossy as
// the real ones.
type world struct {
	now       time.Time
	instances []*instance
	count     int // ever started
	room      int // how many more may start
	bad       map[string]string
	machine   *Machine
	settings  Settings
	saved     []byte
	least     int // indices that must be served at any time
	stopped   []Stop
}

type instance struct {
	Instance
	began   time.Time
	watched bool
	gone    bool
}

func newWorld(instances int, settings Settings) *world {
	w := &world{now: epoch, room: 1 << 20, bad: map[string]string{}, settings: settings, least: instances}
	for index := range instances {
		w.start("old", index, false).Running = true
	}
	w.machine = Resume(New("new", "old", nil, instances), settings)
	w.save()
	return w
}

func (w *world) save() { w.saved, _ = json.Marshal(w.machine.Update) }

// restart forgets what was not saved.
func (w *world) restart() {
	var u Update
	if err := json.Unmarshal(w.saved, &u); err != nil {
		panic(err)
	}
	w.machine = Resume(u, w.settings)
}

func (w *world) start(version string, index int, watched bool) *instance {
	w.count++
	i := &instance{Instance: Instance{ID: fmt.Sprint("i", w.count), Version: version, Index: index, Proven: watched}, began: w.now, watched: watched}
	w.instances = append(w.instances, i)
	return i
}

// pass lets time pass: what starts gets to run, or does what a bad version does.
func (w *world) pass(d time.Duration) (events []Event) {
	w.now = w.now.Add(d)
	for _, i := range w.instances {
		if i.gone || i.Crashed {
			continue
		}
		age := w.now.Sub(i.began)
		ready := time.Second
		if i.watched {
			ready += w.settings.MinHealthy
		}
		crashes := false
		switch w.bad[i.Version] {
		case "at start":
			crashes = age > 300*time.Millisecond
		case "never listens":
			if ready = time.Hour; age > 20*time.Second {
				crashes = true
			}
		case "soon":
			crashes = age > w.settings.MinHealthy/2+time.Second
		}
		if crashes {
			i.Running, i.Crashed = false, true
			events = append(events, Exited{ID: i.ID, Version: i.Version, Index: i.Index, Crashed: true, Why: "It ended."})
		} else if age >= ready {
			i.Running = true
		}
	}
	return events
}

// look finds the instances that answer.
func (w *world) look(answers func() bool) Looked {
	var l Looked
	for _, i := range w.instances {
		if !i.gone && answers() {
			l.Instances = append(l.Instances, i.Instance)
		}
	}
	return l
}

// step steps the machine, saves it, and does what it says.
func (w *world) step(e Event) {
	actions := w.machine.Step(w.now, e)
	if w.machine.Changed() {
		defer w.save()
		if w.machine.Outcome == Running {
			w.save()
		}
	}
	for _, action := range actions {
		w.act(action)
	}
}

// act does what the machine says.
func (w *world) act(action Action) {
	switch a := action.(type) {
	case Start:
		var without []int
		for _, index := range a.Indices {
			if w.room == 0 {
				without = append(without, index)
				continue
			}
			w.room--
			w.start(a.Version, index, a.Watched)
		}
		if len(without) > 0 {
			w.step(NoRoom{Indices: without, Why: "there is no room"})
		}
	case Stop:
		w.stopped = append(w.stopped, a)
		for _, i := range w.instances {
			if (i.Index == a.Index || a.Index == Everywhere) && slices.Contains(a.Versions, i.Version) && !i.gone && !i.Crashed {
				i.gone = true
				w.room++
			}
		}
	}
}

// stepAndDie is step for a controller that is killed in it: before it has saved
// anything (0), when it has saved (1), or when it has done so many actions less one.
// It reports whether there was so much to do.
func (w *world) stepAndDie(e Event, after int) bool {
	actions := w.machine.Step(w.now, e)
	if after > 0 && w.machine.Changed() && w.machine.Outcome == Running {
		w.save()
	}
	for n := range min(after-1, len(actions)) {
		w.act(actions[n])
	}
	w.restart()
	return after <= len(actions)+1
}

func always() bool { return true }

// serving returns how many indices have an instance that serves.
func (w *world) serving() int {
	indices := map[int]bool{}
	for _, i := range w.instances {
		if i.Running && !i.gone {
			indices[i.Index] = true
		}
	}
	return len(indices)
}

// finish goes on without further trouble until the update is over.
func (w *world) finish(t testing.TB) {
	t.Helper()
	for range 4000 {
		if w.machine.Outcome != Running {
			return
		}
		for _, e := range w.pass(250 * time.Millisecond) {
			w.step(e)
		}
		w.step(w.look(always))
		if w.serving() < w.least {
			t.Fatalf("at %v %d indices are served, want %d: %+v", w.now.Sub(epoch), w.serving(), w.least, w.machine.Update)
		}
	}
	t.Fatalf("the update does not end: %+v", w.machine.Update)
}

// runs returns what runs, as "version/index", sorted.
func (w *world) runs() string {
	var all []string
	for _, i := range w.instances {
		if !i.gone && !i.Crashed {
			all = append(all, fmt.Sprintf("%s/%d", i.Version, i.Index))
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func (w *world) want(t testing.TB, outcome, runs string) {
	t.Helper()
	if w.machine.Outcome != outcome || w.runs() != runs {
		t.Errorf("the update is %q, and %s run; want %q and %s: %+v", w.machine.Outcome, w.runs(), outcome, runs, w.machine.Update)
	}
}

func testSettings(inFlight int) Settings { return DefaultSettings(inFlight, 3*time.Second) }

func TestEachIndexIsReplacedByOneThatServes(t *testing.T) {
	for _, inFlight := range []int{1, 2, 5} {
		w := newWorld(3, testSettings(inFlight))
		w.finish(t)
		w.want(t, Done, "new/0 new/1 new/2")
		if w.count != 6 {
			t.Errorf("%d instances were started, want 3", w.count-3)
		}
	}
}

func TestABadVersionStopsNothing(t *testing.T) {
	for _, how := range []string{"at start", "never listens", "soon"} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(2, testSettings(1))
			w.bad["new"] = how
			w.finish(t)
			w.want(t, Undone, "old/0 old/1")
			if w.count != 3 {
				t.Errorf("%d instances were started, want 1", w.count-2)
			}
			if got := w.machine.Reason; got != "instance 0 of the new version crashed: It ended." || w.machine.Failed == "" {
				t.Errorf("the reason is %q of %q", got, w.machine.Failed)
			}
		})
	}
}

// TestTheVersionBeforeCrashesToo: an update of an app that crashes, to what crashes as
// well, is over when both have crashed once; it is the health manager's again.
func TestTheVersionBeforeCrashesToo(t *testing.T) {
	w := newWorld(1, testSettings(1))
	w.bad["new"], w.bad["old"], w.least = "never listens", "never listens", 0
	w.instances[0].Running = false
	for w.machine.Outcome == Running && w.now.Sub(epoch) < 5*time.Minute {
		for _, e := range w.pass(250 * time.Millisecond) {
			w.step(e)
			if e.(Exited).Version == "old" {
				w.start("old", 0, false) // by the health manager
			}
		}
		w.step(w.look(always))
	}
	if took := w.now.Sub(epoch); w.machine.Outcome != Undone || took > 45*time.Second {
		t.Errorf("after %v the update is %q", took, w.machine.Outcome)
	}
}

func TestACrashLaterGoesBackTheSameWay(t *testing.T) {
	w := newWorld(3, testSettings(1))
	for w.machine.Count() < 2 {
		w.pass(250 * time.Millisecond)
		w.step(w.look(always))
	}
	i := w.instances[slices.IndexFunc(w.instances, func(i *instance) bool { return i.Version == "new" && i.Index == 1 })]
	i.Running, i.Crashed = false, true
	w.least = 2
	w.step(Exited{ID: i.ID, Version: "new", Index: 1, Crashed: true})
	w.finish(t)
	w.want(t, Undone, "old/0 old/1 old/2")
}

func TestACrashIsLearnedFromALookToo(t *testing.T) {
	w := newWorld(1, testSettings(1))
	w.bad["new"] = "at start"
	w.step(w.look(always))
	w.pass(time.Second) // the message is lost
	w.restart()
	w.finish(t)
	w.want(t, Undone, "old/0")
}

func TestNoRoomIsSaidBeforeAnythingStops(t *testing.T) {
	w := newWorld(2, testSettings(1))
	w.room = 0
	w.finish(t)
	w.want(t, Undone, "old/0 old/1")
	if w.machine.Reason != "there is no room" || w.count != 2 {
		t.Errorf("the reason is %q, %d started", w.machine.Reason, w.count-2)
	}
	// Room for one is enough: what was replaced makes room.
	w = newWorld(3, testSettings(3))
	w.room = 1
	w.finish(t)
	w.want(t, Done, "new/0 new/1 new/2")
}

// TestAControllerDiesAtEveryStep: killed at whichever event of an update, and however
// far it has come with what follows, another one ends the update, and nothing that is
// served stops being so.
func TestAControllerDiesAtEveryStep(t *testing.T) {
	for _, inFlight := range []int{1, 3} {
		for _, how := range []string{"", "at start", "never listens", "soon"} {
			deaths := 0
			for event, over := 0, false; !over; event++ {
				for after, more := 0, true; more; after++ {
					w := newWorld(3, testSettings(inFlight))
					w.bad["new"] = how
					n := 0
					take := func(e Event) {
						if n++; n-1 == event {
							more = w.stepAndDie(e, after)
							deaths++
						} else {
							w.step(e)
						}
					}
					for n <= event && w.machine.Outcome == Running {
						for _, e := range w.pass(250 * time.Millisecond) {
							take(e)
						}
						take(w.look(always))
					}
					if over = n <= event; over {
						break // it was over before this event
					}
					w.finish(t)
					if how == "" {
						w.want(t, Done, "new/0 new/1 new/2")
					} else {
						w.want(t, Undone, "old/0 old/1 old/2")
					}
					if t.Failed() {
						t.Fatalf("killed at event %d after %d, %d in flight, a version that fails: %q", event, after, inFlight, how)
					}
				}
			}
			t.Logf("%d at once, a version that fails: %q: %d deaths", inFlight, how, deaths)
		}
	}
}

func TestScalingDuringAnUpdate(t *testing.T) {
	w := newWorld(2, testSettings(1))
	w.step(w.look(always))
	w.step(Scaled{4})
	w.finish(t)
	w.want(t, Done, "new/0 new/1 new/2 new/3")
	w = newWorld(3, testSettings(1))
	w.step(Scaled{1})
	for _, i := range w.instances[1:] {
		i.gone = true
	}
	w.least = 1
	w.finish(t)
	w.want(t, Done, "new/0")
	w = newWorld(2, testSettings(1))
	w.step(Scaled{0})
	w.least = 0
	w.finish(t)
	if w.machine.Outcome != Done {
		t.Errorf("an update of nothing is %q", w.machine.Outcome)
	}
}

func TestAnUpdateTakesThePlaceOfAnother(t *testing.T) {
	w := newWorld(3, testSettings(1))
	for w.machine.Count() < 1 {
		w.pass(250 * time.Millisecond)
		w.step(w.look(always))
	}
	w.machine = Resume(New("newer", "old", []string{"new"}, 3), w.settings)
	w.finish(t)
	w.want(t, Done, "newer/0 newer/1 newer/2")

	w.machine = Resume(New("newest", "newer", []string{"new", "old"}, 3), w.settings)
	w.bad["newest"] = "soon"
	w.finish(t)
	w.want(t, Undone, "newer/0 newer/1 newer/2")
}

func TestACanaryWaitsToBePromoted(t *testing.T) {
	for _, promoted := range []bool{true, false} {
		w := newWorld(3, testSettings(3))
		w.machine.Hold = 1
		for range 200 {
			w.pass(250 * time.Millisecond)
			w.step(w.look(always))
		}
		w.want(t, Running, "new/0 old/1 old/2")
		if !w.machine.Held() {
			t.Errorf("the update does not wait: %+v", w.machine.Update)
		}
		if promoted {
			w.step(Promoted{})
			w.finish(t)
			w.want(t, Done, "new/0 new/1 new/2")
		} else {
			w.machine = Resume(New("old again", "old", []string{"new"}, 3), w.settings)
			w.finish(t)
			w.want(t, Done, "old again/0 old again/1 old again/2")
		}
	}
}

func TestADEAThatCannotStartIsTriedAgain(t *testing.T) {
	w := newWorld(1, testSettings(1))
	w.step(w.look(always))
	for n := range 2 {
		i := w.instances[len(w.instances)-1]
		i.gone = true
		w.step(Exited{ID: i.ID, Version: "new"})
		for w.count == n+2 {
			w.pass(250 * time.Millisecond)
			w.step(w.look(always))
		}
	}
	w.finish(t)
	w.want(t, Done, "new/0")
	if w.machine.Indices[0].Failures != 2 {
		t.Errorf("%d failures are counted, want 2", w.machine.Indices[0].Failures)
	}
}

func TestADEAThatCannotStartSaysWhy(t *testing.T) {
	w := newWorld(1, testSettings(1))
	for range 400 {
		w.step(w.look(always))
		for _, i := range w.instances[1:] {
			if !i.gone {
				i.gone = true
				w.step(Exited{ID: i.ID, Version: "new", Why: "100% of the disk is used"})
			}
		}
		w.pass(250 * time.Millisecond)
	}
	w.want(t, Undone, "old/0")
	if got := w.machine.Reason; got != "the DEAs cannot start instance 0: 100% of the disk is used" {
		t.Errorf("the reason is %q", got)
	}
}

func TestNobodyTakesAStart(t *testing.T) {
	w := newWorld(1, testSettings(1))
	for range 400 {
		w.pass(250 * time.Millisecond)
		w.step(w.look(always))
		for _, i := range w.instances[1:] {
			i.gone = true // the DEA has ignored it
		}
	}
	w.want(t, Undone, "old/0")
	if !strings.Contains(w.machine.Reason, "no DEA says") {
		t.Errorf("the reason is %q", w.machine.Reason)
	}
}

// TestNothingStopsForAnInstanceThatIsNotSeen: its DEA went silently while the
// routers were given their time.
func TestNothingStopsForAnInstanceThatIsNotSeen(t *testing.T) {
	w := newWorld(1, testSettings(1))
	for range 200 {
		if w.machine.Indices[0].Step == Settling {
			break
		}
		w.pass(100 * time.Millisecond)
		w.step(w.look(always))
	}
	w.instances[1].gone = true
	for range 50 {
		w.pass(100 * time.Millisecond)
		w.step(w.look(always))
	}
	if len(w.stopped) > 0 {
		t.Errorf("for an instance that is gone were stopped %+v", w.stopped)
	}
	w.finish(t)
	w.want(t, Done, "new/0")
}

// TestUpdates: whatever happens, at most as many indices are without an instance
// as chance has taken, and when it has ended so does the update: every index runs
// the one version that the outcome says, and nothing else runs.
func TestUpdates(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		instances := rapid.IntRange(1, 6).Draw(t, "instances")
		w := newWorld(instances, testSettings(rapid.IntRange(1, 4).Draw(t, "in flight")))
		w.bad["new"] = rapid.SampledFrom([]string{"", "", "at start", "never listens", "soon"}).Draw(t, "bad")
		w.room = rapid.IntRange(0, 8).Draw(t, "room")
		chance := map[int]bool{} // indices that lost an instance that served
		check := func() {
			served := map[int]bool{}
			for _, i := range w.instances {
				if i.Running && !i.gone {
					served[i.Index] = true
				}
			}
			for index := range w.least {
				if !served[index] && !chance[index] {
					t.Fatalf("index %d is not served: %+v\nstops %+v", index, w.machine.Update, w.stopped)
				}
			}
		}
		answers := func() bool { return rapid.IntRange(0, 4).Draw(t, "answers") > 0 }
		for range rapid.IntRange(0, 80).Draw(t, "steps") {
			if w.machine.Outcome != Running {
				break
			}
			for _, e := range w.pass(time.Duration(rapid.IntRange(50, 2000).Draw(t, "ms")) * time.Millisecond) {
				if answers() { // else the controller was away
					w.step(e)
				}
			}
			switch rapid.IntRange(0, 11).Draw(t, "what") {
			case 0:
				w.restart()
			case 1: // the controller dies between its save and what it does
				w.machine.Step(w.now, w.look(answers))
				if w.machine.Changed() && w.machine.Outcome == Running {
					w.save()
				}
				w.restart()
			case 2:
				i := rapid.SampledFrom(w.instances).Draw(t, "crashes")
				if !i.gone && !i.Crashed {
					chance[i.Index] = chance[i.Index] || i.Running
					i.Running, i.Crashed = false, true
					w.room++
					w.step(Exited{ID: i.ID, Version: i.Version, Index: i.Index, Crashed: true})
				}
			case 3:
				i := rapid.SampledFrom(w.instances).Draw(t, "DEA ends")
				if !i.gone && !i.Crashed {
					chance[i.Index] = chance[i.Index] || i.Running
					i.gone = true
					w.room++
					if answers() {
						w.step(Exited{ID: i.ID, Version: i.Version, Index: i.Index, Gone: true})
					}
				}
			case 4:
				n := rapid.IntRange(0, 6).Draw(t, "scaled")
				for _, i := range w.instances {
					if i.Index >= n && !i.gone {
						i.gone = true
					}
				}
				w.least = min(w.least, n)
				w.step(Scaled{n})
			default:
				w.step(w.look(answers))
			}
			check()
		}
		w.room = 1 << 20
		for range 2000 {
			if w.machine.Outcome != Running {
				break
			}
			for _, e := range w.pass(500 * time.Millisecond) {
				w.step(e)
			}
			w.step(w.look(always))
			check()
		}
		version := "new"
		switch {
		case w.machine.Outcome == Running:
			t.Fatalf("the update does not end: %+v\n%s", w.machine.Update, w.runs())
		case w.machine.Outcome == Undone:
			version = "old"
		case w.bad["new"] != "" && len(w.machine.Indices) > 0:
			t.Fatalf("a bad version took the place of a good one: %+v", w.machine.Update)
		}
		for _, i := range w.instances {
			if !i.gone && !i.Crashed && i.Version != version && i.Index < len(w.machine.Indices) {
				t.Errorf("%s/%d runs after an update that is %q: %+v", i.Version, i.Index, w.machine.Outcome, w.machine.Update)
			}
		}
	})
}
