package cloudcontroller

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// fakeGateway answers as the gateways of 2012 did, and notes what it is asked.
type fakeGateway struct {
	*httptest.Server
	mu    sync.Mutex
	calls []string // method, path, body
	fail  bool
	old   bool // says data for configuration
	// refusal is the answer that it gives to all about an instance: a status and a body.
	refusal *model.Error
}

func newGateway(t *testing.T) *fakeGateway {
	g := &fakeGateway{}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.calls = append(g.calls, r.Method+" "+r.URL.Path+" "+string(body))
		if r.Header.Get("X-VCAP-Service-Token") != "tok" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s with %v", r.Method, r.URL, r.Header)
		}
		switch {
		case g.fail:
			w.WriteHeader(503)
		case g.refusal != nil && strings.Contains(r.URL.Path, "/d1/"):
			w.WriteHeader(g.refusal.Status)
			_, _ = io.WriteString(w, g.refusal.Description)
		case r.Method == "DELETE":
			_, _ = io.WriteString(w, "{}")
		case r.URL.Path == "/gateway/v1/configurations":
			name := "configuration"
			if g.old {
				name = "data"
			}
			_, _ = io.WriteString(w, `{"service_id":"d1","`+name+`":{"plan":"free"},"credentials":{"password":"p"}}`)
		default:
			_, _ = io.WriteString(w, `{"service_id":"b1","configuration":{"data":{}},"credentials":{"password":"bound"}}`)
		}
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *fakeGateway) called() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	calls := g.calls
	g.calls = nil
	return calls
}

func (g *fakeGateway) is(fail, old bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fail, g.old = fail, old
}

func wantCalls(t *testing.T, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("the gateway was asked\n%q\nwant\n%q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("the gateway was asked\n%q\nwant\n%q", got[i], want[i])
		}
	}
}

const serviceSettings = "builtin_services: {mysql: {token: tok}, redis: {token: other}}\ndefault_account_capacity: {memory: 2048, app_uris: 4, services: 2, apps: 20}\n"

// offer announces mysql-5.1 as a gateway does.
func (c *cc) offer(t *testing.T, g *fakeGateway, more map[string]any) *client {
	t.Helper()
	gateway := &client{c: c}
	doc := map[string]any{
		"label": "mysql-5.1", "url": g.URL, "plans": []string{"free"}, "description": "MySQL", "tags": []string{"relational"},
		"supported_versions": []string{"5.0", "5.1"}, "version_aliases": map[string]string{"current": "5.1"}, "default_plan": "free", "timeout": 15,
	}
	for key, value := range more {
		doc[key] = value
	}
	data, err := json.Marshal(doc)
	must(t, err)
	if got := gateway.gatewayCall("tok", "POST", "/services/v1/offerings", string(data)).want(200).Body; got != "{}" {
		t.Errorf("the offering is answered %s", got)
	}
	return gateway
}

// gatewayCall makes a request as a gateway.
func (u *client) gatewayCall(token, method, path, body string) answer {
	u.c.w.t.Helper()
	return u.do(method, path, http.Header{"X-Vcap-Service-Token": {token}, "Content-Type": {"application/json"}}, strings.NewReader(body))
}

// TestServices goes through a service's life as vmc and a gateway see it.
func TestServices(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start(serviceSettings)
	d := w.dea("d")
	w.anyStager()
	g := newGateway(t)
	u := c.register("dev@example.com")
	gateway := c.offer(t, g, nil)

	if got := u.call("GET", "/info/services", nil).want(200).Body; got !=
		`{"database":{"mysql":{"5.0":{"id":"1","vendor":"mysql","version":"5.0","tiers":{"free":{"options":{},"order":1}},"type":"database","description":"MySQL","provider":"core","default_plan":"free"},`+
			`"5.1":{"id":"1","vendor":"mysql","version":"5.1","tiers":{"free":{"options":{},"order":1}},"type":"database","description":"MySQL","provider":"core","default_plan":"free","alias":"current"}}}}` {
		t.Errorf("/info/services: %s", got)
	}
	var offerings map[string]map[string]map[string]map[string]struct{ URL string }
	gateway.gatewayCall("", "GET", "/services/v1/offerings", "").want(200).json(&offerings)
	if offerings["database"]["mysql"]["core"]["5.1"].URL != g.URL {
		t.Errorf("offerings: %+v", offerings)
	}

	create := map[string]any{"type": "database", "tier": "free", "vendor": "mysql", "version": "current", "name": "db"}
	if got := u.call("POST", "/services", create).want(200).Body; got != "{}" {
		t.Errorf("created: %s", got)
	}
	wantCalls(t, g.called(), `POST /gateway/v1/configurations {"email":"dev@example.com","label":"mysql-5.1","name":"db","plan":"free","version":"5.1"}`)
	var entry map[string]any
	u.call("GET", "/services/db", nil).want(200).json(&entry)
	if entry["service_id"] != "d1" || entry["vendor"] != "mysql" || entry["tier"] != "free" || entry["version"] != "5.1" || entry["provider"] != "core" || entry["type"] != "database" {
		t.Errorf("service: %v", entry)
	}
	var list []map[string]any
	u.call("GET", "/services", nil).want(200).json(&list)
	if len(list) != 1 || list[0]["name"] != "db" {
		t.Errorf("services: %v", list)
	}

	// vmc binds by a PUT of the app.
	u.create("hello")
	u.upload("hello", zipOf(t, map[string]string{"app.js": "x"}), "[]").want(200)
	u.put("hello", map[string]any{"services": []string{"db"}, "state": "STARTED"}).want(200)
	wantCalls(t, g.called(), `POST /gateway/v1/configurations/d1/handles {"app":"hello","binding_options":{},"email":"dev@example.com","label":"mysql-5.1","service_id":"d1"}`)
	start := received(t, d.starts)
	if len(start.Services) != 1 || start.Services[0].Label != "mysql-5.1" || string(start.Services[0].Credentials) != `{"password":"bound"}` || start.Services[0].Name != "db" {
		t.Errorf("the instance is told of %+v", start.Services)
	}
	if doc := u.document("hello"); len(doc["services"].([]any)) != 1 {
		t.Errorf("app: %v", doc)
	}
	// A PUT with the same services asks nobody.
	u.put("hello", nil).want(200)
	wantCalls(t, g.called())

	var handles struct{ Handles []gatewayHandle }
	gateway.gatewayCall("tok", "GET", "/services/v1/offerings/mysql-5.1/handles", "").want(200).json(&handles)
	if len(handles.Handles) != 2 || handles.Handles[0].ServiceID != "d1" || handles.Handles[1].ServiceID != "b1" {
		t.Errorf("handles: %+v", handles)
	}
	gateway.gatewayCall("tok", "POST", "/services/v1/offerings/mysql-5.1/core/handles/b1", `{"service_id":"b1","configuration":{},"credentials":{"password":"moved"}}`).want(200)
	gateway.gatewayCall("tok", "POST", "/services/v1/offerings/mysql-5.1/handles/b9", `{}`).fails(404, 501)
	u.put("hello", map[string]any{"state": "STOPPED"}).want(200)
	u.put("hello", map[string]any{"state": "STARTED"}).want(200)
	if start := received(t, d.starts); string(start.Services[0].Credentials) != `{"password":"moved"}` {
		t.Errorf("after the move: %s", start.Services[0].Credentials)
	}
	if got := gateway.gatewayCall("tok", "DELETE", "/services/v1/offerings/mysql-5.1", "").want(400).Body; got != `{"errors":"there are instances of mysql-5.1"}` {
		t.Errorf("an offering in use: %s", got)
	}

	u.put("hello", map[string]any{"services": []string{}}).want(200)
	wantCalls(t, g.called(), `DELETE /gateway/v1/configurations/d1/handles/b1 {"binding_options":{},"handle_id":"b1","service_id":"d1"}`)
	u.call("DELETE", "/services/db", nil).want(200)
	wantCalls(t, g.called(), `DELETE /gateway/v1/configurations/d1 {}`)
	u.call("GET", "/services/db", nil).fails(404, 500)
	gateway.gatewayCall("tok", "DELETE", "/services/v1/offerings/mysql-5.1", "").want(200)
	gateway.gatewayCall("tok", "GET", "/services/v1/offerings/mysql-5.1", "").fails(404, 500)
}

// TestServiceAPI is the newer part, which other clients use.
func TestServiceAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start(serviceSettings)
	g := newGateway(t)
	g.is(false, true)
	u, friend := c.register("dev@example.com"), c.register("friend@example.com")
	gateway := c.offer(t, g, nil)
	u.create("hello")
	friend.create("theirs")

	if got := u.call("POST", "/services/v1/configurations", `{"label":"mysql-5.1","name":"db","plan":"free","version":"5.0","plan_option":"x"}`).want(200).Body; got !=
		`{"credentials":{"password":"p"},"data":{"plan":"free"},"service_id":"d1"}` {
		t.Errorf("provisioned: %s", got)
	}
	wantCalls(t, g.called(), `POST /gateway/v1/configurations {"email":"dev@example.com","label":"mysql-5.1","name":"db","plan":"free","plan_option":"x","version":"5.0"}`)
	var bound struct {
		Token string `json:"binding_token"`
		Label string
	}
	u.call("POST", "/services/v1/bindings", `{"service_id":"db","app_id":1,"binding_options":{"ro":true}}`).want(200).json(&bound)
	if bound.Label != "mysql-5.1" || bound.Token == "" {
		t.Errorf("bound: %+v", bound)
	}
	u.call("POST", "/services/v1/bindings", `{"service_id":"d1","app_id":"hello"}`).want(400)
	u.call("POST", "/services/v1/bindings", `{"service_id":"other","app_id":"hello"}`).fails(404, 500)
	u.call("POST", "/services/v1/bindings", `{"service_id":"db","app_id":2}`).fails(404, 301)

	var token struct {
		Token string `json:"binding_token"`
	}
	u.call("POST", "/services/v1/binding_tokens", `{"service_id":"db","binding_options":{"ro":true}}`).want(200).json(&token)
	if got := gateway.gatewayCall("", "GET", "/services/v1/binding_tokens/"+token.Token, "").want(200).Body; got != `{"binding_options":{"ro":true},"label":"mysql-5.1"}` {
		t.Errorf("token: %s", got)
	}
	friend.call("POST", "/services/v1/bindings/external", `{"binding_token":"`+token.Token+`","app_id":"theirs"}`).want(200)
	friend.call("POST", "/services/v1/bindings/external", `{"binding_token":"no","app_id":"theirs"}`).fails(404, 502)
	friend.call("DELETE", "/services/v1/binding_tokens/"+token.Token, nil).fails(404, 502)
	u.call("DELETE", "/services/v1/binding_tokens/"+token.Token, nil).want(200)
	for range store.MaxBindingTokens {
		u.call("POST", "/services/v1/binding_tokens", `{"service_id":"db"}`).want(200)
	}
	if got := u.call("POST", "/services/v1/binding_tokens", `{"service_id":"db"}`).want(400).Body; !strings.Contains(got, "delete one") {
		t.Errorf("one binding token more: %s", got)
	}
	for _, path := range []string{"bindings", "bindings/external", "binding_tokens"} {
		u.call("POST", "/services/v1/"+path, `{"service_id":"db","app_id":1,"binding_token":"x","binding_options":"`+strings.Repeat("x", 16<<10)+`"}`).want(400)
	}
	friend.call("DELETE", "/services/v1/bindings/"+bound.Token, nil).fails(404, 501)
	u.call("DELETE", "/services/v1/bindings/"+bound.Token, nil).want(200)
	u.call("DELETE", "/services/v1/bindings/"+bound.Token, nil).fails(404, 501)
	if got := gateway.gatewayCall("tok", "GET", "/proxied_services/v1/offerings", "").want(200).Body; len(got) < 30 {
		t.Errorf("proxied: %s", got)
	}
	u.call("DELETE", "/services/v1/configurations/db", nil).want(200)
	if doc := friend.document("theirs"); len(doc["services"].([]any)) != 0 {
		t.Errorf("bound to what is gone: %v", doc["services"])
	}
}

// TestSnapshotsOfServices: what an owner asks about snapshots goes to the gateway, and its
// answer or refusal back; of somebody else's service there is nothing to ask.
func TestSnapshotsOfServices(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start(serviceSettings)
	g := newGateway(t)
	u, friend := c.register("dev@example.com"), c.register("friend@example.com")
	c.offer(t, g, nil)
	const db = "/services/v1/configurations/db"
	u.call("GET", db+"/snapshots", nil).fails(404, 500)
	u.call("POST", "/services/v1/configurations", `{"label":"mysql-5.1","name":"db","plan":"free"}`).want(200)
	g.called()
	answers := func(status int, body string) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.refusal = &model.Error{Status: status, Description: body}
	}
	answers(200, `{"job_id":"j1","more":[1]}`)
	for _, one := range []struct{ method, path, body, asked string }{
		{"POST", "/snapshots", `{"name":"n"}`, `POST /gateway/v1/configurations/d1/snapshots {"name":"n"}`},
		{"POST", "/snapshots", ``, `POST /gateway/v1/configurations/d1/snapshots {}`},
		{"GET", "/snapshots", ``, `GET /gateway/v1/configurations/d1/snapshots {}`},
		{"GET", "/snapshots/1-ab", ``, `GET /gateway/v1/configurations/d1/snapshots/1-ab {}`},
		{"PUT", "/snapshots/1-ab", `{"x":1}`, `PUT /gateway/v1/configurations/d1/snapshots/1-ab {}`},
		{"DELETE", "/snapshots/1-ab", ``, `DELETE /gateway/v1/configurations/d1/snapshots/1-ab {}`},
		{"GET", "/jobs/j1", ``, `GET /gateway/v1/configurations/d1/jobs/j1 {}`},
	} {
		if got := u.call(one.method, db+one.path, one.body).want(200).Body; got != `{"job_id":"j1","more":[1]}` {
			t.Errorf("%s %s: %s", one.method, one.path, got)
		}
		wantCalls(t, g.called(), one.asked)
		friend.call(one.method, db+one.path, one.body).fails(404, 500)
	}
	u.call("PUT", db+"/snapshots/..%2F..%2Fd2", `{}`).fails(404, 500)
	u.call("PUT", db+"/snapshots/%2e%2e", `{}`).fails(404, 500)
	u.call("POST", db+"/snapshots", `{`).want(400)
	wantCalls(t, g.called())
	for _, one := range []struct {
		status       int
		body         string
		answer, code int
	}{
		{400, `{"code":30001,"description":"no such name"}`, 400, 100},
		{404, `{"code":30300,"description":"no such snapshot"}`, 404, 500},
		{501, `{"code":30501,"description":"nothing to keep"}`, 501, 505},
		{503, `{"code":30600,"description":"another job"}`, 502, 503},
		{500, `oops`, 502, 503},
		{200, `oops`, 502, 503},
		{302, `{}`, 502, 503},
	} {
		answers(one.status, one.body)
		a := u.call("PUT", db+"/snapshots/1-ab", `{}`)
		a.fails(one.answer, one.code)
		var told struct{ Description string }
		if json.Unmarshal([]byte(one.body), &told) == nil && !strings.HasSuffix(a.Body, told.Description+`"}`) && told.Description != "" {
			t.Errorf("the refusal %s is told as %s", one.body, a.Body)
		}
	}
}

func TestServiceProblems(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start(serviceSettings)
	g := newGateway(t)
	u := c.register("dev@example.com")
	gateway := c.offer(t, g, map[string]any{"acls": map[string]any{"users": []string{"dev@example.com"}, "wildcards": []string{"*@ops.example.com"}}})

	for _, tc := range []struct {
		name, token, body string
		status            int
	}{
		{"no token", "", `{"label":"mysql-5.1","url":"http://x"}`, 403},
		{"another service's token", "other", `{"label":"mysql-5.1","url":"http://x"}`, 403},
		{"an unknown service", "tok", `{"label":"mongodb-1.8","url":"http://x"}`, 403},
		{"no version", "tok", `{"label":"mysql","url":"http://x"}`, 400},
		{"no URL", "tok", `{"label":"mysql-5.1"}`, 400},
		{"not http", "tok", `{"label":"mysql-5.1","url":"file:///etc/passwd"}`, 400},
		{"broken", "tok", `{"label":`, 400},
		{"wrong type", "tok", `{"label":7}`, 400},
	} {
		gateway.gatewayCall(tc.token, "POST", "/services/v1/offerings", tc.body).want(tc.status)
	}
	plain := http.Header{"Content-Type": {"application/json; charset=utf-8"}}
	if got := u.do("GET", "/services/v1/offerings", plain, nil).want(400).Body; got != `{"errors":"the Content-Type must be application/json"}` {
		t.Errorf("another content type: %s", got)
	}

	create := func(u *client, name, vendor, version, tier string) answer {
		return u.call("POST", "/services", map[string]string{"vendor": vendor, "version": version, "tier": tier, "name": name})
	}
	create(u, "db", "redis", "2.2", "free").fails(404, 500)
	create(u, "db", "mysql", "4.0", "free").fails(404, 506)
	for _, a := range []answer{create(u, "", "mysql", "5.1", "free"), create(u, "db", "mysql", "5.1", "gold"), u.call("POST", "/services", "{")} {
		var doc map[string]string
		a.want(400).json(&doc)
		if doc["description"] == "" {
			t.Errorf("%s", a.Body)
		}
	}
	// Who is not on the list sees nothing.
	stranger, ops := c.register("who@example.com"), c.register("op@ops.example.com")
	create(stranger, "db", "mysql", "5.1", "free").fails(404, 500)
	create(ops, "db", "mysql", "5.1", "free").want(200)
	if got := stranger.call("GET", "/info/services", nil).want(200).Body; got != "{}" {
		t.Errorf("a stranger sees %s", got)
	}

	// A gateway that fails leaves nothing behind.
	g.is(true, false)
	create(u, "db", "mysql", "5.1", "free").fails(502, 503)
	u.call("GET", "/services/db", nil).fails(404, 500)
	g.is(false, false)
	create(u, "db", "mysql", "5.1", "free").want(200)
	create(u, "db", "mysql", "5.1", "free").want(400)
	create(u, "db2", "mysql", "5.1", "free").want(200)
	create(u, "db3", "mysql", "5.1", "free").fails(403, 504)
	u.create("hello")
	u.put("hello", map[string]any{"services": []string{"nothing"}}).fails(404, 500)
	g.is(true, false)
	u.put("hello", map[string]any{"services": []string{"db"}}).fails(502, 503)
	if doc := u.document("hello"); len(doc["services"].([]any)) != 0 {
		t.Errorf("bound by a gateway that failed: %v", doc["services"])
	}
	// What is deleted is deleted, whatever the gateway says; it finds by its handles.
	u.call("DELETE", "/services/db", nil).want(200)
	u.call("GET", "/services/db", nil).fails(404, 500)
	// An account goes with its services.
	g.is(false, false)
	g.called()
	admin := c.register("root@example.com")
	admin.call("DELETE", "/users/dev@example.com", nil).want(204)
	wantCalls(t, g.called(), `DELETE /gateway/v1/configurations/d1 {}`)
	if _, err := c.working().store.User(t.Context(), "dev@example.com"); err == nil {
		t.Error("the user is still there")
	}
}

// TestAbandonedService: what a controller had reserved when it died is seen by nobody,
// and its name is free again once no gateway can answer any more.
func TestAbandonedService(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start(serviceSettings)
	g := newGateway(t)
	u := c.register("dev@example.com")
	c.offer(t, g, map[string]any{"timeout": 2})
	working := c.working()
	account, err := working.store.User(t.Context(), "dev@example.com")
	must(t, err)
	o, err := working.store.Offering(t.Context(), "mysql-5.1", "")
	must(t, err)
	must(t, working.store.CreateServiceInstance(t.Context(), &store.ServiceInstance{OwnerID: account.ID, Offering: o, Alias: "db", Plan: "free", Version: "5.1"}, nil))
	if got := u.call("GET", "/services", nil).want(200).Body; got != "[]" {
		t.Errorf("services: %s", got)
	}
	u.call("GET", "/services/db", nil).fails(404, 500)
	create := map[string]string{"vendor": "mysql", "version": "5.1", "tier": "free", "name": "db"}
	u.call("POST", "/services", create).want(400) // somebody may be waiting for it
	eventually(t, "the name is free", func() bool { return u.call("POST", "/services", create).Status == 200 })
	u.call("GET", "/services/db", nil).want(200)
}

// gatewayHandle is a gateway's record of an instance or a binding.
type gatewayHandle struct {
	ServiceID     string          `json:"service_id"`
	Configuration json.RawMessage `json:"configuration"`
	Credentials   json.RawMessage `json:"credentials"`
}

// TestMovedService: when a gateway gives a binding a new address and asks for it, the
// instances of its app are replaced one by one and find it; an update that waits to be
// promoted is not taken for promoted, and a stopped app stays stopped.
func TestMovedService(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start(serviceSettings)
	d := w.dea("d")
	w.anyStager()
	u := c.register("dev@example.com")
	gateway := c.offer(t, newGateway(t), nil)
	u.call("POST", "/services", map[string]any{"type": "database", "tier": "free", "vendor": "mysql", "version": "5.1", "name": "db"}).want(200)
	u.create("hello")
	u.upload("hello", zipOf(t, map[string]string{"app.js": "x"}), "[]").want(200)
	u.put("hello", map[string]any{"services": []string{"db"}, "instances": 2, "state": "STARTED"}).want(200)
	received(t, d.starts)
	received(t, d.starts)
	before := u.stored("hello")
	give := func(password string) {
		gateway.gatewayCall("tok", "POST", "/services/v1/offerings/mysql-5.1/handles/b1", `{"service_id":"b1","configuration":{},"credentials":{"password":"`+password+`"},"restart":true}`).want(200)
	}
	give("moved")
	for range 2 {
		if start := received(t, d.starts); string(start.Services[0].Credentials) != `{"password":"moved"}` || start.Version == model.Version(before) {
			t.Errorf("after the move: %s in version %s", start.Services[0].Credentials, start.Version)
		}
	}
	state := func() string {
		var doc struct{ State string }
		u.call("GET", "/apps/hello/update", nil).want(200).json(&doc)
		return doc.State
	}
	eventually(t, "all instances are replaced", func() bool { return state() == "SUCCEEDED" })
	if now := u.stored("hello"); now.DropletHash != before.DropletHash || model.Version(now) == model.Version(before) {
		t.Errorf("the app is %+v, and was %+v", now, before)
	}
	events := func() string { return u.call("GET", "/apps/hello/events", nil).want(200).Body }
	if got := events(); !strings.Contains(got, "restart begun: the service db has a new address") {
		t.Errorf("events: %s", got)
	}

	// Of two gateways that change an instance's handle one wins.
	replace := func(was, now string) answer {
		return gateway.gatewayCall("tok", "POST", "/services/v1/offerings/mysql-5.1/handles/d1", `{"service_id":"d1","configuration":`+now+`,"credentials":{"password":"p"},"was":`+was+`}`)
	}
	replace(`{ "plan" : "free"}`, `{"plan":"free","move":{"number":1}}`).want(200)
	replace(`{"plan":"free"}`, `{"plan":"free","move":{"number":2}}`).want(409)
	replace(`{"move":{"number":1},"plan":"free"}`, `{"plan":"free"}`).want(200)

	u.call("PUT", "/apps/hello/update", map[string]any{"cause": "try", "canary": 1}).want(200)
	received(t, d.starts)
	give("again")
	if got := events(); !strings.Contains(got, "the service db has a new address; restart the app") {
		t.Errorf("events: %s", got)
	}
	if state() != "UPDATING" {
		t.Errorf("the canary's update is %s", state())
	}
	u.put("hello", map[string]any{"state": "STOPPED"}).want(200)
	give("third")
	if got := u.stored("hello"); got.State != store.Stopped {
		t.Errorf("the app is %s", got.State)
	}
}
