package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// flaky is a controller that fails as told before it does what is asked.
type flaky struct {
	mu       sync.Mutex
	failures []func(http.ResponseWriter) // of the next requests
	asked    []string
	app      App
	locked   int // how many changes meet another one
	deleted  bool
}

func status(code int, body string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

// cut ends the connection without an answer.
func cut(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		conn.Close()
	}
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, r.Method+" "+r.URL.EscapedPath())
	apply := func() {
		body, _ := io.ReadAll(r.Body)
		switch r.Method {
		case http.MethodPut:
			if err := json.Unmarshal(body, &f.app); err == nil {
				f.app.Meta.Version++
			}
		case http.MethodDelete:
			f.deleted = true
		}
	}
	if len(f.failures) > 0 {
		fail := f.failures[0]
		f.failures = f.failures[1:]
		if fail == nil { // it is done, and the answer is lost
			apply()
			fail = cut
		}
		fail(w)
		return
	}
	switch {
	case f.deleted && strings.HasPrefix(r.URL.Path, "/apps/"):
		status(404, `{"code":301,"description":"Application not found"}`)(w)
	case r.Method == http.MethodPut && f.locked > 0:
		f.locked--
		f.app.Meta.Version++
		f.app.Instances++ // someone else's change
		status(400, `{"code":102,"description":"Optimistic locking failure"}`)(w)
	case r.Method == http.MethodGet:
		_ = json.NewEncoder(w).Encode(f.app)
	default:
		apply()
	}
}

func newFlaky(t *testing.T) (*flaky, *Client) {
	t.Helper()
	f := &flaky{app: App{Name: "a", Instances: 1}}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	c, err := New(s.URL, "token")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return f, c
}

// TestTriesAgain: what is lost on the way is asked for again if that does no
// harm; a controller's own answer is believed.
func TestTriesAgain(t *testing.T) {
	for _, tc := range []struct {
		name     string
		failures []func(http.ResponseWriter)
		call     func(*Client) error
		requests int
		want     string
	}{
		{"a gateway without a backend", []func(http.ResponseWriter){status(502, "Bad gateway"), status(503, "")}, func(c *Client) error { _, err := c.App(t.Context(), "a"); return err }, 3, ""},
		{"a cut connection", []func(http.ResponseWriter){cut}, func(c *Client) error { _, err := c.App(t.Context(), "a"); return err }, 2, ""},
		{"the controller's error", []func(http.ResponseWriter){status(500, `{"code":101,"description":"database"}`)}, func(c *Client) error { _, err := c.App(t.Context(), "a"); return err }, 1, "database (error 101)"},
		{"the controller's 502", []func(http.ResponseWriter){status(502, `{"code":503,"description":"gateway"}`)}, func(c *Client) error { _, err := c.App(t.Context(), "a"); return err }, 1, "gateway (error 503)"},
		{"what is made once", []func(http.ResponseWriter){cut}, func(c *Client) error { return c.CreateApp(t.Context(), NewApp{Name: "a"}) }, 1, "cannot reach"},
		{"a deletion whose answer was lost", []func(http.ResponseWriter){nil}, func(c *Client) error { return c.DeleteApp(t.Context(), "a") }, 2, ""},
		{"no API", []func(http.ResponseWriter){status(200, "<html>")}, func(c *Client) error { _, err := c.App(t.Context(), "a"); return err }, 1, "is not JSON of this API"},
		{"text", []func(http.ResponseWriter){status(404, "VCAP ROUTER: 404 - DESTINATION NOT FOUND\n")}, func(c *Client) error { _, err := c.App(t.Context(), "a"); return err }, 1, "404 Not Found: VCAP ROUTER"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f, c := newFlaky(t)
			f.failures = tc.failures
			err := tc.call(c)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if len(f.asked) != tc.requests {
				t.Errorf("asked %q, want %d requests", f.asked, tc.requests)
			}
		})
	}
}

// TestRefused: where nobody listens, that is said at once, not after all tries.
func TestRefused(t *testing.T) {
	c, err := New("http://127.0.0.1:1", "")
	if err != nil {
		t.Fatal(err)
	}
	again := 0
	c.Retrying = func(error) { again++ }
	if _, err := c.Info(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) || again != refusals-1 {
		t.Errorf("%v after %d more tries, want a refusal after %d", err, again, refusals-1)
	}
}

// TestChangeApp: a change that meets another one is applied to it, and one whose
// answer was lost is not applied twice.
func TestChangeApp(t *testing.T) {
	t.Parallel()
	more := func(app *App) error { app.Env = []string{"A=1"}; return nil }
	f, c := newFlaky(t)
	f.locked = 2
	if err := c.ChangeApp(t.Context(), "a", more); err != nil {
		t.Fatal(err)
	}
	if f.app.Instances != 3 || !slices.Equal(f.app.Env, []string{"A=1"}) {
		t.Errorf("after it: %+v", f.app)
	}
	f, c = newFlaky(t)
	f.locked = 100
	if err := c.ChangeApp(t.Context(), "a", more); !Is(err, CodeLocked) {
		t.Errorf("error %v", err)
	}
	f, c = newFlaky(t)
	f.failures = []func(http.ResponseWriter){status(200, `{"name":"a"}`), nil}
	if err := c.ChangeApp(t.Context(), "a", more); err != nil || !slices.Equal(f.app.Env, []string{"A=1"}) {
		t.Errorf("after a lost answer: %+v, %v", f.app, err)
	}
	refuse := errors.New("no")
	if err := c.ChangeApp(t.Context(), "a", func(*App) error { return refuse }); !errors.Is(err, refuse) {
		t.Errorf("error %v", err)
	}
}

// TestUpload: the form is as the original's, each try sends all of it, and paths
// are escaped whole.
func TestUpload(t *testing.T) {
	t.Parallel()
	var form map[string]string
	tries := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if tries++; tries == 1 {
			cut(w)
			return
		}
		form = map[string]string{"path": r.URL.EscapedPath(), "token": r.Header.Get("Authorization"), "user": r.Header.Get("Proxy-User")}
		if err := r.ParseMultipartForm(1 << 20); err != nil {
			t.Error(err)
			return
		}
		for name, values := range r.MultipartForm.Value {
			form[name] = values[0]
		}
		for name, files := range r.MultipartForm.File {
			in, err := files[0].Open()
			if err != nil {
				t.Error(err)
				return
			}
			text, err := io.ReadAll(in)
			if err != nil {
				t.Error(err)
			}
			form[name] = string(text)
		}
	}))
	t.Cleanup(s.Close)
	c, err := New(s.URL, "token")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.As = "other@example.com"
	archive := filepath.Join(t.TempDir(), "a.zip")
	if err := os.WriteFile(archive, []byte("zip"), 0o600); err != nil {
		t.Fatal(err)
	}
	sent := int64(0)
	_, err = c.Upload(t.Context(), "a/b", archive, []Resource{{Size: 5, SHA1: "abc", Name: "x"}}, func(n int64) { sent = n })
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"path": "/apps/a%2Fb/application", "token": "token", "user": "other@example.com",
		"_method": "put", "application": "zip", "resources": `[{"size":5,"sha1":"abc","fn":"x"}]`}
	if fmt.Sprint(form) != fmt.Sprint(want) || sent != 3 {
		t.Errorf("sent %d, form\n%v\nwant\n%v", sent, form, want)
	}
	if _, err := c.Upload(t.Context(), "a", "", nil, nil); err != nil {
		t.Fatal(err)
	}
	if form["resources"] != "[]" || form["_method"] != "put" || form["application"] != "" {
		t.Errorf("without an archive: %v", form)
	}
}

// TestFileFrom: the rest of a file, from servers that know ranges and from others.
func TestFileFrom(t *testing.T) {
	t.Parallel()
	for _, ranges := range []bool{true, false} {
		path := ""
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			path = r.URL.EscapedPath()
			if !ranges {
				r.Header.Del("Range")
			}
			http.ServeContent(w, r, "x.log", time.Time{}, strings.NewReader("0123456789"))
		}))
		t.Cleanup(s.Close)
		c, err := New(s.URL, "")
		if err != nil {
			t.Fatal(err)
		}
		text, err := c.File(t.Context(), "a", "0", "logs/x.log", 4)
		if err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(text)
		text.Close()
		c.Close()
		if err != nil || string(rest) != "456789" || path != "/apps/a/instances/0/files/%2Flogs%2Fx.log" {
			t.Errorf("ranges %v: %q of %s, %v", ranges, rest, path, err)
		}
	}
}

func TestTargets(t *testing.T) {
	for text, want := range map[string]string{
		"api.cf.localhost:8080": "http://api.cf.localhost:8080", "https://api.x/": "https://api.x", "http://api.x": "http://api.x",
		"": "", "ftp://x": "", "http://x/path": "", "http://": "", "a b": "",
	} {
		got, err := ParseTarget(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	c, err := New("http://api.cf.localhost:8080", "")
	if err != nil || c.Domain() != "cf.localhost" || c.AppURL("a.cf.localhost") != "http://a.cf.localhost:8080/" {
		t.Errorf("domain %q, URL %q, %v", c.Domain(), c.AppURL("a.cf.localhost"), err)
	}
}

// TestLocalhost: no resolver is asked for *.localhost, nor a proxy.
func TestLocalhost(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := (&Dialer{}).DialContext(context.Background(), "tcp", net.JoinHostPort("api.Any.Localhost", port))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	at, err := proxy(httptest.NewRequest(http.MethodGet, "http://api.Any.localhost:8080/info", http.NoBody))
	if at != nil || err != nil {
		t.Errorf("the proxy for this machine is %v, %v", at, err)
	}
}

// TestSilentController: where nothing moves, a request ends and says who did not answer
// what; what moves slowly goes on.
func TestSilentController(t *testing.T) {
	t.Parallel()
	const limit = 300 * time.Millisecond
	forever := func(r *http.Request) { <-r.Context().Done() }
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/apps/slow/instances/0/files//f": // a piece at a time, longer in all than the limit
			for range 7 {
				_, _ = io.WriteString(w, "a")
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(time.Second):
				}
			}
		case "/apps/stuck/instances/0/files//f":
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "ab")
			w.(http.Flusher).Flush()
			forever(r)
		default:
			_, _ = io.Copy(io.Discard, r.Body)
			forever(r)
		}
	}))
	defer server.Close()
	c, err := New(server.URL, "token")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := c.http.Transport.(*patience)
	p.short, p.long = limit, limit
	host := strings.TrimPrefix(server.URL, "http://")
	read := func(app string) (string, error) {
		body, err := c.File(t.Context(), app, "0", "f", 0)
		if err != nil {
			return "", err
		}
		defer body.Close()
		text, err := io.ReadAll(body)
		return string(text), err
	}
	for what, do := range map[string]func() error{
		"GET /info":                              func() error { _, err := c.Info(t.Context()); return err },
		"PUT /apps/a/update":                     func() error { _, err := c.UpdateApp(t.Context(), "a", Change{}); return err },
		"GET /apps/a/instances/0/session":        func() error { _, err := c.Session(t.Context(), "a", 0, SessionStart{}); return err },
		"GET /apps/stuck/instances/0/files/%2Ff": func() error { _, err := read("stuck"); return err },
		"POST /users/me@example.com/tokens":      func() error { _, err := c.Login(t.Context(), "me@example.com", "x"); return err },
		"DELETE /services/db":                    func() error { return c.DeleteService(t.Context(), "db") },
	} {
		if err := do(); err == nil || !strings.Contains(err.Error(), host+" has not answered "+what+" for 300ms") {
			t.Errorf("%s: %v", what, err)
		}
	}
	p.short = 5 * time.Second
	if text, err := read("slow"); text != "aaaaaaa" || err != nil {
		t.Errorf("what comes slowly is %q, %v", text, err)
	}
}
