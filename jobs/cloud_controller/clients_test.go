package cloudcontroller

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/jobs/wire"
)

// TestPortOfURL: vmc of 2012 adds the target's port to the URLs that it offers.
func TestPortOfURL(t *testing.T) {
	t.Parallel()
	c := newWorld(t).start("")
	u := c.register("dev@example.com")
	u.create("hello")
	u.put("hello", map[string]any{"uris": []string{"http://Node.cf.localhost:18073/", "hello.cf.localhost"}}).want(200)
	if got := u.stored("hello").URIs; strings.Join(got, " ") != "node.cf.localhost hello.cf.localhost" {
		t.Errorf("the URLs are %q", got)
	}
	for _, uri := range []string{"a.cf.localhost:", "a.cf.localhost:x", "a.cf.localhost:123456", "a.cf.localhost:80:80", ":80", "api.cf.localhost:80"} {
		if a := u.put("hello", map[string]any{"uris": []string{uri}}); a.Status != 400 {
			t.Errorf("%q is answered %d", uri, a.Status)
		}
	}
}

// TestCrashedByIndex: the files of an index are those of its running instance, else
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
