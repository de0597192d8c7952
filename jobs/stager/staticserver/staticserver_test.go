package staticserver

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"
)

func siteFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "site")
	for name, text := range map[string]string{
		"site/index.html": "home", "site/a b.txt": "spaced", "site/docs/index.html": "docs", "site/docs/x.css": "css",
		"site/empty/.keep": "", "site/.env": "secret", "site/.well-known/x": "known", "site/404.html": "lost", "beside": "secret",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../beside", filepath.Join(root, "out")); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestFiles(t *testing.T) {
	root, err := os.OpenRoot(siteFolder(t))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	handler := Handler(root.FS())
	for _, tc := range []struct {
		method, path string
		status       int
		body, kind   string // kind: Content-Type, or Location
	}{
		{"GET", "/", 200, "home", "text/html; charset=utf-8"},
		{"GET", "/index.html", 200, "home", "text/html; charset=utf-8"},
		{"HEAD", "/", 200, "", "text/html; charset=utf-8"},
		{"GET", "/a%20b.txt", 200, "spaced", "text/plain; charset=utf-8"},
		{"GET", "/docs?x=1", 301, "", "/docs/?x=1"},
		{"GET", "//evil.example/..//docs", 301, "", "/docs/"},
		{"GET", "/docs/", 200, "docs", "text/html; charset=utf-8"},
		{"GET", "/docs/x.css", 200, "css", "text/css; charset=utf-8"},
		{"GET", "/empty/", 404, "lost", "text/html; charset=utf-8"},
		{"GET", "/.env", 404, "lost", ""},
		{"GET", "/docs/../.env", 404, "lost", ""},
		{"GET", "/.well-known/x", 200, "known", ""},
		{"GET", "/out", 404, "lost", ""},
		{"GET", "/../beside", 404, "lost", ""},
		{"GET", "/none", 404, "lost", ""},
		{"POST", "/", 405, "only GET and HEAD are served here\n", ""},
	} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(tc.method, "http://h"+tc.path, nil))
		kind := w.Header().Get("Content-Type")
		if tc.status == 301 {
			kind = w.Header().Get("Location")
		}
		if w.Code != tc.status || tc.status != 301 && w.Body.String() != tc.body || tc.kind != "" && kind != tc.kind {
			t.Errorf("%s %s: %d %q %s, want %d %q %s", tc.method, tc.path, w.Code, w.Body, kind, tc.status, tc.body, tc.kind)
		}
	}
}

// leaving is a server that was told to leave, and a client with a connection to
// it that was used before.
func leaving(t *testing.T, keepalive time.Duration) (get func() (res *http.Response, err error), listener net.Listener, ended chan error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended = make(chan error, 1)
	go func() { ended <- Serve(ctx, listener, siteFolder(t), keepalive) }()
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxConnsPerHost: 1}}
	t.Cleanup(client.CloseIdleConnections)
	get = func() (*http.Response, error) {
		res, err := client.Get("http://" + listener.Addr().String())
		if err == nil {
			defer res.Body.Close()
			_, err = io.Copy(io.Discard, res.Body)
		}
		return res, err
	}
	if res, err := get(); err != nil || res.Close || res.StatusCode != http.StatusOK {
		t.Fatalf("before it leaves: %+v, %v", res, err)
	}
	cancel()
	return get, listener, ended
}

// TestLeavesLate: while a client may use its connection, it can; the answer
// closes the connection.
func TestLeavesLate(t *testing.T) {
	get, listener, ended := leaving(t, time.Hour)
	for end := time.Now().Add(time.Minute); ; {
		res, err := get()
		if err != nil {
			t.Fatal(err)
		}
		if res.Close {
			break
		}
		if time.Now().After(end) {
			t.Fatal("keeps connections although it leaves")
		}
	}
	listener.Close()
	if err := <-ended; err == nil {
		t.Error("no error although the listener is closed")
	}
}

// TestLeaves: then the port is free.
func TestLeaves(t *testing.T) {
	get, _, ended := leaving(t, 0)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := get(); err == nil {
		t.Error("the port is still open")
	}
}

// TestStaticfile: a site whose pages are made in the browser has one page for all that
// is no file; what its settings are, and who may see it, is not served.
func TestStaticfile(t *testing.T) {
	files := fstest.MapFS{
		"index.html": {Data: []byte("app")}, "main.js": {Data: []byte("js")}, "docs/Staticfile": {Data: []byte("a page")},
		"Staticfile": {Data: []byte("# site\npushstate: enabled\n")}, "Staticfile.auth": {Data: []byte("user:hash")}, ".env": {Data: []byte("secret")},
	}
	handler := Handler(files)
	for at, want := range map[string]struct {
		status int
		body   string
	}{
		"/": {200, "app"}, "/orders/17": {200, "app"}, "/main.js": {200, "js"}, "/old.js": {404, ""}, "/.env": {404, ""},
		"/Staticfile": {404, ""}, "/Staticfile.auth": {404, ""}, "/docs/../Staticfile.auth": {404, ""}, "/docs/Staticfile": {200, "a page"},
	} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", at, nil))
		if w.Code != want.status || want.body != "" && w.Body.String() != want.body {
			t.Errorf("%s: %d %q, want %d %q", at, w.Code, w.Body, want.status, want.body)
		}
	}
	delete(files, "Staticfile")
	w := httptest.NewRecorder()
	Handler(files).ServeHTTP(w, httptest.NewRequest("GET", "/orders/17", nil))
	if w.Code != 404 {
		t.Errorf("without the setting: %d", w.Code)
	}
}
