package rolling

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func TestWatchTakesBackWhatCrashes(t *testing.T) {
	crash := func(version, id string) Event {
		return Exited{ID: id, Version: version, Crashed: true, Why: "It ended."}
	}
	looked := func(version, id string) Event {
		return Looked{Instances: []Instance{{ID: id, Version: version, Crashed: true}, {ID: "other", Version: version, Running: true}}}
	}
	for _, c := range []struct {
		name      string
		instances int
		events    []Event
		want      string
	}{
		{"the only instance", 1, []Event{crash("new", "a")}, "the new version crashed after its update was done (1 of 1 instances): It ended."},
		{"seen by a look only", 1, []Event{looked("new", "a")}, "the new version crashed after its update was done (1 of 1 instances)"},
		{"one of several", 2, []Event{crash("new", "a")}, ""},
		{"the same one, told twice", 3, []Event{crash("new", "a"), looked("new", "a"), crash("new", "a")}, ""},
		{"two of several", 3, []Event{crash("new", "a"), crash("new", "b")}, "the new version crashed after its update was done (2 of 3 instances): It ended."},
		{"scaled to one after a crash", 1, []Event{looked("new", "a")}, "the new version crashed after its update was done (1 of 1 instances)"},
		{"the old version's crash", 1, []Event{crash("old", "a"), looked("old", "b")}, ""},
		{"no fault of the app's", 1, []Event{Exited{ID: "a", Version: "new"}, Exited{ID: "b", Version: "new", Gone: true}}, ""},
		{"an app without instances", 0, []Event{crash("new", "a")}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, got := ResumeWatch(New("new", "old", nil, c.instances)), ""
			for _, e := range c.events {
				if got == "" {
					got = w.Step(e, c.instances)
				}
				w = ResumeWatch(w.Update) // another controller goes on with what was saved
			}
			if got != c.want || (got == "") == (w.Failed != "") {
				t.Errorf("the reason is %q of %q, want %q", got, w.Failed, c.want)
			}
		})
	}
}

// TestWatchCounts: whatever comes in whatever order, a version is taken back exactly
// when so many different instances of it have crashed.
func TestWatchCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		instances := rapid.IntRange(1, 4).Draw(t, "instances")
		w, crashed := ResumeWatch(New("new", "old", nil, instances)), map[string]bool{}
		for range rapid.IntRange(1, 10).Draw(t, "events") {
			id, version := fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "id")), rapid.SampledFrom([]string{"new", "old"}).Draw(t, "version")
			died := rapid.Bool().Draw(t, "crashed")
			if died && version == "new" {
				crashed[id] = true
			}
			var e Event = Exited{ID: id, Version: version, Crashed: died}
			if rapid.Bool().Draw(t, "looked") {
				e = Looked{Instances: []Instance{{ID: id, Version: version, Crashed: died}}}
			}
			back := w.Step(e, instances) != ""
			if want := len(crashed) >= min(2, instances); back != want {
				t.Fatalf("taken back: %v, after the crashes of %v", back, crashed)
			}
			if back {
				return
			}
		}
	})
}
