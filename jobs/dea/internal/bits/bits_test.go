package bits

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

type entry struct {
	name, text string
	mode       int64
	kind       byte
	link       string
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var data bytes.Buffer
	zipped := gzip.NewWriter(&data)
	out := tar.NewWriter(zipped)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.text)), Typeflag: e.kind, Linkname: e.link}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		err := out.WriteHeader(h)
		if err == nil {
			_, err = io.WriteString(out, e.text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(out.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return data.Bytes()
}

func TestUnpack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "app")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	data := archive(t,
		entry{name: "./", kind: tar.TypeDir, mode: 0o755},
		entry{name: "./startup", text: "#!/bin/bash\n", mode: 0o500},
		entry{name: "./app/", kind: tar.TypeDir, mode: 0},
		entry{name: "./app/main.js", text: "first", mode: 0o4777},
		entry{name: "./app/main.js", text: "second", mode: 0o4777},
		entry{name: "./app/deep/er/x", text: "x", mode: 0o644},
		entry{name: "./app/link", kind: tar.TypeSymlink, link: "../startup"},
		entry{name: "./app/hard", kind: tar.TypeLink, link: "./app/main.js"},
	)
	if err := Unpack(t.Context(), bytes.NewReader(data), dir, 1<<20, Owner{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"startup": "#!/bin/bash\n", "app/main.js": "second", "app/deep/er/x": "x", "app/link": "#!/bin/bash\n", "app/hard": "second"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]fs.FileMode{"startup": 0o500, "app/main.js": 0o777, "app": fs.ModeDir | 0o700} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
}

// TestUnpackRefuses: nothing of these is unpacked, and nothing outside changes.
func TestUnpackRefuses(t *testing.T) {
	for _, tc := range []struct {
		name    string
		entries []entry
		want    string
	}{
		{"..", []entry{{name: "../x", text: "x"}}, "leaves the droplet's folder"},
		{".. within", []entry{{name: "./a/../../x", text: "x"}}, "leaves the droplet's folder"},
		{"absolute", []entry{{name: "/x", text: "x"}}, "absolute"},
		{"link out", []entry{{name: "l", kind: tar.TypeSymlink, link: "../x"}}, "leaves the droplet's folder"},
		{"absolute link", []entry{{name: "l", kind: tar.TypeSymlink, link: "/etc/passwd"}}, "absolute"},
		{"link over a link", []entry{{name: "l", kind: tar.TypeSymlink, link: "."}, {name: "l/m", kind: tar.TypeSymlink, link: "../x"}}, "no folder"},
		{"link through a link", []entry{{name: "l", kind: tar.TypeSymlink, link: "."}, {name: "m", kind: tar.TypeSymlink, link: "l/../x"}}, "behind a name"},
		{"file through a link", []entry{{name: "l", kind: tar.TypeSymlink, link: "."}, {name: "l/f", text: "x"}}, "no folder"},
		{"hard link out", []entry{{name: "h", kind: tar.TypeLink, link: "../outside"}}, "leaves the droplet's folder"},
		{"hard link to a link", []entry{{name: "a/l", kind: tar.TypeSymlink, link: "../x"}, {name: "h", kind: tar.TypeLink, link: "a/l"}}, "no file"},
		{"device", []entry{{name: "d", kind: tar.TypeChar}}, "not allowed"},
		{"FIFO", []entry{{name: "f", kind: tar.TypeFifo}}, "not allowed"},
		{"too much", []entry{{name: "a", text: strings.Repeat("x", 600)}, {name: "b", text: strings.Repeat("x", 600)}}, "disk quota"},
		{"file over a folder", []entry{{name: "a/b", text: "x"}, {name: "a", text: "x"}}, "not empty"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "app")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(parent, "outside"), []byte("as it was"), 0o600); err != nil {
				t.Fatal(err)
			}
			err := Unpack(t.Context(), bytes.NewReader(archive(t, tc.entries...)), dir, 1000, Owner{})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
			left, err := os.ReadDir(parent)
			if err != nil || len(left) != 2 {
				t.Errorf("beside the folder: %v, %v", left, err)
			}
		})
	}
}

// TestBomb: a file that comes again and again counts each time.
func TestBomb(t *testing.T) {
	many := make([]entry, 0, 2000)
	for range 2000 {
		many = append(many, entry{name: "a", text: strings.Repeat("\x00", 1<<10)})
	}
	err := Unpack(t.Context(), bytes.NewReader(archive(t, many...)), t.TempDir(), 1<<20, Owner{})
	if err == nil || !strings.Contains(err.Error(), "disk quota") {
		t.Errorf("2000 times the same file: %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, entry{name: "./startup", text: "x", mode: 0o500}, entry{name: "l", kind: tar.TypeSymlink, link: "startup"}))
	f.Add(archive(f, entry{name: "../x", text: "x"}))
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "app")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		_ = Unpack(t.Context(), bytes.NewReader(data), dir, 1<<16, Owner{})
		if left, err := os.ReadDir(parent); err != nil || len(left) != 1 {
			t.Fatalf("beside the folder: %v, %v", left, err)
		}
		_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.Type()&fs.ModeSymlink == 0 {
				return nil
			}
			if target, err := filepath.EvalSymlinks(path); err == nil && target != dir && !strings.HasPrefix(target, dir+"/") {
				t.Errorf("%s leads to %s", path, target)
			}
			return nil
		})
	})
}

// shop serves droplets and counts.
type shop struct {
	*httptest.Server
	served  atomic.Int32
	content []byte
	status  int
	wait    chan struct{} // nil: none
}

func newShop(t *testing.T, content []byte) *shop {
	s := &shop{content: content, status: http.StatusOK}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.served.Add(1)
		if s.wait != nil {
			select {
			case <-s.wait:
			case <-r.Context().Done():
			}
		}
		w.WriteHeader(s.status)
		_, _ = w.Write(s.content)
	}))
	t.Cleanup(s.Close)
	return s
}

func newCache(t *testing.T) *Cache {
	return &Cache{Dir: t.TempDir(), Client: http.DefaultClient, Timeout: time.Minute, MaxDroplet: 1 << 20, MaxTotal: 1 << 20}
}

func sha(data []byte) string {
	sum := sha1.Sum(data)
	return hex.EncodeToString(sum[:])
}

func TestGet(t *testing.T) {
	content := []byte("a droplet")
	right := sha(content)
	shared := filepath.Join(t.TempDir(), "droplet_7")
	write := func(text string) {
		if err := os.WriteFile(shared, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name   string
		change func(*Cache, *shop, *Source)
		want   string // error
		served int32
	}{
		{"over HTTP", func(*Cache, *shop, *Source) {}, "", 1},
		{"from the shared folder", func(_ *Cache, _ *shop, s *Source) { write("a droplet"); s.File = shared }, "", 0},
		{"from a shared folder that is not to be used", func(c *Cache, _ *shop, s *Source) { write("a droplet"); s.File, c.OnlyHTTP = shared, true }, "", 1},
		{"from a shared folder that has another", func(_ *Cache, _ *shop, s *Source) { write("another"); s.File = shared }, "", 1},
		{"from a shared folder that is not there", func(_ *Cache, _ *shop, s *Source) { s.File = "/nonexistent/droplet" }, "", 1},
		{"from the cache", func(c *Cache, _ *shop, _ *Source) {
			if err := os.WriteFile(filepath.Join(c.Dir, right+".tgz"), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "", 0},
		{"from a cache that was spoiled", func(c *Cache, _ *shop, _ *Source) {
			if err := os.WriteFile(filepath.Join(c.Dir, right+".tgz"), content[:3], 0o600); err != nil {
				t.Fatal(err)
			}
		}, "", 1},
		{"wrong sha1", func(_ *Cache, s *shop, _ *Source) { s.content = []byte("an error page") }, "its sha1 is " + sha([]byte("an error page")), 1},
		{"wrong status", func(_ *Cache, s *shop, _ *Source) { s.status = http.StatusNotFound }, "404", 1},
		{"too large", func(c *Cache, _ *shop, _ *Source) { c.MaxDroplet = 4 }, "larger than", 1},
		{"nobody there", func(_ *Cache, _ *shop, s *Source) { s.URI = "http://127.0.0.1:1/" }, "refused", 0},
		{"nowhere", func(_ *Cache, _ *shop, s *Source) { s.URI = "" }, "no executableUri", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			shop, cache := newShop(t, content), newCache(t)
			source := Source{SHA1: right, URI: shop.URL}
			tc.change(cache, shop, &source)
			file, release, err := cache.Get(t.Context(), source)
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("error %v, want one with %q", err, tc.want)
				}
				left, err := os.ReadDir(cache.Dir)
				if err != nil || len(left) != 0 {
					t.Errorf("left behind: %v, %v", left, err)
				}
			} else {
				if err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(file)
				if err != nil || string(got) != "a droplet" {
					t.Errorf("%q, %v", got, err)
				}
				release()
			}
			if n := shop.served.Load(); n != tc.served {
				t.Errorf("fetched %d times, want %d", n, tc.served)
			}
		})
	}
}

// TestGetOnce: concurrent starts share one transfer, which goes on when the one
// who began it gives up.
func TestGetOnce(t *testing.T) {
	content := []byte("a droplet")
	shop, cache := newShop(t, content), newCache(t)
	shop.wait = make(chan struct{})
	source := Source{SHA1: sha(content), URI: shop.URL}
	first, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error, 1)
	go func() {
		_, _, err := cache.Get(first, source)
		gaveUp <- err
	}()
	for shop.served.Load() == 0 {
		<-time.After(time.Millisecond)
	}
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			_, release, err := cache.Get(t.Context(), source)
			if err != nil {
				t.Error(err)
				return
			}
			release()
		})
	}
	for {
		cache.mu.Lock()
		n := cache.fetches[source.SHA1].waiting
		cache.mu.Unlock()
		if n == 21 {
			break
		}
		<-time.After(time.Millisecond)
	}
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up has %v", err)
	}
	close(shop.wait)
	group.Wait()
	if n := shop.served.Load(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

func TestEvict(t *testing.T) {
	cache := newCache(t)
	cache.MaxTotal = 25
	var sources []Source
	for _, text := range []string{"droplet a.", "droplet b.", "droplet c."} {
		shop := newShop(t, []byte(text))
		sources = append(sources, Source{SHA1: sha([]byte(text)), URI: shop.URL})
	}
	_, keep, err := cache.Get(t.Context(), sources[0])
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range sources[1:] {
		file, release, err := cache.Get(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(time.Duration(i) * time.Minute)
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
		release()
	}
	there := func(s Source) bool {
		_, err := os.Stat(filepath.Join(cache.Dir, s.SHA1+".tgz"))
		return err == nil
	}
	// The first was used longest ago but is in use.
	if !there(sources[0]) || there(sources[1]) || !there(sources[2]) {
		t.Errorf("kept: %v %v %v", there(sources[0]), there(sources[1]), there(sources[2]))
	}
	keep()
}
