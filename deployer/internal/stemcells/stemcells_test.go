package stemcells

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"

	"github.com/clusterworks/deploy/manifests"
)

const content = "an image"

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func at(line int) hcl.Range {
	return hcl.Range{Filename: "cluster.hcl", Start: hcl.Pos{Line: line}}
}

// pinned is a stemcell whose source is line 2 of the manifest, whose digest line 4.
func pinned(path, url, text string) *manifests.Stemcell {
	return &manifests.Stemcell{Name: "debian", Version: "1.0", Path: path, URL: url, SHA256: digest(text), SourceRange: at(2), SHA256Range: at(4)}
}

func mustSay(t *testing.T, err error, line int, text string) {
	t.Helper()
	var p Problem
	if !errors.As(err, &p) || p.Diagnostic.Subject.Start.Line != line || !strings.Contains(err.Error(), text) {
		t.Errorf("not told at line %d that %q: %v", line, text, err)
	}
}

func mustHold(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("the store holds %v, not %v", got, want)
	}
}

func TestAStemcellIsKeptOnceItIsWhatWasPinned(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "stemcells"), Base: t.TempDir()}
	source := filepath.Join(s.Base, "base.qcow2")
	write(t, source, content)
	x := pinned("base.qcow2", "", content)

	mustSay(t, s.Check(pinned("bsae.qcow2", "", content)), 2, "there is no file "+filepath.Join(s.Base, "bsae.qcow2"))
	mustSay(t, s.Check(pinned(".", "", content)), 2, "is not a file")
	mustSay(t, s.Check(pinned("base.qcow2", "", "another")), 4, "has the sha256 "+digest(content))
	_, err := s.Ensure(t.Context(), pinned("base.qcow2", "", "another"))
	mustSay(t, err, 4, "has the sha256 "+digest(content))
	if err := s.Check(x); err != nil {
		t.Error(err)
	}
	mustHold(t, s.Dir)

	file, err := s.Ensure(t.Context(), x)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(s.Dir, x.SHA256+".qcow2"); file != want || s.Image(Reference(x)) != want || s.Refer(want) != Reference(x) {
		t.Errorf("it is %s (%s), not %s; %s refers to it", file, s.Image(Reference(x)), want, s.Refer(want))
	}

	// The source may go; a copy that is damaged is told from a good one.
	if err := os.Remove(source); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ensure(t.Context(), x); err != nil || s.Check(x) != nil {
		t.Errorf("without its source: %v, %v", err, s.Check(x))
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, file, "an imagf")
	_, err = s.Ensure(t.Context(), x)
	mustSay(t, err, 2, "there is no file")
	write(t, source, content)
	if _, err := s.Ensure(t.Context(), x); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != content {
		t.Errorf("the damaged copy became %q, %v", data, err)
	}
}

func TestAStemcellIsFetched(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/base.qcow2":
			_, _ = io.WriteString(w, content)
		case "/half.qcow2":
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, content)
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	s := Store{Dir: filepath.Join(t.TempDir(), "stemcells")}
	for path, text := range map[string]string{"/none.qcow2": "404", "/half.qcow2": "unexpected EOF"} {
		_, err := s.Ensure(t.Context(), pinned("", server.URL+path, content))
		mustSay(t, err, 2, text)
	}
	_, err := s.Ensure(t.Context(), pinned("", server.URL+"/base.qcow2", "another"))
	mustSay(t, err, 4, "has the sha256 "+digest(content))
	mustHold(t, s.Dir)
	if _, err := s.Ensure(t.Context(), pinned("", server.URL+"/base.qcow2?token=x.y", content)); err != nil {
		t.Fatal(err)
	}
	mustHold(t, s.Dir, digest(content)+".qcow2")
}

// What is not needed is removed, nothing else is, and names that are no digests are
// nobody's stemcells.
func TestOldStemcellsAreRemoved(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	old, now := digest("old")+".qcow2", digest("now")
	for _, name := range []string{old, now, "notes.txt", ".incoming-1"} {
		write(t, filepath.Join(s.Dir, name), content)
	}
	if err := s.Keep(func(d string) bool { return d == digest("now") }); err != nil {
		t.Fatal(err)
	}
	if now < "notes.txt" {
		mustHold(t, s.Dir, now, "notes.txt")
	} else {
		mustHold(t, s.Dir, "notes.txt", now)
	}
	if err := (Store{Dir: filepath.Join(s.Dir, "none")}).Keep(nil); err != nil {
		t.Error(err)
	}
	for _, image := range []string{"ami-1", "", "sha256:../x", "/images/base.qcow2"} {
		if s.Image(image) != image || s.Refer(image) != image {
			t.Errorf("%q becomes %q and %q", image, s.Image(image), s.Refer(image))
		}
	}
}
