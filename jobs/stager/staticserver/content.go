package staticserver

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// revalidate has browsers keep a file and ask each time whether it is still the same,
// which is answered without a body: what was pushed is seen at once.
const revalidate = "public, max-age=0, must-revalidate"

// smallest is the size in bytes from which on compressing is worth its head.
const smallest = 1 << 10

// compressible are the types that are compressed, beside all of text/.
var compressible = []string{
	"application/atom+xml", "application/geo+json", "application/javascript", "application/json", "application/ld+json",
	"application/manifest+json", "application/rss+xml", "application/wasm", "application/xhtml+xml", "application/xml", "image/svg+xml",
}

// tags remembers the tags of files, which are made of what is in them: the times of
// files are those of a push, or older ones after a rollback.
type tags struct {
	mu    sync.Mutex
	known map[string]tagged
}

type tagged struct {
	size int64
	at   time.Time
	tag  string
}

// maxTags is the number of files whose tags are remembered.
const maxTags = 10_000

// of returns the tag of a file, which is read unless that was done before.
func (t *tags) of(name string, info fs.FileInfo, content io.ReadSeeker) (string, error) {
	t.mu.Lock()
	known, ok := t.known[name]
	t.mu.Unlock()
	if ok && known.size == info.Size() && known.at.Equal(info.ModTime()) {
		return known.tag, nil
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, content); err != nil {
		return "", err
	}
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	tag := hex.EncodeToString(hash.Sum(nil)[:16])
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil || len(t.known) >= maxTags {
		t.known = map[string]tagged{}
	}
	t.known[name] = tagged{info.Size(), info.ModTime(), tag}
	return tag, nil
}

// serveContent answers with a file: compressed if the client takes that and it is
// text, from FILE.gz if the site has it; or with 304 if the client has it.
func (s *site) serveContent(w http.ResponseWriter, r *http.Request, name string, info fs.FileInfo, content io.ReadSeeker) {
	tag, err := s.tags.of(name, info, content)
	if err != nil {
		http.Error(w, "cannot read this file", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	kind := mime.TypeByExtension(path.Ext(name))
	if kind != "" {
		h.Set("Content-Type", kind)
	}
	h.Set("Cache-Control", revalidate)
	h.Set("ETag", `"`+tag+`"`)
	if !textual(kind) || info.Size() < smallest {
		s.plain(w, r, name, info, content)
		return
	}
	h.Add("Vary", "Accept-Encoding")
	if r.Header.Get("Range") != "" || !takesGzip(r.Header.Values("Accept-Encoding")) {
		s.plain(w, r, name, info, content)
		return
	}
	h.Set("ETag", `W/"`+tag+`"`) // the same page, other bytes
	h.Set("Last-Modified", info.ModTime().UTC().Format(http.TimeFormat))
	if unchanged(r, tag, info.ModTime()) {
		h.Del("Content-Type")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Encoding", "gzip")
	if ready, size := s.compressed(name); ready != nil {
		defer ready.Close()
		h.Set("Content-Length", strconv.FormatInt(size, 10))
		if r.Method != http.MethodHead {
			_, _ = io.Copy(w, ready) // the client may be gone
		}
		return
	}
	if r.Method == http.MethodHead {
		return
	}
	z, err := gzip.NewWriterLevel(w, 5)
	if err != nil {
		panic(fmt.Sprintf("gzip has no level 5: %v", err))
	}
	if _, err := io.Copy(z, content); err == nil {
		_ = z.Close() // the client may be gone
	}
}

// plain answers with a file as it is, or a part of it.
func (s *site) plain(w http.ResponseWriter, r *http.Request, name string, info fs.FileInfo, content io.ReadSeeker) {
	if r.Header.Get("If-None-Match") == "" && r.Header.Get("If-Modified-Since") != "" {
		// A file of an earlier release, which is older, is not what the client has.
		if !sameTime(r, info.ModTime()) {
			r.Header.Del("If-Modified-Since")
		}
	}
	http.ServeContent(w, r, name, info.ModTime(), content)
}

// compressed opens the file that a site brings along for clients that take gzip; nil
// if there is none.
func (s *site) compressed(name string) (fs.File, int64) {
	f, err := s.files.Open(name + ".gz")
	if err != nil {
		return nil, 0
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, 0
	}
	return f, info.Size()
}

// unchanged reports whether the client has what is there.
func unchanged(r *http.Request, tag string, at time.Time) bool {
	if asked := r.Header.Get("If-None-Match"); asked != "" {
		for one := range strings.SplitSeq(asked, ",") {
			if one = strings.TrimPrefix(strings.TrimSpace(one), "W/"); one == "*" || one == `"`+tag+`"` {
				return true
			}
		}
		return false
	}
	return sameTime(r, at)
}

func sameTime(r *http.Request, at time.Time) bool {
	asked, err := http.ParseTime(r.Header.Get("If-Modified-Since"))
	return err == nil && asked.Equal(at.Truncate(time.Second))
}

func textual(kind string) bool {
	kind, _, _ = strings.Cut(kind, ";")
	kind = strings.TrimSpace(kind)
	return strings.HasPrefix(kind, "text/") || slices.Contains(compressible, kind)
}

// takesGzip reports whether a client takes answers that are compressed so.
func takesGzip(accept []string) bool {
	takes := false
	for one := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		name, parameters, _ := strings.Cut(one, ";")
		name = strings.ToLower(strings.TrimSpace(name))
		if name != "gzip" && name != "*" {
			continue
		}
		wanted := true
		if q, ok := strings.CutPrefix(strings.TrimSpace(parameters), "q="); ok {
			weight, err := strconv.ParseFloat(strings.TrimSpace(q), 64)
			wanted = err == nil && weight > 0
		}
		if name == "gzip" {
			return wanted
		}
		takes = wanted
	}
	return takes
}
