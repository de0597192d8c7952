package staticserver

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// TestCachesAndCompression: browsers keep what they have as long as it is the same,
// and text travels compressed, as users of other clouds' static sites expect.
func TestCachesAndCompression(t *testing.T) {
	pushed := time.Date(2026, 5, 1, 12, 0, 0, 500, time.UTC)
	long := strings.Repeat("all work and no play ", 200)
	files := fstest.MapFS{
		"index.html": {Data: []byte(long), ModTime: pushed}, "small.css": {Data: []byte("a{}"), ModTime: pushed},
		"photo.png": {Data: []byte(long), ModTime: pushed}, "data": {Data: []byte(long), ModTime: pushed},
		"ready.js": {Data: []byte(long), ModTime: pushed}, "ready.js.gz": {Data: []byte("made before"), ModTime: pushed},
	}
	handler := Handler(files)
	ask := func(path string, headers ...string) *http.Response {
		r := httptest.NewRequest("GET", path, nil)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Result()
	}
	body := func(res *http.Response) string {
		data, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	plain := ask("/")
	tag := plain.Header.Get("ETag")
	if !strings.HasPrefix(tag, `"`) || plain.Header.Get("Last-Modified") != "Fri, 01 May 2026 12:00:00 GMT" ||
		plain.Header.Get("Cache-Control") != "public, max-age=0, must-revalidate" || plain.Header.Get("Vary") != "Accept-Encoding" || body(plain) != long {
		t.Errorf("a page: %v", plain.Header)
	}
	zipped := ask("/", "Accept-Encoding", "br, gzip;q=0.5")
	if zipped.Header.Get("Content-Encoding") != "gzip" || zipped.Header.Get("ETag") != "W/"+tag || !strings.HasPrefix(zipped.Header.Get("Content-Type"), "text/html") {
		t.Errorf("a compressed page: %v", zipped.Header)
	}
	if z, err := gzip.NewReader(zipped.Body); err != nil {
		t.Error(err)
	} else if data, err := io.ReadAll(z); err != nil || string(data) != long {
		t.Errorf("the compressed page is %d bytes, %v", len(data), err)
	}
	for _, tc := range []struct {
		path     string
		headers  []string
		status   int
		encoding string
	}{
		{"/", []string{"If-None-Match", tag}, 304, ""},
		{"/", []string{"If-None-Match", `"x", W/` + tag}, 304, ""},
		{"/", []string{"If-None-Match", "W/" + tag, "Accept-Encoding", "gzip"}, 304, ""},
		{"/", []string{"If-None-Match", `"another"`, "Accept-Encoding", "gzip"}, 200, "gzip"},
		{"/", []string{"If-Modified-Since", "Fri, 01 May 2026 12:00:00 GMT"}, 304, ""},
		{"/", []string{"If-Modified-Since", "Fri, 01 May 2026 12:00:00 GMT", "Accept-Encoding", "gzip"}, 304, ""},
		// The client has a later release than the one that was gone back to.
		{"/", []string{"If-Modified-Since", "Sat, 02 May 2026 12:00:00 GMT"}, 200, ""},
		{"/", []string{"If-Modified-Since", "Sat, 02 May 2026 12:00:00 GMT", "Accept-Encoding", "gzip"}, 200, "gzip"},
		{"/", []string{"If-None-Match", `"another"`, "If-Modified-Since", "Fri, 01 May 2026 12:00:00 GMT"}, 200, ""},
		{"/", []string{"Range", "bytes=0-2", "Accept-Encoding", "gzip"}, 206, ""},
		{"/", []string{"Accept-Encoding", "gzip;q=0"}, 200, ""},
		{"/", []string{"Accept-Encoding", "*"}, 200, "gzip"},
		{"/", []string{"Accept-Encoding", "gzip;q=0, *"}, 200, ""},
		{"/small.css", []string{"Accept-Encoding", "gzip"}, 200, ""},
		{"/photo.png", []string{"Accept-Encoding", "gzip"}, 200, ""},
		{"/data", []string{"Accept-Encoding", "gzip"}, 200, ""},
		{"/ready.js", []string{"Accept-Encoding", "gzip"}, 200, "gzip"},
		{"/ready.js", nil, 200, ""},
	} {
		res := ask(tc.path, tc.headers...)
		if res.StatusCode != tc.status || res.Header.Get("Content-Encoding") != tc.encoding || res.Header.Get("ETag") == "" {
			t.Errorf("%s %v: %d %v, want %d %q", tc.path, tc.headers, res.StatusCode, res.Header, tc.status, tc.encoding)
		}
		if text := body(res); tc.status == 304 && text != "" {
			t.Errorf("%s %v: a body of %d bytes", tc.path, tc.headers, len(text))
		}
	}
	if got := body(ask("/ready.js", "Accept-Encoding", "gzip")); got != "made before" {
		t.Errorf("the file that was compressed before: %q", got)
	}
	// A push of other bytes has another tag, though size and time are the same.
	files["index.html"] = &fstest.MapFile{Data: []byte(strings.Replace(long, "all", "ALL", 1)), ModTime: pushed}
	handler = Handler(files)
	if res := ask("/", "If-None-Match", tag); res.StatusCode != 200 {
		t.Errorf("after a push: %d", res.StatusCode)
	}
}

// TestSettings: a Staticfile of Cloud Foundry means here what it means there.
func TestSettings(t *testing.T) {
	for text, want := range map[string]Settings{
		"":                           {Root: "."},
		"root: dist\n":               {Root: "dist"},
		"\ufeffroot: \"dist/a\"\r\n": {Root: "dist/a"},
		"root: ../../etc # no\n":     {Root: "etc"},
		"root: /\npushstate: true":   {Root: ".", PushState: true},
		"force_https: true\nhttp_strict_transport_security: true\nhttp_strict_transport_security_include_subdomains: true\n": {Root: ".", ForceHTTPS: true, HSTS: "max-age=31536000; includeSubDomains"},
		"http_strict_transport_security_preload: true\n":                                                                     {Root: "."},
		"host_dot_files: true\nssi: enabled\nlocation_include: x/*.conf\n# root: no\n":                                       {Root: ".", DotFiles: true, Unknown: []string{"ssi", "location_include"}},
	} {
		if got := Read([]byte(text)); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
	handler := Handler(fstest.MapFS{
		"Staticfile":      {Data: []byte("root: dist\nforce_https: true\nhttp_strict_transport_security: true\nhost_dot_files: true\n")},
		"package.json":    {Data: []byte("{}")},
		"dist/index.html": {Data: []byte("built")},
		"dist/.env":       {Data: []byte("wanted")},
		"dist/Staticfile": {Data: []byte("x")},
	})
	for _, tc := range []struct {
		path, by string
		status   int
		body     string
	}{
		{"/", "https", 200, "built"}, {"/", "", 200, "built"}, {"/.env", "https", 200, "wanted"}, {"/package.json", "https", 404, ""},
		{"/../package.json", "https", 404, ""}, {"/Staticfile", "https", 404, ""}, {"/a?b=c", "http", 301, ""},
	} {
		r := httptest.NewRequest("GET", "http://shop.example"+tc.path, nil)
		r.Header.Set("X-Forwarded-Proto", tc.by)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != tc.status || tc.body != "" && w.Body.String() != tc.body {
			t.Errorf("%s by %q: %d %q", tc.path, tc.by, w.Code, w.Body)
		}
		if to := w.Header().Get("Location"); tc.status == 301 && to != "https://shop.example/a?b=c" {
			t.Errorf("it leads to %s", to)
		}
		if has := w.Header().Get("Strict-Transport-Security") != ""; has != (tc.by != "http") {
			t.Errorf("%s by %q: Strict-Transport-Security: %v", tc.path, tc.by, has)
		}
	}
}
