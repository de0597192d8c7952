package cloudcontroller

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
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

// update describes what a client reads of an update.
type shownUpdate struct {
	ID       int
	Status   string
	Version  string
	Replaced int
	Held     bool
	Watching bool
	Reason   string
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
	u.call("PUT", "/apps/hello/update", map[string]any{"cause": "restart\x00" + strings.Repeat("é", 10_000), "canary": 2}).want(200).json(&begun)
	received(t, d.starts)
	received(t, d.starts)
	// What is said of the cause is kept, and bounded.
	if said := u.call("GET", "/apps/hello/events", nil).want(200).Body; !strings.Contains(said, "begun: restarté") || strings.Contains(said, "\\u0000") || len(said) > 1000 {
		t.Errorf("events: %.2000s", said)
	}
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

// crash lets an instance of a version crash: the DEA tells of it, and keeps what is
// left.
func (d *dea) crash(w *world, version string) {
	w.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	at := slices.IndexFunc(d.instances, func(f wire.DEAFound) bool { return f.Version == version && f.State == wire.StateRunning })
	if at < 0 {
		w.t.Fatalf("no instance of %s runs", version)
	}
	d.instances[at].State = wire.StateCrashed
	f := d.instances[at]
	data, err := json.Marshal(wire.DropletExited{
		Droplet: f.Droplet, Version: f.Version, Instance: f.Instance, Index: f.Index, Reason: wire.ReasonCrashed, ExitDescription: "The app ended with status 9.", CrashTimestamp: 1,
	})
	must(w.t, err)
	must(w.t, w.conn.Publish(wire.SubjectDropletExited, data))
}

// runs reports whether running instances of this version, and no others, are there.
func (d *dea) runs(version string, instances int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, f := range d.instances {
		switch {
		case f.State == wire.StateCrashed:
		case f.Version != version:
			return false
		default:
			n++
		}
	}
	return n == instances
}

// TestAVersionThatCrashesLaterIsTakenBack: a version whose update is done is watched;
// what proves bad then gives way to the release before it, whoever watches by then.
func TestAVersionThatCrashesLaterIsTakenBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.pair()
	d := w.dea("d")
	w.anyStager()
	u := first.register("dev@example.com")
	elsewhere := &client{c: second, token: u.token}
	u.running(d, "hello", 1)
	good := u.stored("hello").DropletHash
	push := func(by *client, text string) (now shownUpdate) {
		t.Helper()
		by.upload("hello", zipOf(t, map[string]string{"app.js": text}), "[]").want(200)
		by.call("PUT", "/apps/hello/update", map[string]any{"cause": "push"}).want(200).json(&now)
		eventually(t, "the update is done", func() bool {
			by.call("GET", fmt.Sprintf("/apps/hello/updates/%d", now.ID), nil).want(200).json(&now)
			return now.Status == "done"
		})
		if !now.Watching {
			t.Errorf("the new version is not watched: %+v", now)
		}
		return now
	}
	bad := push(u, "bad")
	must(t, first.stop())
	d.crash(w, bad.Version)
	eventually(t, "it is taken back", func() bool { return elsewhere.stored("hello").DropletHash == good })
	eventually(t, "the former release runs", func() bool { return d.runs(model.Version(elsewhere.stored("hello")), 1) })
	elsewhere.call("GET", fmt.Sprintf("/apps/hello/updates/%d", bad.ID), nil).want(200).json(&bad)
	if bad.Status != "undone" || !strings.Contains(bad.Reason, "crashed after its update was done (1 of 1 instances)") {
		t.Errorf("of the bad one is told %+v", bad)
	}
	if events := elsewhere.call("GET", "/apps/hello/events", nil).want(200); !strings.Contains(events.Body, "begun by itself: back to release 1: the new version crashed") {
		t.Errorf("the events are %s", events.Body)
	}
	// Who was taken back to is watched no more: it would go to and fro.
	var back shownUpdate
	elsewhere.call("GET", fmt.Sprintf("/apps/hello/updates/%d", bad.ID+1), nil).want(200).json(&back)
	if back.Status != "done" || back.Watching {
		t.Errorf("the way back is %+v", back)
	}

	// A later update, or a stop, ends the watch.
	push(elsewhere, "fine")
	fine := push(elsewhere, "finer")
	elsewhere.put("hello", map[string]any{"state": "STOPPED"}).want(200)
	elsewhere.call("GET", fmt.Sprintf("/apps/hello/updates/%d", fine.ID), nil).want(200).json(&fine)
	if fine.Watching {
		t.Errorf("a stopped app's version is watched: %+v", fine)
	}
	list, err := second.working().store.AllDriven(t.Context())
	if err != nil || len(list) > 0 {
		t.Errorf("still driven: %+v, %v", list, err)
	}
}

// spread returns how many running instances of a version each DEA has.
func spread(version string, deas ...*dea) (counts []int) {
	for _, d := range deas {
		d.mu.Lock()
		n := 0
		for _, f := range d.instances {
			if f.Version == version && f.State == wire.StateRunning {
				n++
			}
		}
		d.mu.Unlock()
		counts = append(counts, n)
	}
	return counts
}

// TestRebalance: when a DEA joins, one of several controllers spreads the app's
// instances anew, once, by an update that leaves files and settings to their owner.
func TestRebalance(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.pair("update: {min_healthy_time: 100ms, rebalance_every: 1s}\n")
	w.anyStager()
	deas := []*dea{w.dea("a")}
	advertise := func() {
		t.Helper()
		for _, d := range deas {
			data, err := json.Marshal(wire.DEAAdvertise{ID: d.id, AvailableMemory: 4096, Runtimes: []string{"node"}})
			must(t, err)
			must(t, w.conn.Publish(wire.SubjectDEAAdvertise, data))
		}
	}
	advertise()
	u := first.register("dev@example.com")
	app := u.running(deas[0], "hello", 4)
	u.upload("hello", zipOf(t, map[string]string{"app.js": "not yet"}), "[]").want(200)
	u.put("hello", map[string]any{"env": []string{"NOT=yet"}}).want(200)
	for turn, want := range [][]int{{2, 2}, {2, 1, 1}} {
		deas = append(deas, w.dea(fmt.Sprint("joins", turn)))
		var now store.App
		eventually(t, fmt.Sprintf("the instances are spread as %v", want), func() bool {
			advertise()
			now = u.stored("hello")
			counts := spread(model.Version(now), deas...)
			slices.SortFunc(counts, func(a, b int) int { return b - a })
			return now.RunCount > app.RunCount+turn && slices.Equal(counts, want)
		})
		if now.RunCount != app.RunCount+turn+1 || now.DropletHash != app.DropletHash || now.PackageHash == app.PackageHash || !slices.Equal(now.Environment, []string{"NOT=yet"}) {
			t.Errorf("the app is %+v, and was %+v", now, app)
		}
		if release, err := second.working().store.Present(t.Context(), now); err != nil || len(release.Spec.Environment) > 0 {
			t.Errorf("what runs is %+v, %v", release, err)
		}
	}
	if turn, err := second.working().store.Turn(t.Context()); err != nil || turn != (store.Turn{Number: 2, AppID: app.ID}) {
		t.Errorf("the turn is %+v, %v", turn, err)
	}
	if events := u.call("GET", "/apps/hello/events", nil).want(200); strings.Count(events.Body, "begun by itself: rebalance") != 2 {
		t.Errorf("the events are %s", events.Body)
	}
}

// TestScaledDownIsSpread: the highest indices end, and if those that are left share a DEA
// then, while another one has none, they are spread anew. Where they do not, nothing is
// restarted.
func TestScaledDownIsSpread(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("update: {min_healthy_time: 100ms, watch_time: 0s}\n")
	w.anyStager()
	deas := []*dea{w.dea("a")}
	u := c.register("dev@example.com")
	app := u.running(deas[0], "hello", 2)
	deas = append(deas, w.dea("b"))
	advertise := func() {
		for _, d := range deas {
			data, err := json.Marshal(wire.DEAAdvertise{ID: d.id, AvailableMemory: 4096, Runtimes: []string{"node"}})
			must(t, err)
			must(t, w.conn.Publish(wire.SubjectDEAAdvertise, data))
		}
	}
	are := func(what string, want ...int) {
		t.Helper()
		eventually(t, what, func() bool {
			advertise()
			return slices.Equal(spread(model.Version(u.stored("hello")), deas...), want)
		})
	}
	advertise()
	u.put("hello", map[string]any{"instances": 4}).want(200)
	are("the new ones are where there were none", 2, 2)
	u.put("hello", map[string]any{"instances": 2}).want(200)
	are("the two that are left, both of one DEA, are spread", 1, 1)
	if now := u.stored("hello"); now.RunCount != app.RunCount+1 {
		t.Errorf("the app is %+v, and was %+v", now, app)
	}

	u.put("hello", map[string]any{"instances": 3}).want(200)
	eventually(t, "there are three", func() bool {
		counts := spread(model.Version(u.stored("hello")), deas...)
		return counts[0]+counts[1] == 3
	})
	u.put("hello", map[string]any{"instances": 2}).want(200)
	are("two are left", 1, 1)
	eventually(t, "that is known to be even", func() bool {
		advertise()
		return !c.working().updates.Spreads()
	})
	if now := u.stored("hello"); now.RunCount != app.RunCount+1 {
		t.Errorf("without need the app was restarted: %+v", now)
	}
}

// TestTwoPushesAtOnce: of two pushes the later one's files run, whichever is staged
// first, and the earlier one is told so.
func TestTwoPushesAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("")
	d := w.dea("d")
	slow := make(chan struct{})
	staging := make(chan string, 10)
	w.stager(func(_ wire.StagingRequest, files []byte) ([]byte, string, string) {
		droplet := "droplet of " + sum(files)
		staging <- sum(files)
		if strings.Contains(string(files), "earlier") {
			<-slow
		}
		return []byte(droplet), "staged", ""
	})
	u := c.register("dev@example.com")
	u.running(d, "hello", 1)
	<-staging
	upload := func(name, text string) string {
		t.Helper()
		sha1 := u.upload(name, zipOf(t, map[string]string{text: text}), "[]").want(200).Header.Get("X-App-Package")
		if sha1 != u.stored(name).PackageHash {
			t.Errorf("the upload is said to be %q, and is %q", sha1, u.stored(name).PackageHash)
		}
		return sha1
	}
	earlier := upload("hello", "earlier")
	told := make(chan answer, 1)
	go func() { told <- u.call("PUT", "/apps/hello/update", map[string]any{"package": earlier}) }()
	received(t, staging)
	later := upload("hello", "later")
	u.call("PUT", "/apps/hello/update", map[string]any{"package": later}).want(200)
	close(slow)
	if a := <-told; a.Status != 400 || !strings.Contains(a.Body, "the later push wins") {
		t.Errorf("the earlier push is told %d %s", a.Status, a.Body)
	}
	// Not staged yet when the later one's files came: the files are not its own.
	if a := u.call("PUT", "/apps/hello/update", map[string]any{"package": earlier}); a.Status != 400 || !strings.Contains(a.Body, "the later push wins") {
		t.Errorf("the earlier push is told %d %s", a.Status, a.Body)
	}
	eventually(t, "the later one's files run", func() bool {
		app := u.stored("hello")
		return app.PackageHash == later && app.PackageState == "STAGED" && d.runs(model.Version(app), 1)
	})
	// The same for the first start.
	u.create("other")
	earlier = upload("other", "early enough")
	later = upload("other", "late")
	if a := u.call("PUT", "/apps/other", map[string]any{"state": "STARTED", "package": earlier}); a.Status != 400 || !strings.Contains(a.Body, "the later push wins") {
		t.Errorf("the earlier push is told %d %s", a.Status, a.Body)
	}
	u.call("PUT", "/apps/other", map[string]any{"state": "STARTED", "package": later}).want(200)
}

// TestHostsAreTold: routers are told which host names apps have, started or not: at
// once what changes, and all of them when a router starts.
func TestHostsAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("")
	told := w.subscribe(wire.SubjectRouterHosts)
	u := c.register("dev@example.com")
	want := func(what string, is func(wire.RouterHosts) bool) {
		t.Helper()
		for !is(next(t, told, wire.ParseRouterHosts)) {
		}
		t.Log(what)
	}
	u.create("one")
	hosts := func(name string) []string {
		t.Helper()
		return u.stored(name).URIs
	}
	first := hosts("one")[0]
	want("an app is made", func(m wire.RouterHosts) bool { return slices.Contains(m.Hosts, first) })
	u.create("two")
	u.put("two", map[string]any{"uris": []string{first, "two.cf.localhost"}}).want(200)
	want("one is mapped", func(m wire.RouterHosts) bool { return slices.Contains(m.Hosts, "two.cf.localhost") })
	// The other app still has it.
	u.put("one", map[string]any{"uris": []string{"one-too.cf.localhost"}}).want(200)
	want("one is unmapped", func(m wire.RouterHosts) bool {
		if slices.Contains(m.Gone, first) {
			t.Errorf("gone is said of %s, which another app has", first)
		}
		return slices.Contains(m.Hosts, "one-too.cf.localhost")
	})
	u.call("DELETE", "/apps/two", nil).want(200)
	want("the other is deleted", func(m wire.RouterHosts) bool {
		return slices.Contains(m.Gone, first) && slices.Contains(m.Gone, "two.cf.localhost")
	})
	must(t, w.conn.Publish(wire.SubjectRouterStart, []byte(`{"id":"r","hosts":["127.0.0.1"]}`)))
	want("a router starts", func(m wire.RouterHosts) bool { return slices.Equal(m.Hosts, []string{"one-too.cf.localhost"}) })
}
