package vmc

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
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
