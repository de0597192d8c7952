package cloudcontroller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/auth"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/blob"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/peers"
	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/sqldb/postgrestest"
	"github.com/clusterworks/deploy/jobs/wire"
)

var postgres *postgrestest.Server

func TestMain(m *testing.M) {
	var err error
	if postgres, err = postgrestest.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	postgres.Stop()
	os.Exit(status)
}

func postgresSettings(database string) string {
	return fmt.Sprintf("database_environment: {production: {adapter: postgresql, database: %s, host: %s, port: 5432, username: cc}}\n", database, postgres.Folder())
}

// freePort is one that nobody else is likely to take.
// pair are two controllers, each with a folder of its own.
func (w *world) pair(more ...string) (first, second *cc) {
	w.t.Helper()
	name, _ := postgres.Database(w.t)
	a, b := componenttest.FreePort(w.t), componenttest.FreePort(w.t)
	settings := func(own, other int) string {
		return postgresSettings(name) + fmt.Sprintf("internal_port: %d\npeers: [\"127.0.0.1:%d\"]\n", own, other) + strings.Join(more, "")
	}
	first, second = w.prepare(settings(a, b)), w.prepare(settings(b, a))
	first.run()
	second.run()
	return first, second
}

// TestPair: two controllers serve side by side, and what one has acknowledged
// the other has.
func TestPair(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.pair()
	d := w.dea("d")
	w.anyStager()
	u := first.register("dev@example.com")
	elsewhere := &client{c: second, token: u.token}
	u.create("hello")
	known := strings.Repeat("known", 20_000)
	u.upload("hello", zipOf(t, map[string]string{"app.js": known}), "[]").want(200)
	app := u.stored("hello")
	if !second.blobs.Has(blob.Blob{Kind: blob.Package, App: app.ID, SHA1: app.PackageHash}) {
		t.Error("the second has no copy of the package when the first acknowledges it")
	}
	// Started through the other one, with its copy.
	elsewhere.put("hello", map[string]any{"state": "STARTED"}).want(200)
	start := received(t, d.starts)
	if !strings.Contains(start.ExecutableURI, second.address()) {
		t.Errorf("the droplet is at %s", start.ExecutableURI)
	}
	droplet := blob.Blob{Kind: blob.Droplet, App: app.ID, SHA1: start.SHA1}
	if !first.blobs.Has(droplet) {
		t.Error("the first has no copy of the droplet")
	}
	// A resource that only the first has is fetched; so is a droplet that is lost.
	resource := fmt.Sprintf(`[{"size":100000,"sha1":"%s","fn":"app.js"}]`, sum([]byte(known)))
	// S3-1: it need not be uploaded to the second either, and is this user's only.
	if got := elsewhere.call("POST", "/resources", resource).want(200).Body; strings.TrimSpace(got) != resource {
		t.Errorf("the second controller knows %s, want %s", got, resource)
	}
	stranger := &client{c: second, token: first.register("stranger@example.com").token}
	if got := stranger.call("POST", "/resources", resource).want(200).Body; strings.TrimSpace(got) != "[]" {
		t.Errorf("another user is told of %s", got)
	}
	elsewhere.create("other")
	odd := strings.Replace(resource, `","fn"`, `/100000?","fn"`, 1) // a path of the peer's
	elsewhere.upload("other", nil, odd).fails(400, 401)
	elsewhere.upload("other", nil, resource).want(200)
	must(t, os.Remove(second.blobs.Path(droplet)))
	response, err := http.Get(start.ExecutableURI)
	must(t, err)
	text, err := io.ReadAll(response.Body)
	must(t, err)
	response.Body.Close()
	if sum(text) != start.SHA1 {
		t.Errorf("the droplet is %q", text)
	}
	// One that cannot be brought now is not lost.
	must(t, os.WriteFile(first.blobs.Path(droplet), []byte("damaged"), 0o600))
	must(t, os.Remove(second.blobs.Path(droplet)))
	if err := second.working().peers.Sync(t.Context()); !errors.Is(err, peers.ErrNotBrought) {
		t.Errorf("with a damaged copy: %v", err)
	}
	(&client{c: second}).call("GET", second.signedPath("/staged_droplets/%d/%s", app.ID, droplet.SHA1), nil).fails(503, 111)
	// It would not be ready without it, until nobody has it any more.
	second.waitFor(errors.New("fetching"))
	ctx, cancel := context.WithCancel(t.Context())
	inStep := make(chan struct{})
	go func() {
		defer close(inStep)
		second.working().peers.KeepInStep(ctx, func(reason error) { second.waitFor(reason) })
	}()
	eventually(t, "the second says what it waits for", func() bool { return errors.Is(second.ready(), peers.ErrNotBrought) })
	must(t, os.Remove(first.blobs.Path(droplet)))
	eventually(t, "the second is ready", func() bool { return second.ready() == nil })
	cancel()
	<-inStep
	if err := second.working().peers.Sync(t.Context()); err == nil || errors.Is(err, peers.ErrNotBrought) || errors.Is(err, peers.ErrAway) {
		t.Errorf("with no copy left: %v", err)
	}

	// A token is read before it is checked; PostgreSQL takes no NUL.
	(&client{c: first, token: auth.NewSigner(first.config.Now().Keys.Derive("tokens")).Sign("a\x00b", "", time.Now().Add(time.Hour))}).call("GET", "/apps", nil).fails(403, 200)
	// Peers are asked with a password.
	u.call("GET", peers.Path(droplet), nil).want(401)
	credentials := first.working().peers.Credentials()
	request := http.Request{Header: http.Header{}}
	request.SetBasicAuth(credentials.User, credentials.Password)
	peer := &client{c: first}
	wrong := blob.Blob{Kind: blob.Droplet, App: app.ID, SHA1: sum([]byte("right"))}
	peer.do("PUT", peers.Path(wrong), request.Header, strings.NewReader("wrong")).fails(400, 100)
	if first.blobs.Has(wrong) {
		t.Error("a copy with another sha1 is kept")
	}
	peer.do("GET", peers.Path(wrong), request.Header, nil).fails(404, 303)
	peer.do("GET", "/internal/blobs/droplet/1/..%2F..%2Fcc.db", request.Header, nil).fails(404, 303)
	peer.do("GET", "/internal/resources/1/x/1", request.Header, nil).fails(404, 303)
}

// TestPairLosesOne: apps are pushed while one controller is away, then the other;
// in the end every droplet is there and every app runs what was pushed last.
func TestPairLosesOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.pair()
	d := w.dea("d")
	w.anyStager()
	u := first.register("dev@example.com")
	elsewhere := &client{c: second, token: u.token}
	push := func(by *client, name string) wire.DEAStart {
		t.Helper()
		by.create(name)
		by.upload(name, zipOf(t, map[string]string{"app.js": name}), "[]").want(200)
		by.put(name, map[string]any{"state": "STARTED"}).want(200)
		return received(t, d.starts)
	}
	must(t, first.stop())
	alone := push(elsewhere, "alone")
	first.run()
	droplet := blob.Blob{Kind: blob.Droplet, App: 1, SHA1: alone.SHA1}
	// Ready means that it has what the other has.
	if !first.blobs.Has(droplet) {
		t.Fatal("the first is ready without the droplet that was made while it was away")
	}
	must(t, second.stop())
	other := push(u, "other")
	for _, start := range []wire.DEAStart{alone, other} {
		response, err := http.Get(first.signed(fmt.Sprintf("/staged_droplets/%s/%s", start.Droplet, start.SHA1)))
		must(t, err)
		text, err := io.ReadAll(response.Body)
		must(t, err)
		response.Body.Close()
		if sum(text) != start.SHA1 {
			t.Errorf("the droplet of %s is %q", start.Name, text)
		}
	}
	// What is lost is fetched when there is someone to ask; until then nobody waits
	// for each of many.
	must(t, os.Remove(first.blobs.Path(droplet)))
	if err := first.working().peers.Sync(t.Context()); !errors.Is(err, peers.ErrAway) || strings.Count(err.Error(), "cannot get") != 1 {
		t.Errorf("with nobody to ask: %v", err)
	}
	u.call("GET", first.signedPath("/staged_droplets/1/%s", alone.SHA1), nil).fails(500, 111)
	second.run()
	must(t, first.working().peers.Sync(t.Context()))
	if !first.blobs.Has(droplet) {
		t.Error("the lost droplet was not fetched")
	}
	if got := len(elsewhere.bulk()); got != 2 {
		t.Errorf("%d apps", got)
	}
}

// A drain lets a staging in progress end, answers it, and withdraws the route
// first.
func TestDrain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.prepare("")
	registered, unregistered := w.subscribe(wire.SubjectRouterRegister), w.subscribe(wire.SubjectRouterUnregister)
	c.run()
	route := next(t, registered, wire.ParseRegistration)
	if fmt.Sprintf("%s:%d", route.Host, route.Port) != c.Address() || len(route.URIs) != 1 || route.URIs[0] != "api.cf.localhost" || route.Tags["component"] != "CloudController" {
		t.Errorf("registered as %+v", route)
	}
	d := w.dea("d")
	begun, goOn := make(chan struct{}), make(chan struct{})
	w.stager(func(wire.StagingRequest, []byte) ([]byte, string, string) {
		close(begun)
		<-goOn
		return []byte("droplet"), "", ""
	})
	u := c.register("dev@example.com")
	u.create("hello")
	u.upload("hello", zipOf(t, map[string]string{"app.js": "x"}), "[]").want(200)
	doc := u.document("hello")
	doc["state"] = "STARTED"
	result := make(chan answer, 1)
	go func() { result <- u.call("PUT", "/apps/hello", doc) }()
	<-begun
	drained := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	go func() { drained <- c.base.Drain(ctx) }()
	next(t, unregistered, wire.ParseRegistration)
	close(goOn)
	(<-result).want(200)
	received(t, d.starts)
	must(t, <-drained)
	// What the health manager asks for goes to another controller.
	data, err := json.Marshal(wire.HealthManagerRequest{Droplet: "1", Op: wire.OpStart, Version: "x-1", Indices: []int{0}})
	must(t, err)
	if _, err := w.conn.Request(wire.SubjectHealthManagerRequests, data, deadline); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("a drained controller takes requests of the health manager: %v", err)
	}
	if _, err := net.DialTimeout("tcp", c.Address(), time.Second); err == nil {
		t.Error("a drained controller listens")
	}
}

// A database that crashes is told of while it is away, and used again after.
func TestDatabaseCrash(t *testing.T) {
	t.Parallel()
	own, err := postgrestest.Start()
	must(t, err)
	t.Cleanup(own.Stop)
	name, _ := own.Database(t)
	w := newWorld(t)
	c := w.start(strings.Replace(postgresSettings(name), postgres.Folder(), own.Folder(), 1))
	u := c.register("dev@example.com")
	u.create("hello")
	own.Halt()
	away := u.call("GET", "/apps", nil)
	away.fails(503, 101)
	if away.Header.Get("Retry-After") == "" {
		t.Error("a client is not told when to try again")
	}
	must(t, own.Resume())
	eventually(t, "the database is used again", func() bool { return u.call("GET", "/apps/hello", nil).Status == 200 })
	if doc := u.document("hello"); doc["name"] != "hello" {
		t.Errorf("after the crash: %v", doc)
	}
}

// TestVarz: what the component base serves has the controller's figures, and no
// secret.
func TestVarz(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("admin_password: secretword\nbuiltin_services: {mysql: {token: secretword}}\nstaging: {auth: {user: u, password: secretword}}\nstatus: {user: m, password: m}\n")
	(&client{c: c}).call("GET", "/info", nil).want(200)
	request, err := http.NewRequest("GET", "http://"+c.base.StatusAddress()+"/varz", nil)
	must(t, err)
	request.SetBasicAuth("m", "m")
	response, err := http.DefaultClient.Do(request)
	must(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must(t, err)
	var varz map[string]any
	must(t, json.Unmarshal(text, &varz))
	if varz["type"] != "CloudController" || varz["requests"] != 1.0 || varz["pending_requests"] != 0.0 || varz["running_stage_cmds"] != 0.0 || varz["pending_stage_cmds"] != 0.0 {
		t.Errorf("varz: %s", text)
	}
	if _, ok := varz["requests_per_sec"].(float64); !ok || strings.Contains(string(text), "secretword") || strings.Contains(string(text), "a-long-secret") {
		t.Errorf("varz: %s", text)
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("")
	u := c.register("dev@example.com")
	u.call("GET", "/users", nil).fails(403, 200)
	c.configure("admins: [dev@example.com]\nallow_registration: false\n")
	text, err := os.ReadFile(c.configFile)
	must(t, err)
	must(t, os.WriteFile(c.configFile, []byte(strings.Replace(string(text), "admins: [root@example.com]\n", "", 1)), 0o600))
	must(t, c.base.Reload())
	u.call("GET", "/users", nil).want(200)
	(&client{c: c}).call("POST", "/users", `{"email":"x@example.com","password":"x"}`).fails(403, 200)
	c.configure("external_port: 99999\n")
	if err := c.base.Reload(); err == nil || !strings.Contains(err.Error(), "external_port") {
		t.Errorf("a broken file is taken: %v", err)
	}
	u.call("GET", "/users", nil).want(200)
}

// A database that is not there is waited for, and said why.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.prepare(fmt.Sprintf("database_environment: {production: {adapter: postgresql, database: x, host: 127.0.0.1, port: %d, username: cc, password: secretword}}\n", componenttest.FreePort(t)))
	controller, err := New(component.Process{ConfigFile: c.configFile, Output: t.Output()})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- controller.Run(ctx) }()
	eventually(t, "it says why it waits", func() bool {
		err := controller.base.Ready()
		return err != nil && strings.Contains(err.Error(), "connect")
	})
	if err := controller.base.Ready(); strings.Contains(err.Error(), "secretword") {
		t.Errorf("the password is in %v", err)
	}
	cancel()
	must(t, <-done)
}

func TestConfigProblems(t *testing.T) {
	t.Parallel()
	for settings, want := range map[string]string{
		"external_uri: api":                                      "external_uri",
		"external_uri: \"not a host\"":                           "external_uri",
		"external_port: -1":                                      "external_port",
		"keys: {token: short}":                                   "keys.token",
		"cc_partition: a.b":                                      "cc_partition",
		"timeouts: {discover: 0s}":                               "timeouts",
		"drain_timeout: 0s":                                      "drain_timeout",
		"max_droplet_size_mb: 0":                                 "max_droplet_size_mb",
		"rails_environment: test":                                "database_environment",
		"peers: [\"127.0.0.9:1\"]":                               "several controllers need PostgreSQL",
		"database_environment: {production: {adapter: mysql}}":   "adapter",
		"database_environment: {production: {adapter: sqlite3}}": "is no file",
		"directories: {droplets: /tmp/x}":                        "directories",
	} {
		t.Run(settings, func(t *testing.T) {
			text := "mbus: nats://127.0.0.1:1\n"
			for _, line := range []string{"external_uri: api.cf.localhost", "keys: {token: a-long-secret}", "directories: {droplets: /d, resources: /r}", "database_environment: {production: {adapter: sqlite3, database: /cc.db}}"} {
				if key, _, _ := strings.Cut(line, ":"); !strings.HasPrefix(settings, key+":") {
					text += line + "\n"
				}
			}
			file := t.TempDir() + "/cc.yml"
			must(t, os.WriteFile(file, []byte(text+settings+"\n"), 0o600))
			if _, _, err := config.Load(file); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want one with %q", err, want)
			}
		})
	}
}
