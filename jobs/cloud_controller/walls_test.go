package cloudcontroller

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/jobs/wire"
)

// TestResourcesOfOthers: a user learns nothing of other users' files, and gets
// none of them; nor of small files, which could be guessed.
func TestResourcesOfOthers(t *testing.T) {
	t.Parallel()
	c := newWorld(t).start("")
	alice, bob := c.register("alice@example.com"), c.register("bob@example.com")
	large, pin := strings.Repeat("private", 10_000), "PIN=4711\n"
	alice.create("hers")
	alice.upload("hers", zipOf(t, map[string]string{"large": large, "pin": pin}), "[]").want(200)
	bob.create("thief")
	resource := func(text string) string {
		return fmt.Sprintf(`{"size":%d,"sha1":"%s","fn":"stolen"}`, len(text), sum([]byte(text)))
	}
	both := "[" + resource(large) + "," + resource(pin) + "]"
	if got := bob.call("POST", "/resources", both).want(200).Body; got != "[]" {
		t.Errorf("Bob is told that there is %s", got)
	}
	for _, text := range []string{large, pin} {
		bob.upload("thief", nil, "["+resource(text)+"]").fails(400, 401)
		if a := bob.call("GET", "/apps/thief/application", nil); a.Status == 200 {
			t.Error("Bob has a package of Alice's file")
		}
	}
	if got := alice.call("POST", "/resources", both).want(200).Body; got != "["+resource(large)+"]" {
		t.Errorf("Alice is told that there is %s, want her large file", got)
	}
	alice.upload("hers", nil, "["+resource(large)+"]").want(200)
}

// TestSignedDownloads: packages and droplets are for who has been given their
// URL, and for a while.
func TestSignedDownloads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("")
	d := w.dea("d")
	requests := w.subscribe(wire.SubjectStaging)
	w.anyStager()
	u := c.register("dev@example.com")
	u.create("hello")
	u.upload("hello", zipOf(t, map[string]string{"app.js": "x"}), "[]").want(200)
	u.put("hello", map[string]any{"state": "STARTED"}).want(200)
	start := received(t, d.starts)
	request := next(t, requests, wire.ParseStagingRequest)
	for what, signed := range map[string]string{"droplet": start.ExecutableURI, "package": request.DownloadURI} {
		get := func(change func(*url.URL, url.Values)) int {
			at, err := url.Parse(signed)
			must(t, err)
			query := at.Query()
			change(at, query)
			at.RawQuery = query.Encode()
			response, err := http.Get(at.String())
			must(t, err)
			response.Body.Close()
			return response.StatusCode
		}
		if got := get(func(*url.URL, url.Values) {}); got != 200 {
			t.Errorf("the %s is answered %d", what, got)
		}
		for change, f := range map[string]func(*url.URL, url.Values){
			"no query":     func(_ *url.URL, q url.Values) { clear(q) },
			"no signature": func(_ *url.URL, q url.Values) { q.Del("signature") },
			"later expiry": func(_ *url.URL, q url.Values) { q.Set("expires", "9999999999") },
			"no expiry":    func(_ *url.URL, q url.Values) { q.Del("expires") },
			"other app":    func(u *url.URL, _ url.Values) { u.Path = strings.Replace(u.Path, "/1", "/2", 1) },
			"other signature": func(_ *url.URL, q url.Values) {
				q.Set("signature", strings.Repeat("0", 64))
			},
		} {
			if got := get(f); got != 403 {
				t.Errorf("the %s with %s is answered %d", what, change, got)
			}
		}
	}
	// The owner's token opens nothing either.
	u.call("GET", fmt.Sprintf("/staged_droplets/%s/%s", start.Droplet, start.SHA1), nil).fails(403, 200)
}

// TestPlatformHosts: host names that components have registered, and reserved
// ones, are no app's.
func TestPlatformHosts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("reserved_hosts: [status, console.example.com]\napp_uris: {allow_external: true}\n")
	u := c.register("dev@example.com")
	for _, route := range []wire.Registration{
		{Host: "127.0.0.1", Port: 80, URIs: []string{"Dashboard.cf.localhost"}, Tags: wire.Tags{"component": "Dashboard"}},
		{Host: "127.0.0.1", Port: 80, URIs: []string{"marker.cf.localhost"}},
	} {
		data, err := json.Marshal(route)
		must(t, err)
		must(t, w.conn.Publish(wire.SubjectRouterRegister, data))
		must(t, w.conn.Publish(wire.SubjectRouterRegister, []byte("not JSON")))
	}
	must(t, w.conn.Flush())
	n := 0
	create := func(host string) answer {
		n++
		return u.call("POST", "/apps", map[string]any{"name": fmt.Sprint("app", n), "staging": map[string]any{"framework": "node"}, "uris": []string{host}, "resources": map[string]int{"memory": 1}})
	}
	eventually(t, "registrations are heard", func() bool {
		a := create("marker.cf.localhost")
		if a.Status == 302 {
			u.call("DELETE", fmt.Sprint("/apps/app", n), nil).want(200)
		}
		return a.Status == 400
	})
	refused := []string{
		"dashboard.cf.localhost", "login.cf.localhost", "uaa.cf.localhost", "admin.cf.localhost", "www.cf.localhost",
		"api.cf.localhost", "x.api.cf.localhost", "x.login.cf.localhost", "x.dashboard.cf.localhost", "status.cf.localhost", "console.example.com",
	}
	for _, host := range refused {
		create(host).fails(400, 701)
	}
	create("mylogin.cf.localhost").want(302)
	// What DEAs register is their apps'.
	data, err := json.Marshal(wire.Registration{Host: "127.0.0.1", Port: 81, URIs: []string{"mylogin.cf.localhost"}, App: wire.ID(fmt.Sprint(u.stored(fmt.Sprint("app", n)).ID))})
	must(t, err)
	must(t, w.conn.Publish(wire.SubjectRouterRegister, data))
	create("mylogin.cf.localhost").want(302)
	// A controller that starts anew has not forgotten.
	must(t, c.stop())
	c.run()
	for _, host := range refused[:1] {
		create(host).fails(400, 701)
	}
}

// TestScaleAfterUpload: a running app's new instances run the droplet that its
// others run and its record names, whatever was uploaded since.
func TestScaleAfterUpload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("")
	d := w.dea("d")
	w.anyStager()
	u := c.register("dev@example.com")
	app := u.running(d, "hello", 1)
	u.upload("hello", zipOf(t, map[string]string{"app.js": "new"}), "[]").want(200)
	u.put("hello", map[string]any{"instances": 2}).want(200)
	if s := received(t, d.starts); s.SHA1 != app.DropletHash || s.Index != 1 {
		t.Errorf("instance %d runs droplet %s, the record says %s", s.Index, s.SHA1, app.DropletHash)
	}
	u.put("hello", map[string]any{"env": []string{"A=b"}}).want(200)
	if got := u.stored("hello"); got.DropletHash != app.DropletHash || got.RunCount != app.RunCount {
		t.Errorf("the record is %+v", got)
	}
	u.call("PUT", "/apps/hello/update", nil).want(204)
	for range 2 {
		if s := received(t, d.starts); s.SHA1 == app.DropletHash || s.SHA1 != u.stored("hello").DropletHash {
			t.Errorf("after the update instance %d runs droplet %s", s.Index, s.SHA1)
		}
	}
}

// TestInternalPort: what is for components is not served to the world, whatever
// it brings.
func TestInternalPort(t *testing.T) {
	t.Parallel()
	c := newWorld(t).start("")
	u := c.register("dev@example.com")
	bulk, peer := c.working().api.Config.Now().BulkAPI.Auth, c.working().peers.Credentials()
	for _, tc := range []struct {
		path, user, password string
		status               int // at the internal port
	}{
		{"/bulk/apps", bulk.User, bulk.Password, 200},
		{"/bulk/counts?model=user", bulk.User, bulk.Password, 200},
		{fmt.Sprintf("/internal/blobs/droplet/1/%040d", 1), peer.User, peer.Password, 404},
		{fmt.Sprintf("/internal/resources/1/%040d/1", 1), peer.User, peer.Password, 404},
		{c.signedPath("/staging/app/1"), "", "", 404},
		{c.signedPath("/staged_droplets/1/%040d", 1), "", "", 404},
	} {
		request := http.Request{Header: http.Header{}}
		request.SetBasicAuth(tc.user, tc.password)
		if a := u.do("GET", tc.path, request.Header, nil).want(tc.status); tc.status == 404 && !strings.Contains(a.Body, `"code":30`) {
			t.Errorf("%s at the internal port: %s", tc.path, a.Body)
		}
		outside := &client{c: c, token: u.token, outside: true}
		if a := outside.do("GET", tc.path, request.Header, nil).want(404); a.Body != "" {
			t.Errorf("%s at the public port: %s", tc.path, a.Body)
		}
	}
	for _, path := range []string{"/info", "/apps", "/users"} {
		request, err := http.NewRequest("GET", "http://"+c.address()+path, nil)
		must(t, err)
		request.Header.Set("Authorization", u.token)
		response, err := http.DefaultClient.Do(request)
		must(t, err)
		response.Body.Close()
		if response.StatusCode != 404 {
			t.Errorf("%s at the internal port: %s", path, response.Status)
		}
	}
}
