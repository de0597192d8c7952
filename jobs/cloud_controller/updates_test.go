package cloudcontroller

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/wire"
)

// versions are those of a DEA's instances, by index.
func (d *dea) versions() [][]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list [][]string
	for _, f := range d.instances {
		for len(list) <= f.Index {
			list = append(list, nil)
		}
		list[f.Index] = append(list[f.Index], f.Version)
	}
	return list
}

// update is what a client reads of an update.
type shownUpdate struct {
	ID       int
	Status   string
	Version  string
	Replaced int
	Held     bool
}

// TestUpdateIsTakenOver: the controller that has begun an update leaves, another one
// goes on where it was.
func TestUpdateIsTakenOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.pair()
	d := w.dea("d")
	w.anyStager()
	u := first.register("dev@example.com")
	app := u.running(d, "hello", 4)
	var begun, now shownUpdate
	u.call("PUT", "/apps/hello/update", map[string]any{"cause": "restart", "canary": 2}).want(200).json(&begun)
	received(t, d.starts)
	received(t, d.starts)
	must(t, first.stop())
	elsewhere := &client{c: second, token: u.token}
	look := func() shownUpdate {
		elsewhere.call("GET", "/apps/hello/updates/2", nil).want(200).json(&now)
		return now
	}
	eventually(t, "the other controller has come as far as it may", func() bool { return look().Held })
	if now.Status != "running" || now.Replaced != 2 || now.Version == model.Version(app) || now.ID != begun.ID {
		t.Errorf("the update is %+v", now)
	}
	if got := elsewhere.stored("hello"); got.RunCount != app.RunCount {
		t.Errorf("the record names run %d before the update is done", got.RunCount)
	}
	elsewhere.call("PUT", "/apps/hello/update", map[string]any{"promote": true}).want(200)
	eventually(t, "it is done", func() bool { return look().Status == "done" })
	for index, versions := range d.versions() {
		if !slices.Equal(versions, []string{now.Version}) {
			t.Errorf("index %d has %v, want %s only", index, versions, now.Version)
		}
	}
	if got := elsewhere.stored("hello"); model.Version(got) != now.Version {
		t.Errorf("the record names %s", model.Version(got))
	}
	var list []struct{ Release int }
	elsewhere.call("GET", "/apps/hello/releases", nil).want(200).json(&list)
	if len(list) != 1 {
		t.Errorf("a restart is another release: %+v", list)
	}
}

// TestHealthManagerDuringAnUpdate: one that knows nothing of updates stops nothing,
// and what it misses is started in the version that the index has by now.
func TestHealthManagerDuringAnUpdate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("")
	d := w.dea("d")
	w.anyStager()
	u := c.register("dev@example.com")
	app := u.running(d, "hello", 2)
	var now shownUpdate
	u.call("PUT", "/apps/hello/update", map[string]any{"canary": 1}).want(200).json(&now)
	received(t, d.starts)
	eventually(t, "the canary runs", func() bool {
		u.call("GET", "/apps/hello/updates/2", nil).want(200).json(&now)
		return now.Held
	})
	if bulk := u.bulk()["1"]; bulk.Version != model.Version(app) || bulk.Updating != now.Version {
		t.Errorf("the health manager is told %+v", bulk)
	}
	ask := func(r wire.HealthManagerRequest) {
		r.Droplet, r.LastUpdated, r.Version = "1", u.stored("hello").UpdatedAt, model.Version(app)
		data, err := json.Marshal(r)
		must(t, err)
		must(t, w.conn.Publish("cloudcontrollers.hm.requests", data))
	}
	d.mu.Lock()
	var all []string
	for _, f := range d.instances {
		all = append(all, f.Instance)
	}
	d.mu.Unlock()
	for len(d.stops) > 0 {
		<-d.stops
	}
	ask(wire.HealthManagerRequest{Op: wire.OpStop, Instances: all})
	ask(wire.HealthManagerRequest{Op: wire.OpStart, Indices: []int{0, 1}})
	started := map[int]string{}
	for range 2 {
		s := received(t, d.starts)
		started[s.Index] = s.Version
	}
	if started[0] != now.Version || started[1] != model.Version(app) {
		t.Errorf("started %v, want index 0 of %s and index 1 of %s", started, now.Version, model.Version(app))
	}
	for len(d.stops) > 0 {
		if s := <-d.stops; s.Instances != nil {
			t.Errorf("the health manager has stopped %+v during an update", s)
		}
	}
	// Stopping the app ends the update; a later start has what was wanted.
	u.put("hello", map[string]any{"state": "STOPPED"}).want(200)
	u.call("GET", "/apps/hello/updates/2", nil).want(200).json(&now)
	if now.Status != "cancelled" {
		t.Errorf("the update of an app that was stopped is %s", now.Status)
	}
	u.call("GET", "/apps/hello/updates/77", nil).fails(400, 100)
	u.call("PUT", "/apps/hello/update", nil).fails(400, 305)
}
