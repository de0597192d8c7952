package cloudcontroller

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/component/passwords"
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

// TestDomains: apps get the names of the domains that lead to apps, if their
// account is one of those that may have them.
func TestDomains(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start(`domains:
  - {name: "*.Shop.example", apps: true, users: []}
  - {name: "*.vip.shop.example", apps: true, users: [VIP@example.com]}
  - {name: www.shop.example, apps: false}
  - {name: www.cf.localhost, apps: true}
  - {name: blog.cf.localhost, apps: false}
  - {name: api.cf.localhost, apps: true}
`)
	u, vip, root := c.register("dev@example.com"), c.register("vip@example.com"), c.register("root@example.com")
	n := 0
	create := func(u *client, host string) answer {
		n++
		return u.call("POST", "/apps", map[string]any{"name": fmt.Sprint("app", n), "staging": map[string]any{"framework": "node"}, "uris": []string{host}, "resources": map[string]int{"memory": 16}})
	}
	create(u, "a.shop.example").want(302)
	create(u, "x.y.shop.example").want(302)
	create(u, "www.shop.example").fails(400, 701)
	create(u, "shop.example").fails(403, 702)
	create(u, "a.vip.shop.example").fails(400, 701)
	create(vip, "a.vip.shop.example").want(302)
	create(root, "b.vip.shop.example").want(302)
	create(root, "www.shop.example").fails(400, 701)
	create(u, "blog.cf.localhost").fails(400, 701)
	create(u, "www.cf.localhost").want(302)
	create(u, "api.cf.localhost").fails(400, 701)
	create(u, "plain.cf.localhost").want(302)
	create(u, "login.cf.localhost").fails(400, 701)
	create(u, "else.example").fails(403, 702)
	for who, want := range map[*client]string{
		u:   `[{"name":"*.cf.localhost","restricted":false},{"name":"*.shop.example","restricted":false},{"name":"www.cf.localhost","restricted":false},{"name":"api.cf.localhost","restricted":false}]`,
		vip: `[{"name":"*.cf.localhost","restricted":false},{"name":"*.shop.example","restricted":false},{"name":"*.vip.shop.example","restricted":true},{"name":"www.cf.localhost","restricted":false},{"name":"api.cf.localhost","restricted":false}]`,
	} {
		if got := who.call("GET", "/domains", nil).want(200); strings.TrimSpace(got.Body) != want {
			t.Errorf("domains %s, want %s", got.Body, want)
		}
	}
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
		return u.call("POST", "/apps", map[string]any{"name": fmt.Sprint("app", n), "staging": map[string]any{"framework": "node"}, "uris": []string{host}, "resources": map[string]int{"memory": 16}})
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

// TestNamesOfOthers: no account gets a name that is another's in another spelling,
// nor one above or below it: what is above may set cookies for what is below, and
// users take both for one owner's.
func TestNamesOfOthers(t *testing.T) {
	t.Parallel()
	c := newWorld(t).start(`
app_uris: {allow_external: true}
domains: [{name: shop.example, apps: true}, {name: "*.shop.example", apps: true}, {name: "*.eu.shop.example", apps: true}]
default_account_capacity: {memory: 4096, app_uris: 50, services: 1, apps: 50, instances: 10}
`)
	owner, other := c.register("owner@example.com"), c.register("other@example.com")
	n := 0
	create := func(u *client, host string) answer {
		n++
		return u.call("POST", "/apps", map[string]any{"name": fmt.Sprint("app", n), "staging": map[string]any{"framework": "node"}, "uris": []string{host}, "resources": map[string]int{"memory": 16}})
	}
	for _, host := range []string{
		"victim.cf.localhost", "a.deep.cf.localhost", "under_score.cf.localhost", "own.example.co.uk", "shop.example", "cart.shop.example", "b.eu.shop.example",
	} {
		create(owner, host).want(302)
	}
	for _, tc := range []struct {
		host         string
		status, code int
	}{
		{"victim.cf.localhost", 400, 701},
		{"Victim.CF.localhost", 400, 701},
		{"HTTPS://victim.cf.localhost/", 400, 701},
		{"victim.cf.localhost:80", 400, 701},
		{"x.victim.cf.localhost", 400, 701},
		{"y.x.victim.cf.localhost", 400, 701},
		{"X.VICTIM.cf.localhost", 400, 701},
		{"deep.cf.localhost", 400, 701},
		{"example.co.uk", 400, 701},
		{"www.own.example.co.uk", 400, 701},
		{"co.uk", 400, 701},
		{"uk", 400, 701},
		{"x.cart.shop.example", 400, 701},
		{"localhost", 400, 701},
		// Not names.
		{"victim.cf.localhost.", 400, 701},
		{"víctim.cf.localhost", 400, 700},
		{"victim\u3002cf.localhost", 400, 700},
		{"victim\u200d.cf.localhost", 400, 700},
		{"*.cf.localhost", 400, 700},
		{"victim..cf.localhost", 400, 700},
		{".cf.localhost", 400, 700},
		{"victim.cf.localhost\x00.cf.localhost", 400, 700},
		{"user@victim.cf.localhost", 400, 700},
		{"victim.cf.localhost/path", 400, 700},
		// Nobody's, and beside others'.
		{"notvictim.cf.localhost", 302, 0},
		{"victim-x.cf.localhost", 302, 0},
		{"x.underxscore.cf.localhost", 302, 0},
		{"underxscore.cf.localhost", 302, 0},
		{"b.deep.cf.localhost", 302, 0},
		{"other.co.uk", 302, 0},
		{"stock.shop.example", 302, 0},
		{"c.eu.shop.example", 302, 0},
		{"eu.shop.example", 302, 0},
		{"xn--vctim-1sa.cf.localhost", 302, 0},
	} {
		if a := create(other, tc.host); tc.status == 302 {
			a.want(302)
		} else {
			a.fails(tc.status, tc.code)
		}
	}
	// The owner may.
	for _, host := range []string{"x.victim.cf.localhost", "example.co.uk"} {
		create(owner, host).want(302)
	}
	create(owner, "deep.cf.localhost").fails(400, 701) // another's b.deep is below
	// So may the next, once none of the names is in use; a change of an app claims
	// as its creation does.
	for _, a := range []string{"app1", fmt.Sprint("app", n-2)} { // victim and x.victim
		owner.call("DELETE", "/apps/"+a, nil).want(200)
	}
	create(other, "z.victim.cf.localhost").want(302)
	owner.put("app2", map[string]any{"uris": []string{"a.deep.cf.localhost", "victim.cf.localhost"}}).fails(400, 701)
	owner.put("app2", map[string]any{"uris": []string{"a.deep.cf.localhost", "victims.cf.localhost"}}).want(200)
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
	var sha1 string
	for range 2 {
		s := received(t, d.starts)
		if sha1 = s.SHA1; s.SHA1 == app.DropletHash {
			t.Errorf("in the update instance %d runs droplet %s", s.Index, s.SHA1)
		}
	}
	eventually(t, "the record says what runs", func() bool { return u.stored("hello").DropletHash == sha1 })
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
	// Which files an account has is told to controllers only.
	for _, who := range []*client{u, {c: c, token: u.token, outside: true}} {
		if a := who.call("POST", "/internal/resources/1", "[]"); a.Status != 401 && a.Status != 404 {
			t.Errorf("files of an account are told: %d %s", a.Status, a.Body)
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

// TestQuotas: no account takes more than its share of instances, disk and files.
func TestQuotas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	settings := "app_limits: {instances: 3, memory_min: 16, disk: 2048, fds: 4096}\n" +
		"default_account_capacity: {memory: 2048, app_uris: 2, services: 1, apps: 9, instances: 4}\n"
	c := w.start(settings)
	d := w.dea("d")
	w.anyStager()
	u := c.register("dev@example.com")
	app := u.running(d, "hello", 1)
	for _, tc := range []struct {
		change       map[string]any
		status, code int
	}{
		{map[string]any{"instances": 1500}, 400, 300},
		{map[string]any{"instances": 4}, 400, 300},
		{map[string]any{"resources": map[string]int{"memory": 15}}, 400, 300},
		{map[string]any{"resources": map[string]int{"disk": 2049}}, 400, 300},
		{map[string]any{"resources": map[string]int{"disk": 1_000_000}}, 400, 300},
		{map[string]any{"resources": map[string]int{"fds": 4097}}, 400, 300},
		{map[string]any{"uris": []string{"a.cf.localhost", "b.cf.localhost", "c.cf.localhost"}}, 403, 602},
	} {
		u.put("hello", tc.change).fails(tc.status, tc.code)
	}
	u.put("hello", map[string]any{"instances": 3}).want(200)
	u.create("other")
	u.upload("other", zipOf(t, map[string]string{"app.js": "x"}), "[]").want(200)
	u.put("other", map[string]any{"instances": 2, "state": "STARTED"}).fails(403, 603)
	u.put("other", map[string]any{"instances": 1, "state": "STARTED"}).want(200)
	u.put("other", map[string]any{"instances": 2}).fails(403, 603)
	for _, index := range []int{1, 2, 0} {
		if s := received(t, d.starts); s.Index != index {
			t.Errorf("started %d, want %d", s.Index, index)
		}
	}
	select {
	case s := <-d.starts:
		t.Errorf("started %d of %s", s.Index, s.Name)
	default:
	}
	// What an app had before the limits were lowered stays, and may go down.
	c.configure(strings.NewReplacer("instances: 3", "instances: 1", "disk: 2048", "disk: 1024").Replace(settings))
	must(t, c.base.Reload())
	u.put("hello", map[string]any{"env": []string{"A=b"}}).want(200)
	u.put("hello", map[string]any{"instances": 2}).fails(400, 300)
	u.put("hello", map[string]any{"instances": 1, "resources": map[string]int{"memory": 64, "disk": 512}}).want(200)
	if got := u.stored("hello"); got.Disk != 512 || got.Instances != 1 || got.ID != app.ID {
		t.Errorf("the app is %+v", got)
	}
}

// TestUploadsAtOnce: an account has few, of all its apps.
func TestUploadsAtOnce(t *testing.T) {
	t.Parallel()
	c := newWorld(t).start("")
	dev, other := c.register("dev@example.com"), c.register("other@example.com")
	dev.create("hello")
	other.create("hi")
	// Five that do not end: one of them is refused.
	var slow sync.WaitGroup
	end, answers := make(chan struct{}), make(chan answer, 5)
	for range 5 {
		body, send := io.Pipe()
		slow.Go(func() {
			_, _ = send.Write([]byte("--x\r\nContent-Disposition: form-data; name=\"application\"; filename=\"a\"\r\n\r\n"))
			<-end
			send.Close()
		})
		slow.Go(func() {
			answers <- dev.do("POST", "/apps/hello/application", http.Header{"Content-Type": {"multipart/form-data; boundary=x"}}, body)
		})
	}
	select {
	case a := <-answers:
		if !strings.Contains(a.Body, "604") {
			t.Errorf("a fifth upload is answered with %+v", a)
		}
	case <-time.After(deadline):
		t.Error("a fifth upload is not refused")
	}
	other.upload("hi", zipOf(t, map[string]string{"a": "b"}), "[]").want(200)
	close(end)
	slow.Wait()
	dev.upload("hello", zipOf(t, map[string]string{"a": "b"}), "[]").want(200)
}

// TestStartsPerMinute: who starts, updates and scales again and again waits, and nobody
// else does; what crashes is not the account's doing.
func TestStartsPerMinute(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("default_account_capacity: {memory: 2048, app_uris: 2, services: 1, apps: 9, instances: 9, starts_per_minute: 1}\n")
	d := w.dea("d")
	w.anyStager()
	u := c.register("dev@example.com")
	u.running(d, "hello", 5) // who has started nothing may; it counts for five minutes
	late := u.put("hello", map[string]any{"instances": 6})
	late.fails(429, 605)
	if seconds, err := strconv.Atoi(late.Header.Get("Retry-After")); err != nil || seconds < 1 || seconds > 300 {
		t.Errorf("Retry-After %q", late.Header.Get("Retry-After"))
	}
	u.put("hello", map[string]any{"instances": 1}).want(200) // to end some is free
	u.put("hello", map[string]any{"env": []string{"A=b"}}).want(200)
	u.put("hello", map[string]any{"instances": 2}).fails(429, 605)
	u.call("PUT", "/apps/hello/update", "").fails(429, 605)
	u.call("PUT", "/apps/hello/update", `{"now": true}`).fails(429, 605)
	u.put("hello", map[string]any{"state": "STOPPED"}).want(200)
	u.put("hello", map[string]any{"state": "STARTED"}).fails(429, 605)
	if got := u.stored("hello"); got.Instances != 1 || got.State != "STOPPED" {
		t.Errorf("the app is %+v", got)
	}
	other := c.register("other@example.com")
	other.create("theirs")
	other.upload("theirs", zipOf(t, map[string]string{"app.js": "x"}), "[]").want(200)
	other.put("theirs", map[string]any{"instances": 1, "state": "STARTED"}).want(200)
}

// TestEnvironmentNames: variables that the platform sets are not the user's.
func TestEnvironmentNames(t *testing.T) {
	t.Parallel()
	c := newWorld(t).start("")
	u := c.register("dev@example.com")
	u.create("hello")
	for _, entry := range []string{"VCAP_APP_HOST=x", " VCAP_APP_HOST=x", "\tvmc_x=y", "DEPLOY_VM=x", "deploy_vm =x"} {
		u.put("hello", map[string]any{"env": []string{entry}}).fails(403, 200)
	}
	u.put("hello", map[string]any{"env": []string{" =x"}}).fails(400, 300)
	u.put("hello", map[string]any{"env": []string{"DEPLOYMENT=x", "A = b"}}).want(200)
	// What Linux gives no program is refused when it is set, not when the app starts.
	u.put("hello", map[string]any{"env": []string{"A=" + strings.Repeat("x", 128<<10-2)}}).fails(400, 300)
	u.put("hello", map[string]any{"env": []string{"A=" + strings.Repeat("x", 128<<10-3)}}).want(200)
}

// TestPasswords: who may set whose, and how long they are.
func TestPasswords(t *testing.T) {
	t.Parallel()
	c := newWorld(t).start("")
	nobody := &client{c: c}
	nobody.call("POST", "/users", `{"email":"short@example.com","password":"1234567"}`).fails(400, 100)
	nobody.call("POST", "/users", `{"email":"\u212Aate@example.com","password":"a long password"}`).fails(400, 100) // the Kelvin sign
	dev, other, admin := c.register("dev@example.com"), c.register("other@example.com"), c.register("root@example.com")
	dev.call("PUT", "/users/dev@example.com", `{"password":"1234567"}`).fails(400, 100)
	other.call("PUT", "/users/dev@example.com", `{"password":"a new password"}`).fails(403, 200)
	other.call("GET", "/apps", nil).want(200)
	// What an admin has opened for another ends with the admin's login, and with the other's.
	stands := func(own model.Account) error { return c.working().accounts.Stands(t.Context(), own) }
	asks := func(token string) model.Account {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/apps", nil)
		r.Header.Set("Authorization", token)
		r.Header.Set("Proxy-User", "dev@example.com")
		a, err := c.working().accounts.Authenticate(r)
		must(t, err)
		must(t, stands(a))
		return a
	}
	opened := asks(admin.token)
	admin.call("PUT", "/users/root@example.com", `{"password":"another one"}`).want(204)
	if stands(opened) == nil {
		t.Error("what an admin has opened for another outlives the admin's password")
	}
	var again struct{ Token string }
	admin.token = ""
	admin.call("POST", "/users/root@example.com/tokens", `{"password":"another one"}`).want(200).json(&again)
	admin.token = again.Token
	opened = asks(admin.token)
	opened.By.Email = "dev@example.com" // as one who was an admin
	if stands(opened) == nil {
		t.Error("what an admin has opened outlives the rights of an admin")
	}
	admin.call("PUT", "/users/nobody@example.com", `{"password":"a new password"}`).fails(403, 201)
	admin.call("PUT", "/users/dev@example.com", `{"password":"a new password"}`).want(204)
	admin.call("GET", "/apps", nil).want(200)
	dev.call("GET", "/apps", nil).fails(403, 200)
	nobody.call("POST", "/users/dev@example.com/tokens", `{"password":"a new password"}`).want(200)
}

// TestRegistration: it is closed unless it is opened, and nobody registers as an
// admin.
func TestRegistration(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	closed := w.start("# allow_registration: as it is by default\n")
	nobody := &client{c: closed}
	nobody.call("POST", "/users", `{"email":"dev@example.com","password":"long enough"}`).fails(403, 200)
	admin := closed.register("root@example.com")
	admin.call("POST", "/users", `{"email":"dev@example.com","password":"long enough"}`).want(204)
	nobody.call("POST", "/users/dev@example.com/tokens", `{"password":"long enough"}`).want(200)

	open := w.start("admin_password: \"\"\n")
	nobody = &client{c: open}
	nobody.call("POST", "/users", `{"email":"Root@example.com","password":"long enough"}`).fails(403, 200)
}

// login tries a password, with headers; X-Real-Ip says from where, "": nothing.
func (c *cc) login(key, from, email, password string) answer {
	header := http.Header{}
	if from != "" {
		header.Set("X-Real-Ip", from)
	}
	if key != "" {
		header.Set(wire.HeaderFrontKey, key)
	}
	body := strings.NewReader(fmt.Sprintf(`{"password":%q}`, password))
	return (&client{c: c}).do("POST", "/users/"+email+"/tokens", header, body)
}

// TestClaimedAddresses: the address that a request claims to come from counts only
// if a router says so, or an operator's foreign router. So nobody who reaches the
// controller's port escapes the bound on guesses by a new address for each.
func TestClaimedAddresses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, tc := range map[string]struct {
		settings, key string
		believed      bool
	}{
		"nobody's word":     {"", "", false},
		"a wrong key":       {"", "0123456789abcdef0123456789abcdef", false},
		"another network's": {"trusted_fronts: [192.0.2.0/24, \"::/0\"]\n", "", false},
		"a trusted network": {"trusted_fronts: [127.0.0.0/8]\n", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			c := w.start(tc.settings)
			for n := range passwords.LoginBurst {
				c.login(tc.key, fmt.Sprintf("192.0.2.%d", n+1), "dev@example.com", "guess").fails(403, 200)
			}
			if a := c.login(tc.key, "192.0.2.99", "dev@example.com", "guess"); tc.believed {
				a.fails(403, 200)
			} else {
				a.fails(429, 200)
			}
		})
	}
}

// TestLockOut: who guesses is slowed down, and not who is guessed at.
func TestLockOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	registrations := w.subscribe(wire.SubjectRouterRegister)
	c := w.start("")
	key := next(t, registrations, wire.ParseRegistration).FrontKey
	c.register("dev@example.com")
	login := func(from, email, password string) answer { return c.login(key, from, email, password) }
	for range passwords.LoginBurst {
		login("192.0.2.1", "dev@example.com", "guess").fails(403, 200)
	}
	login("192.0.2.1", "dev@example.com", "guess").fails(429, 200)
	login("::ffff:192.0.2.1", "dev@example.com", "guess").fails(429, 200)
	login("192.0.2.2", "dev@example.com", "secret of dev@example.com").want(200)
	// An address that tries all accounts is slowed down at each; IPv6 has many.
	for n := 0; ; n++ {
		a := login(fmt.Sprintf("2001:db8::%x", n+1), fmt.Sprintf("user%d@example.com", n), "guess")
		if a.Status == 429 {
			break
		}
		if a.fails(403, 200); n > 200 {
			t.Fatal("an address is never slowed down")
		}
	}
	login("2001:db8:0:1::1", "dev@example.com", "secret of dev@example.com").want(200)
}
