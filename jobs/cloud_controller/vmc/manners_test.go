package vmc

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

// portJS is an app as generators write it: it knows PORT only, and answers its
// environment.
const portJS = `
require('http').createServer((req, res) => res.end(JSON.stringify(process.env))).listen(process.env.PORT || 3000);
`

// apps returns the names of all apps.
func (p *platform) apps() []string {
	p.t.Helper()
	_, out, _ := p.vmc("apps", "--json")
	var apps []client.App
	must(p.t, json.Unmarshal([]byte(out), &apps))
	names := map[string]client.App{}
	for _, a := range apps {
		names[a.Name] = a
	}
	return slices.Sorted(maps.Keys(names))
}

// TestPushManners: what an app's author wrote is what the app gets, what was mapped
// stays mapped, and a first push that fails leaves no half of an app behind.
func TestPushManners(t *testing.T) {
	p := newPlatform(t)
	p.ok("register", "me@example.com")
	dom := strings.TrimPrefix(p.target, "api.")

	// Values pass from the manifest to the app as they stand there.
	values, err := os.ReadFile(filepath.Join("internal", "manifest", "testdata", "values.yml"))
	must(t, err)
	app := p.write(t.TempDir(), map[string]string{"server.js": portJS, "manifest.yml": string(values)})
	p.ok("push", "--path", app)
	page, err := p.page("http://envs." + dom + "/")
	must(t, err)
	var got map[string]string
	must(t, json.Unmarshal([]byte(page), &got))
	for name, want := range map[string]string{
		"DBURL": "postgres://u:pa$word@h/db", "BCRYPT": "$2b$10$N9qo8uLOickgx2ZMRZoMye", "TEMPLATE": "xyx${something}abc",
		"QUOTED": `"bar"`, "SQUOTED": "'tis", "FLOAT": "1.10", "OCT": "0123", "HEX": "0x1F", "DATE": "2012-08-01",
		"PEM": "-----BEGIN KEY-----\nabc\ndef\n-----END KEY-----\n", "TRAIL": "x ", "BIG": "12345678901234567890",
	} {
		if got[name] != want {
			t.Errorf("%s is %q in the app, want %q", name, got[name], want)
		}
	}
	if got["PORT"] == "" || got["PORT"] != got["VCAP_APP_PORT"] {
		t.Errorf("PORT is %q, VCAP_APP_PORT %q", got["PORT"], got["VCAP_APP_PORT"])
	}

	// A push of an app that is there takes no URL away.
	p.ok("map", "envs", "shop.cf.localhost")
	p.write(app, map[string]string{"manifest.yml": "applications: [{name: envs, url: more.cf.localhost}]"})
	p.ok("push", "--path", app)
	_, out, _ := p.vmc("apps", "envs", "--json")
	var apps []client.App
	must(t, json.Unmarshal([]byte(out), &apps))
	if want := []string{"envs.cf.localhost", "shop.cf.localhost", "more.cf.localhost"}; !slices.Equal(apps[0].URIs, want) {
		t.Errorf("after the push the app has %v, want %v", apps[0].URIs, want)
	}
	p.ok("delete", "envs", "--force")

	// A service that is not there is said before anything is made; what is found
	// wrong later takes the app with it.
	p.fails("you have no service nosuch", "push", "half", "--path", app, "--service", "nosuch")
	must(t, os.WriteFile(filepath.Join(app, "bad\xffname"), nil, 0o644))
	p.fails("bad\\xffname", "push", "half", "--path", app)
	if left := p.apps(); len(left) != 0 {
		t.Errorf("failed pushes left %v", left)
	}
}

// TestAppsPage: a page tells what an app is, what was done to it, and of its last
// crash; another name changes nothing else; early words say what keeps an app from
// running.
func TestAppsPage(t *testing.T) {
	p := newPlatform(t)
	p.ok("register", "me@example.com")
	app := p.write(t.TempDir(), map[string]string{"server.js": serverJS, "manifest.yml": "applications:\n- name: hello\n  health-check-type: http\n  health-check-http-endpoint: /\n  timeout: 90\n"})
	p.ok("push", "--path", app)
	if out := p.ok("health", "hello"); out != "GET / is answered, within 1m30s\n" {
		t.Errorf("health: %s", out)
	}
	p.ok("scale", "hello", "2")
	if out := p.ok("logs", "hello", "--all", "--since", "10m"); strings.Count(out, "/OUT] started undefined\n") != 2 || !strings.Contains(out, "[0/OUT]") || !strings.Contains(out, "[1/OUT]") {
		t.Errorf("logs of two instances: %s", out)
	}
	if out := p.ok("logs", "hello", "--all", "-n", "1"); strings.Count(out, "\n") != 1 {
		t.Errorf("the last line of two instances: %q", out)
	}
	// The requests stand beside, in the order of their times, for the owner only.
	for range 2 {
		if _, err := p.page("http://hello." + strings.TrimPrefix(p.target, "api.") + "/look?a=1"); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "the requests are among the lines", func() bool {
		out := p.ok("logs", "hello", "--all")
		lines := strings.Split(strings.TrimSpace(out), "\n")
		return len(regexp.MustCompile(`(?m)^20\S+ \[[01]/RTR\] GET hello\.cf\.localhost/look\?a=1 200, 12 bytes, [\d.]+ ms, from 127\.0\.0\.1, id [0-9a-f]{32}$`).FindAllString(out, -1)) == 2 &&
			slices.IsSortedFunc(lines, func(a, b string) int { return strings.Compare(a[:23], b[:23]) })
	})
	if out := p.ok("logs", "hello"); strings.Contains(out, "RTR") {
		t.Errorf("logs of one instance have requests: %s", out)
	}
	p.ok("rename", "hello", "greeter")
	p.fails("Application not found", "apps", "hello")
	_, _ = p.page("http://hello." + strings.TrimPrefix(p.target, "api.") + "/crash")
	eventually(t, "the page has all", func() bool {
		out := p.ok("app", "greeter")
		for _, want := range []string{"App:       greeter\n", "State:     started\n", "Kind:      node/node\n", "Runs when: GET / is answered, within 1m30s\n",
			"http://hello.cf.localhost:", "   running ", "instances 2, before 1", "renamed from hello to greeter", "The last crash", "ended with status 3"} {
			if !strings.Contains(out, want) {
				t.Logf("the page lacks %q:\n%s", want, out)
				return false
			}
		}
		return true
	})
	if out := p.ok("events", "greeter"); !strings.Contains(out, "me@example.com   made\n") || !strings.Contains(out, "an instance crashed: ") {
		t.Errorf("events: %s", out)
	}
	p.fails("a name has letters", "rename", "greeter", "greeter/x")
	p.ok("delete", "greeter", "--force")

	// It has more time than an impatient user, and its log says what is wrong.
	deaf := p.write(t.TempDir(), map[string]string{"server.js": "require('http').createServer(() => {}).listen(0)"})
	status, _, errOut := p.vmc("push", "deaf", "--timeout", "9s", "--framework", "node", "--path", deaf)
	if status != 1 || !strings.Contains(errOut, "it should take the port from the variable PORT") {
		t.Errorf("a push of an app that listens elsewhere: status %d\n%s", status, errOut)
	}
	p.ok("delete", "deaf", "--force")
	status, _, errOut = p.vmc("push", "late", "--start-timeout", "1s", "--framework", "node",
		"--path", p.write(t.TempDir(), map[string]string{"server.js": "setInterval(() => {}, 1000)"}))
	if status != 1 || !strings.Contains(errOut, "PORT names, within 1s") {
		t.Errorf("a push of an app with one second to start: status %d\n%s", status, errOut)
	}
}
