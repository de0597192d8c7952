package cloudcontroller

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/auth"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// running pushes an app and starts it.
func (u *client) running(d *dea, name string, instances int) store.App {
	t := u.c.w.t
	t.Helper()
	u.create(name)
	u.upload(name, zipOf(t, map[string]string{"app.js": name}), "[]").want(200)
	u.put(name, map[string]any{"instances": instances, "state": "STARTED"}).want(200)
	for range instances {
		received(t, d.starts)
	}
	return u.stored(name)
}

func (u *client) stored(name string) store.App {
	t := u.c.w.t
	t.Helper()
	email, err := auth.NewSigner("").Owner(u.token)
	must(t, err)
	owner, err := u.c.working().store.User(t.Context(), email)
	must(t, err)
	app, err := u.c.working().store.App(t.Context(), owner.ID, name)
	must(t, err)
	return app
}

// TestCommands: what each change of a running app tells the DEAs and the health
// manager.
func TestCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("update: {strategy: now}\n")
	d := w.dea("d")
	w.anyStager()
	u := c.register("dev@example.com")
	app := u.running(d, "hello", 2)
	updates, updated := w.subscribe(wire.SubjectDEAUpdate), w.subscribe(wire.SubjectDropletUpdated)

	u.put("hello", map[string]any{"instances": 4}).want(200)
	for _, index := range []int{2, 3} {
		if s := received(t, d.starts); s.Index != index || s.Version != model.Version(app) {
			t.Errorf("scaled up: %+v", s)
		}
	}
	next(t, updated, wire.ParseDropletUpdated)
	u.put("hello", map[string]any{"instances": 1}).want(200)
	if s := received(t, d.stops); s.Version != "" || !slices.Equal(s.Indices, []int{1, 2, 3}) || s.Instances != nil {
		t.Errorf("scaled down: %+v", s)
	}
	next(t, updated, wire.ParseDropletUpdated)

	u.put("hello", map[string]any{"uris": []string{"hello.cf.localhost", "other.cf.localhost"}}).want(200)
	m := next(t, updates, wire.ParseDEAStart)
	if m.Droplet != "1" || !slices.Equal(m.URIs, []string{"hello.cf.localhost", "other.cf.localhost"}) || m.SHA1 != app.DropletHash {
		t.Errorf("dea.update: %+v", m)
	}
	u.put("hello", map[string]any{"env": []string{"A=b"}}).want(200)
	w.none(updates)
	w.none(updated)

	// A new upload changes nothing that runs, until it is taken into use.
	u.upload("hello", zipOf(t, map[string]string{"app.js": "new"}), "[]").want(200)
	if doc := u.document("hello"); doc["version"] != model.Version(app) {
		t.Errorf("after the upload: %v", doc["version"])
	}
	bulk := u.bulk()["1"]
	if bulk.PackageState != wire.PackageStaged || bulk.Version != model.Version(app) || bulk.State != wire.AppStarted {
		t.Errorf("the health manager is told %+v", bulk)
	}
	u.call("PUT", "/apps/hello/update", nil).want(204)
	if s := received(t, d.stops); s.Droplet != "1" || s.Version != "" || s.Indices != nil {
		t.Errorf("update stops %+v", s)
	}
	s := received(t, d.starts)
	if s.SHA1 == app.DropletHash || s.Version != s.SHA1+"-2" || s.Env[0] != "A=b" {
		t.Errorf("update starts %+v", s)
	}
	// Started again, the same droplet is another version.
	u.put("hello", map[string]any{"state": "STOPPED"}).want(200)
	u.put("hello", map[string]any{"state": "STARTED"}).want(200)
	if again := received(t, d.starts); again.Version != s.SHA1+"-3" {
		t.Errorf("started again as %s", again.Version)
	}
	u.call("DELETE", "/apps/hello", nil).want(200)
	received(t, d.stops)
	if s := received(t, d.stops); s.Droplet != "1" || s.Version != "" {
		t.Errorf("deleted: %+v", s)
	}
}

// bulk reads all apps as the health manager does.
func (u *client) bulk() map[wire.ID]wire.BulkApp {
	t := u.c.w.t
	t.Helper()
	auth := u.c.config.Now().BulkAPI.Auth
	request := http.Request{Header: http.Header{}}
	request.SetBasicAuth(auth.User, auth.Password)
	apps, err := wire.ParseBulkApps([]byte((&client{c: u.c}).do("GET", "/bulk/apps", request.Header, nil).want(200).Body))
	must(t, err)
	return apps.Results
}

// TestHealthManagerRequests: what the health manager asks for is done if it
// judged the app as it is now.
func TestHealthManagerRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("")
	d := w.dea("d")
	w.anyStager()
	u := c.register("dev@example.com")
	app := u.running(d, "hello", 2)
	ask := func(subject string, change func(*wire.HealthManagerRequest)) {
		t.Helper()
		r := wire.HealthManagerRequest{Droplet: "1", Op: wire.OpStart, LastUpdated: app.UpdatedAt, Version: model.Version(app), Indices: []int{1}}
		change(&r)
		data, err := json.Marshal(r)
		must(t, err)
		must(t, w.conn.Publish(subject, data))
	}
	plain, partition := wire.SubjectHealthManagerRequests, wire.SubjectHealthManagerRequests+".default"

	ask(plain, func(r *wire.HealthManagerRequest) { r.Flapping = true })
	if s := received(t, d.starts); s.Index != 1 || !s.Flapping || s.Version != model.Version(app) {
		t.Errorf("started %+v", s)
	}
	// The older dialect's number, and what is to be ignored before what is not.
	must(t, w.conn.Publish(partition, fmt.Appendf(nil, `{"droplet":1,"op":"START","last_updated":1,"version":"other-1","indices":[0]}`)))
	ask(partition, func(r *wire.HealthManagerRequest) { r.Indices = []int{2, 100} })
	for _, broken := range []string{"", "{", "[]", `{"droplet":"1"}`, `{"droplet":"1","op":"BURN"}`, `{"droplet":{},"op":"START"}`, `{"droplet":"x","op":"START"}`, `{"droplet":"99","op":"START","version":"x","indices":[0]}`} {
		must(t, w.conn.Publish(partition, []byte(broken)))
	}
	must(t, w.conn.Publish(partition, fmt.Appendf(nil, `{"droplet":1,"op":"START","last_updated":1,"version":"%s","indices":[0]}`, model.Version(app))))
	if s := received(t, d.starts); s.Index != 0 {
		t.Errorf("started %+v", s)
	}

	ask(plain, func(r *wire.HealthManagerRequest) {
		r.Op, r.Instances, r.LastUpdated = wire.OpStop, []string{"old"}, app.UpdatedAt-1
	})
	ask(plain, func(r *wire.HealthManagerRequest) { r.Op, r.Instances = wire.OpStop, []string{"extra"} })
	if s := received(t, d.stops); !slices.Equal(s.Instances, []string{"extra"}) {
		t.Errorf("stopped %+v", s)
	}
	ask(plain, func(r *wire.HealthManagerRequest) { r.Droplet, r.Op = "99", wire.OpStop })
	if s := received(t, d.stops); s.Droplet != "99" || s.Instances != nil {
		t.Errorf("of an app that is gone, stopped %+v", s)
	}
	ask(plain, func(r *wire.HealthManagerRequest) { r.Op = wire.OpSpinDown })
	if s := received(t, d.stops); s.Droplet != "1" || s.Instances != nil {
		t.Errorf("spun down: %+v", s)
	}
	if doc := u.document("hello"); doc["state"] != "STOPPED" {
		t.Errorf("spun down: %v", doc["state"])
	}
	select {
	case s := <-d.starts:
		t.Errorf("started %+v", s)
	default:
	}
}

// Of several controllers one does what the health manager asks for.
func TestQueueGroup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	name, _ := postgres.Database(t)
	database := postgresSettings(name)
	first, second := w.start(database), w.start(database)
	d := w.dea("d")
	w.anyStager()
	u := first.register("dev@example.com")
	app := u.running(d, "hello", 1)
	const n = 20
	for range n {
		data, err := json.Marshal(wire.HealthManagerRequest{Droplet: "1", Op: wire.OpStart, Version: model.Version(app), Indices: []int{0}})
		must(t, err)
		must(t, w.conn.Publish(wire.SubjectHealthManagerRequests, data))
	}
	for range n {
		received(t, d.starts)
	}
	// A stop that follows through the same queues is the last thing that comes.
	(&client{c: second, token: u.token}).put("hello", map[string]any{"state": "STOPPED"}).want(200)
	received(t, d.stops)
	select {
	case <-d.starts:
		t.Error("more was started than was asked for")
	default:
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("")
	d := w.dea("d")
	w.anyStager()
	u := c.register("dev@example.com")
	app := u.running(d, "hello", 3)
	if doc := u.document("hello"); doc["runningInstances"] != nil {
		t.Errorf("without a health manager: %v", doc["runningInstances"])
	}
	var droplet atomic.Value
	droplet.Store(`"1"`)
	_, err := w.conn.Subscribe(wire.SubjectHealthManagerHealth, func(m *nats.Msg) {
		_ = m.Respond([]byte("not JSON"))
		_ = m.Respond([]byte(`{"droplet":"99","version":"x","healthy":7}`))
		_ = m.Respond(fmt.Appendf(nil, `{"droplet":%s,"version":"%s","healthy":2}`, droplet.Load(), model.Version(app)))
	})
	must(t, err)
	_, err = w.conn.Subscribe(wire.SubjectHealthManagerStatus, func(m *nats.Msg) {
		r, err := wire.ParseHealthStatusRequest(m.Data)
		switch {
		case err != nil:
			t.Error(err)
		case r.State == wire.StatusFlapping:
			_ = m.Respond([]byte(`{"indices":[{"index":1,"since":1343815200},{"index":9,"since":1}]}`))
		default:
			_ = m.Respond([]byte(`{"instances":[{"instance":"abc","since":1343815260}]}`))
		}
	})
	must(t, err)
	must(t, w.conn.Flush())
	for _, id := range []string{`"1"`, `1`} { // both dialects
		droplet.Store(id)
		if doc := u.document("hello"); doc["runningInstances"] != 2.0 {
			t.Errorf("droplet %s: %v", id, doc["runningInstances"])
		}
	}
	d.mu.Lock()
	d.instances = slices.DeleteFunc(d.instances, func(f wire.DEAFound) bool { return f.Index == 2 })
	d.mu.Unlock()
	var doc struct{ Instances []shownInstance }
	u.call("GET", "/apps/hello/instances", nil).want(200).json(&doc)
	if len(doc.Instances) != 3 || doc.Instances[0].State != "RUNNING" || doc.Instances[1].State != "FLAPPING" || doc.Instances[1].Since != 1343815200 || doc.Instances[2].State != "DOWN" {
		t.Errorf("instances: %+v", doc.Instances)
	}
	var stats map[string]struct {
		State string
		Since int64
		Stats json.RawMessage
	}
	u.call("GET", "/apps/hello/stats", nil).want(200).json(&stats)
	if len(stats) != 3 || stats["2"].State != "DOWN" || stats["2"].Since == 0 || stats["2"].Stats != nil || stats["0"].Since != 0 {
		t.Errorf("stats: %+v", stats)
	}
	if got := u.call("GET", "/apps/hello/crashes", nil).want(200).Body; got != `{"crashes":[{"instance":"abc","since":1343815260}]}` {
		t.Errorf("crashes: %s", got)
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("")
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "u" || password != "p" {
			w.WriteHeader(401)
			return
		}
		switch r.URL.Path {
		case "/droplets/hello-1-x/logs/std out.log":
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader("<b>line</b>"))
		case "/droplets/hello-1-x/":
			_, _ = io.WriteString(w, "app/                                         -\n")
		default:
			w.WriteHeader(404)
			_, _ = io.WriteString(w, r.URL.Path)
		}
	}))
	t.Cleanup(files.Close)
	d := w.dea("d")
	d.fileURI = files.URL + "/droplets/"
	w.anyStager()
	u := c.register("dev@example.com")
	u.running(d, "hello", 2)
	for _, path := range []string{"logs%2Fstd%20out.log", "%2Flogs%2Fstd%20out.log", "logs/std%20out.log"} {
		a := u.call("GET", "/apps/hello/instances/1/files/"+path, nil).want(200)
		if a.Body != "<b>line</b>" || a.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%s: %q as %s", path, a.Body, a.Header.Get("Content-Type"))
		}
	}
	a := u.do("GET", "/apps/hello/instances/1/files/logs%2Fstd%20out.log", http.Header{"Range": {"bytes=3-6"}}, nil).want(206)
	if a.Body != "line" || a.Header.Get("Content-Range") != "bytes 3-6/11" {
		t.Errorf("a part: %q, %s", a.Body, a.Header.Get("Content-Range"))
	}
	for _, path := range []string{"/files", "/files/", "/files/%2F"} {
		if got := u.call("GET", "/apps/hello/instances/1"+path, nil).want(200).Body; !strings.HasPrefix(got, "app/") {
			t.Errorf("%s: %q", path, got)
		}
	}
	d.mu.Lock()
	id := d.instances[1].Instance
	d.mu.Unlock()
	u.call("GET", "/apps/hello/instances/"+id+"/files/logs%2Fstd%20out.log", nil).want(200)
	u.call("GET", "/apps/hello/instances/7/files/x", nil).fails(400, 304)
	u.call("GET", "/apps/hello/instances/99999999999/files/x", nil).fails(400, 304)
	u.call("GET", "/apps/hello/instances/abc/files/x", nil).fails(400, 304)
	u.call("GET", "/apps/hello/instances/1/files/..%2F..%2Fother", nil).fails(500, 306)
	d.mu.Lock()
	d.keeps = true
	d.mu.Unlock()
	// One that has ended is found by one question, though its app runs: DEAs that have
	// none do not answer, and are waited for.
	state := func(to string) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.instances[1].State = to
	}
	state(wire.StateStopped)
	finds := w.subscribe(wire.SubjectDEAFind)
	u.call("GET", "/apps/hello/instances/"+id+"/files/logs%2Fstd%20out.log", nil).want(200)
	next(t, finds, wire.ParseDEAFind)
	w.none(finds)
	state(wire.StateRunning)
	if got := u.call("GET", "/apps/hello/ended", nil).want(200).Body; strings.TrimSpace(got) != `{"ended":[]}` {
		t.Errorf("ended while it runs: %s", got)
	}
	u.put("hello", map[string]any{"state": "STOPPED"}).want(200)
	u.call("GET", "/apps/hello/instances/0/files/logs%2Fstaging.log", nil).want(200)
	// What was stopped is found by its index, by its id, and in a list.
	for _, which := range []string{"1", id} {
		a := u.call("GET", "/apps/hello/instances/"+which+"/files/logs%2Fstd%20out.log", nil).want(200)
		if a.Body != "<b>line</b>" {
			t.Errorf("a file of the stopped instance %s: %q", which, a.Body)
		}
	}
	other := c.register("other@example.com")
	other.call("GET", "/apps/hello/ended", nil).fails(404, 301)
	var list struct {
		Ended []struct {
			Instance, State, Version string
			Index                    int
		}
	}
	must(t, json.Unmarshal([]byte(u.call("GET", "/apps/hello/ended", nil).want(200).Body), &list))
	if len(list.Ended) != 2 || list.Ended[1].Instance != id || list.Ended[1].Index != 1 || list.Ended[1].State != wire.StateStopped || list.Ended[1].Version == "" {
		t.Errorf("ended: %+v", list)
	}
	d.mu.Lock()
	d.instances = nil
	d.mu.Unlock()
	u.call("GET", "/apps/hello/instances/0/files/x", nil).fails(400, 305)
}

func TestStagingProblems(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("staging: {max_staging_runtime: 1}\n")
	d := w.dea("d")
	u := c.register("dev@example.com")
	u.create("hello")
	u.upload("hello", zipOf(t, map[string]string{"app.js": "x"}), "[]").want(200)
	fails := func(status, code int, state string) {
		t.Helper()
		u.put("hello", map[string]any{"state": "STARTED"}).fails(status, code)
		if app := u.stored("hello"); app.State != store.Stopped || app.PackageState != state {
			t.Errorf("the app is %s and %s", app.State, app.PackageState)
		}
	}
	// Nobody is there.
	fails(500, 800, store.Failed)

	// Whatever the stager does, a clear error comes of it.
	var behaviour atomic.Value
	var last atomic.Pointer[wire.StagingRequest]
	_, err := w.conn.QueueSubscribe(wire.SubjectStaging, wire.SubjectStaging, func(m *nats.Msg) {
		r, err := wire.ParseStagingRequest(m.Data)
		if err != nil {
			t.Error(err)
			return
		}
		last.Store(&r)
		if text := behaviour.Load().(string); text != "" {
			_ = m.Respond([]byte(text))
		}
	})
	must(t, err)
	must(t, w.conn.Flush())
	behaviour.Store(`{"task_id":"x","task_log":"it broke\u0000","error":"Staging plugin failed: no main"}`)
	a := u.put("hello", map[string]any{"state": "STARTED"})
	a.fails(500, 310)
	if !strings.Contains(a.Body, "Staging failed: 'Staging plugin failed: no main'") {
		t.Errorf("told: %s", a.Body)
	}
	if got := u.call("GET", "/apps/hello/instances/0/files/logs/staging.log", nil).want(200).Body; got != "it broke" {
		t.Errorf("log: %q", got)
	}
	behaviour.Store("not JSON")
	fails(500, 310, store.Failed)
	behaviour.Store(`{"task_id":"x","task_log":""}`) // and uploads nothing
	fails(500, 310, store.Failed)
	behaviour.Store("") // never answers
	fails(500, 800, store.Failed)

	// An upload id serves once, its own app, while it is waited for.
	request := last.Load()
	for _, at := range []string{request.UploadURI, strings.Replace(request.UploadURI, "/droplet/1/", "/droplet/2/", 1)} {
		form, contentType := uploadForm(t, []byte("x"), "[]")
		response, err := http.Post(at, contentType, form)
		must(t, err)
		response.Body.Close()
		if response.StatusCode != 400 {
			t.Errorf("an upload that nobody waits for: %s", response.Status)
		}
	}
	for _, at := range []string{request.DownloadURI, request.UploadURI} {
		bare, _, _ := strings.Cut(at, "?")
		response, err := http.Get(bare)
		must(t, err)
		response.Body.Close()
		if response.StatusCode != 403 && response.StatusCode != 404 {
			t.Errorf("without the signature: %s", response.Status)
		}
	}
	u.call("GET", c.signedPath("/staged_droplets/1/%040d", 0), nil).fails(404, 301)
	u.call("GET", c.signedPath("/staged_droplets/9/%040d", 0), nil).fails(404, 301)
	u.call("GET", c.signedPath("/staged_droplets/x/y"), nil).fails(404, 301)
	select {
	case s := <-d.starts:
		t.Errorf("started %+v", s)
	default:
	}
}

// A droplet made of files that were replaced meanwhile is not run as if it were
// made of the new ones.
func TestUploadDuringStaging(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("")
	u := c.register("dev@example.com")
	u.create("hello")
	u.upload("hello", zipOf(t, map[string]string{"app.js": "old"}), "[]").want(200)
	begun, goOn := make(chan struct{}), make(chan struct{})
	w.stager(func(_ wire.StagingRequest, files []byte) ([]byte, string, string) {
		begun <- struct{}{}
		<-goOn
		return []byte("droplet of " + sum(files)), "", ""
	})
	result := make(chan answer, 1)
	doc := u.document("hello")
	doc["state"] = "STARTED"
	go func() { result <- u.call("PUT", "/apps/hello", doc) }()
	<-begun
	u.upload("hello", zipOf(t, map[string]string{"app.js": "new"}), "[]").want(200)
	goOn <- struct{}{}
	(<-result).fails(400, 102)
	if app := u.stored("hello"); app.State != store.Stopped || app.PackageState != store.Pending || app.DropletHash != "" {
		t.Errorf("the app is %+v", app)
	}
}

func TestPlacement(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("new_initial_placement: true\n")
	w.anyStager()
	d := w.dea("d")
	data, err := json.Marshal(wire.DEAAdvertise{ID: "d", AvailableMemory: 100, Runtimes: []string{"node"}, Isolation: "full"})
	must(t, err)
	must(t, w.conn.Publish(wire.SubjectDEAAdvertise, []byte("not JSON")))
	must(t, w.conn.Publish(wire.SubjectDEAShutdown, []byte("not JSON")))
	must(t, w.conn.Publish(wire.SubjectDEAAdvertise, data))
	eventually(t, "the DEA is known", func() bool { return c.working().placer.Known() == 1 })
	var info map[string]any
	(&client{c: c}).call("GET", "/info", nil).want(200).json(&info)
	if info["isolation"] != "full" {
		t.Errorf("the level of the DEAs is %v", info["isolation"])
	}
	c.register("dev@example.com").running(d, "hello", 1)
}

// Answers on the bus that are no answers are passed over.
func TestBrokenAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, subject := range []string{wire.SubjectDEADiscover, wire.SubjectDEAFind, wire.SubjectHealthManagerStatus, wire.SubjectHealthManagerHealth} {
		_, err := w.conn.Subscribe(subject, func(m *nats.Msg) {
			for _, text := range []string{"", "{", "[]", "null", `"x"`, `{"id":7}`, `{"index":-1}`, `{"indices":7}`, `{"droplet":[]}`} {
				_ = m.Respond([]byte(text))
			}
		})
		must(t, err)
	}
	must(t, w.conn.Flush())
	c := w.start("timeouts: {discover: 60s, find: 300ms, status: 300ms, health: 300ms}\n")
	d := w.dea("d")
	w.anyStager()
	u := c.register("dev@example.com")
	u.running(d, "hello", 1)
	if doc := u.document("hello"); doc["runningInstances"] != nil {
		t.Errorf("running: %v", doc["runningInstances"])
	}
	var doc struct{ Instances []shownInstance }
	u.call("GET", "/apps/hello/instances", nil).want(200).json(&doc)
	if len(doc.Instances) != 1 || doc.Instances[0].State != "RUNNING" {
		t.Errorf("instances: %+v", doc.Instances)
	}
	u.call("GET", "/apps/hello/crashes", nil).want(200)
}
