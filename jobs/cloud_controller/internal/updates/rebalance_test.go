package updates

import (
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// TestPace: one app at a time, long enough after the last one and after the last DEA
// that came or went, and none again before one more DEA has come.
func TestPace(t *testing.T) {
	t.Parallel()
	const every = time.Minute
	at := func(s int) time.Time { return time.Unix(1343815200+int64(s), 0) }
	var p pace
	due := func(s int, changed int, want bool) {
		t.Helper()
		if got := p.due(every, at(changed), at(s)); got != want {
			t.Errorf("after %d s, the DEAs unchanged since %d s, due is %v", s, changed, got)
		}
	}
	app := func(id int64) store.App {
		return store.App{Identity: store.Identity{ID: id}, State: store.Started, Spec: store.Spec{Instances: 2}}
	}
	due(1000, 0, false) // nothing was seen yet
	p.saw(store.Turn{Number: 4, AppID: 7}, 3, at(0))
	due(59, 0, false)
	due(60, 0, true)
	due(60, 1, false)
	p.saw(store.Turn{Number: 4, AppID: 7}, 3, at(30))
	due(60, 0, true) // it is the same turn
	p.saw(store.Turn{Number: 5, AppID: 8}, 3, at(70))
	due(129, 0, false)
	due(130, 0, true)
	if (&pace{since: at(0)}).due(0, at(0), at(1000)) {
		t.Error("due although it is off")
	}
	for _, tc := range []struct {
		id     int64
		joined int
		want   bool
	}{{7, 3, false}, {8, 3, false}, {9, 3, true}, {7, 4, true}, {8, 4, true}} {
		if got := p.may(app(tc.id), tc.joined); got != tc.want {
			t.Errorf("app %d with %d DEAs that have joined: %v", tc.id, tc.joined, got)
		}
	}
	one, stopped := app(9), app(9)
	one.Instances, stopped.State = 1, store.Stopped
	if p.may(one, 3) || p.may(stopped, 3) {
		t.Error("an app with nothing to spread has a turn")
	}
}
