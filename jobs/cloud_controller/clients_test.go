package cloudcontroller

import (
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/jobs/runtimes"
	"github.com/clusterworks/deploy/jobs/wire"
)

// TestPortOfURL (S2-b): vmc of 2012 adds the target's port to the URLs that it offers.
func TestPortOfURL(t *testing.T) {
	t.Parallel()
	c := newWorld(t).start("")
	u := c.register("dev@example.com")
	u.create("hello")
	u.put("hello", map[string]any{"uris": []string{"http://Node.cf.localhost:18073/", "hello.cf.localhost."}}).want(200)
	if got := u.stored("hello").URIs; strings.Join(got, " ") != "node.cf.localhost hello.cf.localhost" {
		t.Errorf("the URLs are %q", got)
	}
	for _, uri := range []string{"a.cf.localhost:", "a.cf.localhost:x", "a.cf.localhost:123456", "a.cf.localhost:80:80", ":80", "api.cf.localhost:80"} {
		if a := u.put("hello", map[string]any{"uris": []string{uri}}); a.Status != 400 {
			t.Errorf("%q is answered %d", uri, a.Status)
		}
	}
}

// TestCrashedByIndex (S2-c): the files of an index are those of its running instance, else
// of the one that has crashed.
func TestCrashedByIndex(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("")
	d := w.dea("d")
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.URL.Path)) }))
	defer files.Close()
	d.fileURI = files.URL + "/instances"
	w.anyStager()
	u := c.register("dev@example.com")
	u.running(d, "hello", 1)
	crash := func(state string) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.instances[0].State = state
	}
	want := u.call("GET", "/apps/hello/instances/0/files/logs/stderr.log", nil).want(200).Body
	crash(wire.StateCrashed)
	if got := u.call("GET", "/apps/hello/instances/0/files/logs/stderr.log", nil).want(200).Body; got != want || got == "" {
		t.Errorf("of a crashed instance: %q, want %q", got, want)
	}
	u.call("GET", "/apps/hello/instances/1/files/logs/stderr.log", nil).fails(400, 304)
}

// TestFrameworksOf2012 (S3-2): vmc of 2012 breaks off at apps of frameworks that it does
// not know; the README of ours names these.
func TestFrameworksOf2012(t *testing.T) {
	known := []string{"rails3", "sinatra", "grails", "lift", "spring", "node", "java_web", "php", "otp_rebar", "rack", "play", "wsgi", "django", "dotnet", "standalone"}
	text, err := os.ReadFile("cmd/vmc/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, limits, _ := strings.Cut(string(text), "Clients of 2012 know their own list of frameworks only")
	limits, _, _ = strings.Cut(limits, "\n")
	pushes, breaks, _ := strings.Cut(limits, "breaks off")
	for _, f := range runtimes.Frameworks() {
		where, what := breaks, "breaks off at"
		if slices.Contains(known, f.Name) {
			where, what = pushes, "pushes"
		}
		if !strings.Contains(where, "`"+f.Name+"`") {
			t.Errorf("the README does not say that vmc of 2012 %s apps of %s", what, f.Name)
		}
	}
}

// TestRuntimesOf2012 (S3-4): a manifest of 2012 names its runtimes as they were called; who
// names none that there is, is told which there are.
func TestRuntimesOf2012(t *testing.T) {
	t.Parallel()
	c := newWorld(t).start("")
	u := c.register("dev@example.com")
	create := func(name, framework, runtime string) answer {
		return u.call("POST", "/apps", map[string]any{
			"name": name, "staging": map[string]any{"framework": framework, "runtime": runtime}, "uris": []string{}, "instances": 1, "resources": map[string]any{"memory": 64},
		})
	}
	for runtime, want := range map[string]string{"node08": "node", "node": "node"} {
		create(runtime, "node", runtime).want(302)
		if got := u.stored(runtime).Runtime; got != want {
			t.Errorf("%s is %s, want %s", runtime, got, want)
		}
	}
	for _, tc := range []struct{ framework, runtime, want string }{
		{"wsgi", "python2", `"python2"; apps of framework wsgi can have python`},
		{"node", "ruby19", `"ruby"; apps of framework node can have node`},
		{"django", "", `"django"; there are binary, java_web, node`},
	} {
		if a := create("x", tc.framework, tc.runtime); a.Status != 400 || !strings.Contains(strings.ReplaceAll(a.Body, `\"`, `"`), tc.want) {
			t.Errorf("%s with %s: %d %s, want %s", tc.framework, tc.runtime, a.Status, a.Body, tc.want)
		}
	}
	long := create(strings.Repeat("a", 256), "node", "")
	if long.Status != 400 || !strings.Contains(long.Body, "at most 255") {
		t.Errorf("a long name: %d %s", long.Status, long.Body)
	}
}
