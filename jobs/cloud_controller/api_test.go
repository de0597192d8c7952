package cloudcontroller

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/component/passwords"
)

func TestUsers(t *testing.T) {
	t.Parallel()
	c := newWorld(t).start("")
	nobody := &client{c: c}
	for _, body := range []string{`{"email":"dev@example.com"}`, `{"email":"dev","password":"x"}`, `{"email":"Dev <dev@example.com>","password":"x"}`, `{`, ``, `[]`, `{"email":7}`} {
		nobody.call("POST", "/users", body).fails(400, 100)
	}
	u := c.register("Dev@Example.com")
	nobody.call("POST", "/users", `{"email":"dev@example.com","password":"x"}`).fails(400, 100)
	other, admin := c.register("other@example.com"), c.register("root@example.com")

	if got := u.call("GET", "/users/dev%40example.com", nil).want(200).Body; got != `{"admin":false,"email":"dev@example.com"}` {
		t.Errorf("user: %s", got)
	}
	u.call("GET", "/users/other%40example.com", nil).fails(403, 200)
	u.call("GET", "/users", nil).fails(403, 200)
	u.call("DELETE", "/users/other@example.com", nil).fails(403, 200)
	admin.call("GET", "/users/nobody@example.com", nil).fails(403, 201)
	u.create("hello")
	if got := admin.call("GET", "/users", nil).want(200).Body; got != `[{"email":"dev@example.com","admin":false,"apps":[{"name":"hello","state":"STOPPED"}]},`+
		`{"email":"other@example.com","admin":false,"apps":[]},{"email":"root@example.com","admin":true,"apps":[]}]` {
		t.Errorf("users: %s", got)
	}

	// An admin acts as another, and logs in as anyone.
	acting := &client{c: c, token: admin.token, as: "dev@example.com"}
	acting.call("GET", "/apps/hello", nil).want(200)
	acting.as = "nobody@example.com"
	acting.call("GET", "/apps", nil).fails(403, 201)
	(&client{c: c, token: other.token, as: "dev@example.com"}).call("GET", "/apps", nil).fails(403, 200)
	var doc struct{ Token string }
	admin.call("POST", "/users/dev@example.com/tokens", nil).want(200).json(&doc)
	(&client{c: c, token: doc.Token}).call("GET", "/apps/hello", nil).want(200)
	admin.call("POST", "/users/nobody@example.com/tokens", nil).fails(403, 201)
	other.call("POST", "/users/dev@example.com/tokens", `{"password":"guess"}`).fails(403, 200)

	// A new password ends the tokens.
	other.call("PUT", "/users/other@example.com", `{"email":"other@example.com","password":"new password"}`).want(204)
	other.call("GET", "/apps", nil).fails(403, 200)
	nobody.call("POST", "/users/other@example.com/tokens", `{"password":"new password"}`).want(200)
	u.call("GET", "/apps", nil).want(200)

	admin.call("DELETE", "/users/dev@example.com", nil).want(204)
	u.call("GET", "/apps", nil).fails(403, 200)
	admin.call("DELETE", "/users/dev@example.com", nil).fails(403, 201)

	for _, token := range []string{"", "x", "bearer " + admin.token, admin.token[:len(admin.token)-8] + "AAAAAAAA"} {
		(&client{c: c, token: token}).call("GET", "/apps", nil).fails(403, 200)
	}
	if a := nobody.call("GET", "/nowhere", nil).want(404); a.Body != "" {
		t.Errorf("an unknown route: %q", a.Body)
	}
	if a := admin.call("DELETE", "/apps", nil).want(404); a.Body != "" {
		t.Errorf("an unknown method: %q", a.Body)
	}
}

func TestLoginIsSlowedDown(t *testing.T) {
	t.Parallel()
	c := newWorld(t).start("")
	c.register("dev@example.com")
	c.register("other@example.com")
	nobody := &client{c: c}
	for range passwords.LoginBurst {
		nobody.call("POST", "/users/dev@example.com/tokens", `{"password":"guess"}`).fails(403, 200)
	}
	a := nobody.call("POST", "/users/dev@example.com/tokens", `{"password":"secret of dev@example.com"}`)
	a.fails(429, 200)
	if a.Header.Get("Retry-After") == "" {
		t.Errorf("no Retry-After: %v", a.Header)
	}
	nobody.call("POST", "/users/other@example.com/tokens", `{"password":"secret of other@example.com"}`).want(200)
	for range passwords.LoginBurst { // nobody's account is no exception
		nobody.call("POST", "/users/nobody@example.com/tokens", `{"password":"guess"}`).fails(403, 200)
	}
	nobody.call("POST", "/users/nobody@example.com/tokens", `{"password":"guess"}`).fails(429, 200)
	// Of what can be no account's name nothing is remembered.
	for _, name := range []string{strings.Repeat("x", 255), "a%00b@example.com"} {
		for range passwords.LoginBurst + 1 {
			nobody.call("POST", "/users/"+name+"/tokens", `{"password":"guess"}`).fails(403, 200)
		}
	}
}

// TestLoginIsSlowedDownEverywhere: two controllers side by side let through as many
// wrong guesses as one does, and what one has let in the other lets in.
func TestLoginIsSlowedDownEverywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	name, _ := postgres.Database(t)
	controllers := []*cc{w.start(postgresSettings(name)), w.start(postgresSettings(name))}
	for _, email := range []string{"one@example.com", "all@example.com", "late@example.com"} {
		controllers[0].register(email)
	}
	login := func(n int, email, password string) answer {
		return (&client{c: controllers[n%2]}).call("POST", "/users/"+email+"/tokens", map[string]string{"password": password})
	}
	for n := range passwords.LoginBurst {
		login(n, "one@example.com", "guess").fails(403, 200)
	}
	for n := range controllers {
		login(n, "one@example.com", "secret of one@example.com").fails(429, 200)
	}

	// All at once: what is under way at one controller the other cannot know of, but
	// it is counted.
	guesses := make(chan int, 8*passwords.LoginBurst)
	for n := range cap(guesses) {
		go func() { guesses <- login(n, "all@example.com", "guess").Status }()
	}
	wrong := 0
	for range cap(guesses) {
		if received(t, guesses) == 403 {
			wrong++
		}
	}
	if wrong > 2*passwords.LoginBurst {
		t.Errorf("%d guesses at once were let through", wrong)
	}
	forgotten, err := controllers[0].working().store.Logins().FailedLogins(t.Context(), "all@example.com 127.0.0.1")
	must(t, err)
	if want := time.Now().Add(time.Duration(wrong) * controllers[0].guard.Logins.Interval); forgotten.Before(want.Add(-time.Hour/2)) || forgotten.After(want) {
		t.Errorf("%d failures are forgotten at %v, want %v", wrong, forgotten, want)
	}

	// A success forgets what failed, and leaves nothing.
	for n := range passwords.LoginBurst - 1 {
		login(n, "late@example.com", "guess").fails(403, 200)
	}
	login(1, "late@example.com", "secret of late@example.com").want(200)
	if forgotten, err := controllers[0].working().store.Logins().FailedLogins(t.Context(), "late@example.com 127.0.0.1"); err != nil || !forgotten.IsZero() {
		t.Errorf("after a success: %v, %v", forgotten, err)
	}
	login(0, "late@example.com", "guess").fails(403, 200)
}

func TestClosedRegistration(t *testing.T) {
	t.Parallel()
	c := newWorld(t).start("allow_registration: false\nadmin_password: secret of root@example.com\n")
	nobody := &client{c: c}
	nobody.call("POST", "/users", `{"email":"dev@example.com","password":"long enough"}`).fails(403, 200)
	admin := &client{c: c}
	admin.login("root@example.com")
	admin.call("POST", "/users", `{"email":"dev@example.com","password":"long enough"}`).want(204)
}

func TestInfo(t *testing.T) {
	t.Parallel()
	c := newWorld(t).start("name: mine\nsupport_address: http://help\n")
	var info map[string]any
	(&client{c: c}).call("GET", "/info", nil).want(200).json(&info)
	if info["name"] != "mine" || info["build"] != 2222.0 || info["support"] != "http://help" || info["version"] != "0.999" || info["allow_debug"] != false ||
		info["user"] != nil || info["usage"] != nil || info["authorization_endpoint"] != nil {
		t.Errorf("info: %v", info)
	}
	node := info["frameworks"].(map[string]any)["node"].(map[string]any)
	if node["name"] != "node" || len(node["runtimes"].([]any)) != 1 || node["runtimes"].([]any)[0].(map[string]any)["name"] != "node" || len(node["detection"].([]any)) == 0 {
		t.Errorf("node: %v", node)
	}
	u := c.register("dev@example.com")
	u.call("GET", "/info", nil).want(200).json(&info)
	if fmt.Sprint(info["limits"]) != "map[app_uris:4 apps:20 instances:200 memory:2048 services:16 starts_per_minute:300]" || fmt.Sprint(info["usage"]) != "map[apps:0 memory:0 services:0]" || info["user"] != "dev@example.com" {
		t.Errorf("info: %v", info)
	}
	var runtimes map[string]map[string]any
	u.call("GET", "/info/runtimes", nil).want(200).json(&runtimes)
	if runtimes["node"]["version"] != "20" {
		t.Errorf("runtimes: %v", runtimes)
	}
}

func TestAppDocument(t *testing.T) {
	t.Parallel()
	c := newWorld(t).start("")
	u := c.register("dev@example.com")
	u.call("POST", "/apps", `{"name":"my-app_1","staging":{"framework":"standalone","runtime":"python","command":"./run"},"uris":["a.cf.localhost","B.cf.localhost","a.cf.localhost"],`+
		`"instances":"2","resources":{"memory":64.0,"disk":100},"env":["A=b=c"],"console":true}`).want(302)
	app := u.call("GET", "/apps/my-app_1", nil).want(200)
	var doc struct{ Meta struct{ Created int64 } }
	app.json(&doc)
	if age := time.Since(time.Unix(doc.Meta.Created, 0)); age < 0 || age > time.Hour {
		t.Errorf("created %v ago", age)
	}
	var v struct{ Version string }
	app.json(&v)
	got := strings.Replace(app.Body, fmt.Sprint(doc.Meta.Created), "0", 1)
	want := `{"name":"my-app_1","staging":{"model":"standalone","stack":"python"},"uris":["a.cf.localhost","b.cf.localhost"],"instances":2,"runningInstances":0,` +
		`"resources":{"disk":100,"fds":256,"memory":64},"state":"STOPPED","services":[],"version":"` + v.Version + `","env":["A=b=c"],` +
		`"meta":{"debug":null,"console":true,"command":"./run","version":1,"created":0},"health":{}}`
	if got != want || len(v.Version) != 42 {
		t.Errorf("app\n%s\nwant\n%s", got, want)
	}
	// It has another name and a check of its own from a change on, and no other.
	u.call("PUT", "/apps/my-app_1", `{"name":"renamed","health":{"type":"http","timeout":90}}`).want(200)
	if body := u.call("GET", "/apps/renamed", nil).want(200).Body; !strings.Contains(body, `"health":{"type":"http","endpoint":"/","timeout":90}`) {
		t.Errorf("with a check: %s", body)
	}
	u.call("GET", "/apps/my-app_1", nil).fails(404, 301)
	u.call("PUT", "/apps/renamed", `{"name":"my-app_1","health":{"type":"","endpoint":"","timeout":0}}`).want(200)
	app = u.call("GET", "/apps/my-app_1", nil).want(200)
	// It may be written back as it was read.
	u.put("my-app_1", nil).want(200)
	if list := u.call("GET", "/apps", nil).want(200).Body; list != "["+strings.Replace(app.Body, `"version":3,`, `"version":4,`, 1)+"]" {
		t.Errorf("apps: %s", list)
	}
	if got := u.call("GET", "/apps/my-app_1/instances", nil).want(200).Body; got != `{"instances":[]}` {
		t.Errorf("instances: %s", got)
	}
	if got := u.call("GET", "/apps/my-app_1/stats", nil).want(200).Body; got != `{}` {
		t.Errorf("stats: %s", got)
	}
	if got := u.call("GET", "/apps/my-app_1/crashes", nil).want(200).Body; got != `{"crashes":[]}` {
		t.Errorf("crashes: %s", got)
	}
	u.call("GET", "/apps/my-app_1/application", nil).fails(404, 303)
	u.call("PUT", "/apps/my-app_1/update", nil).fails(400, 305)
	var update map[string]any
	u.call("GET", "/apps/my-app_1/update", nil).want(200).json(&update)
	if update["state"] != "NONE" {
		t.Errorf("update: %v", update)
	}
}

func TestAppProblems(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("app_uris: {reserved_list: [www], reserved_length: 1}\ndefault_account_capacity: {memory: 256, app_uris: 2, services: 1, apps: 2}\n")
	u, other, admin := c.register("dev@example.com"), c.register("other@example.com"), c.register("root@example.com")
	other.create("theirs")
	other.call("GET", "/apps/nothing", nil).fails(404, 301)
	u.call("GET", "/apps/theirs", nil).fails(404, 301)

	app := func(change string) string {
		doc := map[string]json.RawMessage{
			"name": json.RawMessage(`"hello"`), "staging": json.RawMessage(`{"framework":"node"}`), "uris": json.RawMessage(`[]`),
			"instances": json.RawMessage(`1`), "resources": json.RawMessage(`{"memory":64}`),
		}
		var changes map[string]json.RawMessage
		must(t, json.Unmarshal([]byte(change), &changes))
		for key, value := range changes {
			doc[key] = value
		}
		data, err := json.Marshal(doc)
		must(t, err)
		return string(data)
	}
	for _, tc := range []struct {
		change       string
		status, code int
	}{
		{`{"name":null}`, 400, 300},
		{`{"name":"a/b"}`, 400, 300},
		{`{"name":""}`, 400, 300},
		{`{"name":7}`, 400, 100},
		{`{"staging":null}`, 400, 300},
		{`{"staging":{"framework":"cobol"}}`, 400, 308},
		{`{"staging":{"framework":"node","runtime":"ruby"}}`, 400, 307},
		{`{"staging":{}}`, 400, 308},
		{`{"instances":-1}`, 400, 300},
		{`{"instances":1.5}`, 400, 100},
		{`{"instances":"many"}`, 400, 100},
		{`{"instances":99999999999}`, 400, 100},
		{`{"resources":{"memory":0}}`, 400, 300},
		{`{"resources":{"disk":-1}}`, 400, 300},
		{`{"uris":["no spaces.cf.localhost"]}`, 400, 700},
		{`{"uris":[""]}`, 400, 700},
		{`{"uris":["a.cf.localhost/path"]}`, 400, 700},
		{`{"uris":["theirs.cf.localhost"]}`, 400, 701},
		{`{"uris":["www.cf.localhost"]}`, 400, 701},
		{`{"uris":["x.cf.localhost"]}`, 400, 701},
		{`{"uris":["API.cf.localhost"]}`, 400, 701},
		{`{"uris":["cf.localhost"]}`, 403, 702},
		{`{"uris":["hello.example.com"]}`, 403, 702},
		{`{"uris":["aa.cf.localhost","bb.cf.localhost","cc.cf.localhost"]}`, 403, 602},
		{`{"env":["VCAP_X=1"]}`, 403, 200},
		{`{"env":["vmc_x=1"]}`, 403, 200},
		{`{"env":["x"]}`, 400, 300},
		{`{"env":["=x"]}`, 400, 300},
		{`{"env":["a=\u0000"]}`, 400, 300},
		{`{"env":{}}`, 400, 100},
		{`{"debug":"run"}`, 400, 309},
		{`{"debug":7}`, 400, 300},
		{`{"console":"x"}`, 400, 300},
		{`{"services":["none"]}`, 404, 500},
	} {
		a := u.call("POST", "/apps", app(tc.change))
		a.what = "POST /apps with " + tc.change
		a.fails(tc.status, tc.code)
	}
	if apps := u.call("GET", "/apps", nil).want(200).Body; apps != "[]" {
		t.Errorf("what was refused is there: %s", apps)
	}
	u.call("POST", "/apps", app(`{}`)).want(302)
	u.call("POST", "/apps", app(`{}`)).fails(400, 300)
	u.call("POST", "/apps", app(`{"name":"second","uris":["https://Second.cf.localhost/"]}`)).want(302)
	u.call("POST", "/apps", app(`{"name":"third"}`)).fails(403, 601)
	admin.call("POST", "/apps", app(`{"uris":["hello.example.com"]}`)).want(302)

	u.put("hello", map[string]any{"state": "RUNNING"}).fails(400, 300)
	u.put("hello", map[string]any{"name": "second"}).fails(400, 300)
	u.put("hello", map[string]any{"name": "no/name"}).fails(400, 300)
	for _, health := range []string{
		`{"type":"tcp"}`, `{"type":"http","endpoint":"up"}`, `{"type":"http","endpoint":"/a b"}`, `{"type":"file"}`, `{"type":"file","endpoint":"../x"}`,
		`{"timeout":-1}`, `{"timeout":3601}`,
	} {
		u.call("PUT", "/apps/hello", `{"health":`+health+`}`).fails(400, 300)
	}
	u.put("hello", map[string]any{"instances": 5, "state": "STARTED"}).fails(403, 600)
	u.put("hello", map[string]any{"instances": 5}).want(200) // it does not run
	u.put("hello", map[string]any{"meta": map[string]any{"version": 1}}).fails(400, 102)
	u.put("hello", map[string]any{"meta": map[string]any{"version": "1"}}).fails(400, 102)
	for _, body := range []string{"", "{", "[]", "7", `"x"`, `{"uris":7}`, strings.Repeat("[", 100000)} {
		u.call("PUT", "/apps/hello", body).fails(400, 100)
		u.call("POST", "/apps", body).fails(400, 100)
	}
	u.call("PUT", "/apps/hello", strings.Repeat(" ", rest.MaxBody)+"{}").fails(400, 100)

	// Without files there is nothing to stage.
	u.put("hello", map[string]any{"instances": 1, "state": "STARTED"}).fails(500, 310)
	if doc := u.document("hello"); doc["state"] != "STOPPED" {
		t.Errorf("after a start that failed: %v", doc)
	}
}

// Of changes made of the same version, one is taken.
func TestOptimisticLock(t *testing.T) {
	t.Parallel()
	c := newWorld(t).start("")
	u := c.register("dev@example.com")
	u.create("hello")
	doc := u.document("hello")
	results := make(chan int, 8)
	for i := range cap(results) {
		go func() {
			mine := map[string]any{}
			for key, value := range doc {
				mine[key] = value
			}
			mine["env"] = []string{fmt.Sprint("N=", i)}
			data, _ := json.Marshal(mine)
			request, _ := http.NewRequest("PUT", "http://"+c.Address()+"/apps/hello", bytes.NewReader(data))
			request.Header.Set("Authorization", u.token)
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				results <- 0
				return
			}
			text, _ := io.ReadAll(response.Body)
			response.Body.Close()
			if response.StatusCode == 400 && !strings.Contains(string(text), `"code":102`) {
				results <- 0
				return
			}
			results <- response.StatusCode
		}()
	}
	counts := map[int]int{}
	for range cap(results) {
		counts[<-results]++
	}
	if counts[200] != 1 || counts[400] != cap(results)-1 {
		t.Errorf("answers: %v", counts)
	}
}

func TestBits(t *testing.T) {
	t.Parallel()
	c := newWorld(t).start("max_droplet_size_mb: 1\n")
	u := c.register("dev@example.com")
	u.create("hello")
	known := strings.Repeat("known", 20_000)
	u.upload("hello", zipOf(t, map[string]string{"app.js": "x", "lib/known.js": known}), "[]").want(200)

	// fn comes back as it was, and what is known by another size is not known.
	asked := fmt.Sprintf(`[{"size":100000,"sha1":"%s","fn":"/tmp/.vmc_hello_files/lib/known.js","other":1},{"size":100001,"sha1":"%s","fn":"b"},{"size":1,"sha1":"%040d","fn":"c"},{"size":1,"sha1":"../x","fn":"d"}]`,
		sum([]byte(known)), sum([]byte(known)), 7)
	want := fmt.Sprintf(`[{"size":100000,"sha1":"%s","fn":"/tmp/.vmc_hello_files/lib/known.js","other":1}]`, sum([]byte(known)))
	if got := u.call("POST", "/resources", asked).want(200).Body; got != want {
		t.Errorf("matched %s, want %s", got, want)
	}
	for _, body := range []string{"{}", "", `[{"size":"x"}]`, `[7]`} {
		u.call("POST", "/resources", body).fails(400, 100)
	}
	(&client{c: c}).call("POST", "/resources", "[]").fails(403, 200)

	resource := fmt.Sprintf(`[{"size":100000,"sha1":"%s","fn":"lib/known.js"}]`, sum([]byte(known)))
	before := u.call("GET", "/apps/hello/application", nil).want(200)
	if before.Header.Get("Content-Type") != "application/zip" {
		t.Errorf("a package is a %s", before.Header.Get("Content-Type"))
	}
	for name, file := range map[string][]byte{
		"only new files":  zipOf(t, map[string]string{"app.js": "y"}),
		"the empty file":  zipOf(t, map[string]string{".__empty__": ""}),
		"no file":         nil,
		"an empty field":  {},
		"all of the file": zipOf(t, map[string]string{"lib/known.js": "newer"}),
	} {
		if a := u.upload("hello", file, resource); a.Status != 200 {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	u.upload("hello", zipOf(t, map[string]string{"app.js": "x"}), resource).want(200)
	if after := u.call("GET", "/apps/hello/application", nil).want(200).Body; len(after) == 0 || !strings.Contains(after, "lib/known.js") {
		t.Error("the package lacks the matched file")
	}

	for name, tc := range map[string]struct {
		file         []byte
		resources    string
		status, code int
	}{
		"unknown resource":  {nil, fmt.Sprintf(`[{"size":1,"sha1":"%040d","fn":"a"}]`, 7), 400, 401},
		"resource outside":  {nil, fmt.Sprintf(`[{"size":100000,"sha1":"%s","fn":"../a"}]`, sum([]byte(known))), 500, 402},
		"file outside":      {zipOf(t, map[string]string{"../a": "x"}), "[]", 500, 402},
		"no zip":            {[]byte("hello"), "[]", 500, 402},
		"bomb":              {zipOf(t, map[string]string{"a": strings.Repeat("0", 2<<20)}), "[]", 500, 402},
		"resources no list": {nil, "{}", 400, 100},
		"resources broken":  {nil, "[", 400, 100},
	} {
		a := u.upload("hello", tc.file, tc.resources)
		if a.Status != tc.status || !strings.Contains(a.Body, fmt.Sprintf(`"code":%d`, tc.code)) {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	u.do("POST", "/apps/hello/application", http.Header{"Content-Type": {"multipart/form-data; boundary=x"}}, strings.NewReader("--x")).fails(400, 100)
	u.do("POST", "/apps/hello/application", nil, strings.NewReader("x")).fails(400, 100)
	u.do("PUT", "/apps/nothing/application", nil, nil).fails(404, 301)

	// More than may be is read to its end, so that the client sees the answer.
	head := "--x\r\nContent-Disposition: form-data; name=\"application\"; filename=\"a\"\r\n\r\n"
	a := u.do("PUT", "/apps/hello/application", http.Header{"Content-Type": {"multipart/form-data; boundary=x"}},
		io.MultiReader(strings.NewReader(head), io.LimitReader(zeros{}, 200<<20)))
	a.fails(500, 402)
	if files, err := os.ReadDir(c.dir + "/tmp"); err != nil || len(files) != 0 {
		t.Errorf("%v of uploads are left, %v", files, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
