package bits

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
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
