package blob

import (
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func open(t *testing.T) *Store {
	t.Helper()
	dir := t.TempDir()
	s, err := Open(filepath.Join(dir, "droplets"), filepath.Join(dir, "resources"), filepath.Join(dir, "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sum(text string) string {
	hash := sha1.Sum([]byte(text))
	return hex.EncodeToString(hash[:])
}

func put(t *testing.T, s *Store, app int64, text string) Blob {
	t.Helper()
	b, err := s.Put(Droplet, app, func(w io.Writer) error { _, err := io.WriteString(w, text); return err })
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPut(t *testing.T) {
	s := open(t)
	b := put(t, s, 7, "droplet")
	if b != (Blob{Droplet, 7, sum("droplet")}) || !strings.HasSuffix(s.Path(b), "/droplets/droplet_7/"+b.SHA1+".tgz") {
		t.Errorf("kept as %+v at %s", b, s.Path(b))
	}
	data, err := os.ReadFile(s.Path(b))
	if err != nil || string(data) != "droplet" {
		t.Errorf("%q, %v", data, err)
	}
	// What fails half-way is not there, and leaves nothing.
	broken := errors.New("broken")
	if _, err := s.Put(Droplet, 7, func(w io.Writer) error { io.WriteString(w, "half"); return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	want := Blob{Package, 7, sum("files")}
	if err := s.PutExpected(want, strings.NewReader("others")); !errors.Is(err, ErrWrongSum) || s.Has(want) {
		t.Errorf("another content: %v", err)
	}
	if err := s.PutExpected(want, strings.NewReader("files")); err != nil || !s.Has(want) {
		t.Error(err)
	}
	for _, folder := range []string{"droplet_7", "app_7"} {
		files, err := os.ReadDir(filepath.Join(s.droplets, folder))
		if err != nil || len(files) != 1 {
			t.Errorf("%s has %v, %v", folder, files, err)
		}
	}
	for _, b := range []Blob{{"../x", 7, sum("x")}, {Package, 0, sum("x")}, {Package, 7, "../../../etc/passwd"}, {Package, 7, strings.ToUpper(sum("x"))}} {
		if _, err := s.Get(b); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%+v: %v", b, err)
		}
		if err := s.PutExpected(b, strings.NewReader("x")); err == nil {
			t.Errorf("%+v is kept", b)
		}
	}
}

func TestSweep(t *testing.T) {
	s := open(t)
	keep, old, fresh := put(t, s, 1, "keep"), put(t, s, 1, "old"), put(t, s, 2, "fresh")
	gone := put(t, s, 3, "gone")
	var many []string
	for i := range 2 * keptUnnamed {
		b := put(t, s, 4, fmt.Sprint("many ", i))
		at := time.Now().Add(time.Duration(i-100) * time.Second)
		if err := os.Chtimes(s.Path(b), at, at); err != nil {
			t.Fatal(err)
		}
		many = append(many, s.Path(b))
	}
	stray := filepath.Join(s.droplets, "droplet_1", ".incoming-1")
	foreign := filepath.Join(s.droplets, "lost+found")
	past := time.Now().Add(-2 * time.Hour)
	if err := errors.Join(os.WriteFile(stray, nil, 0o600), os.Mkdir(foreign, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{s.Path(keep), s.Path(old), s.Path(gone), stray} {
		if err := os.Chtimes(path, past, past); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sweep(time.Now().Add(-time.Hour), func(b Blob) bool { return b == keep }); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{s.Path(keep): true, s.Path(old): false, s.Path(fresh): true, s.Path(gone): false, stray: false, foreign: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", path, err == nil, want)
		}
	}
	for i, path := range many {
		if _, err := os.Stat(path); (err == nil) != (i >= keptUnnamed) {
			t.Errorf("of %d that nobody names, the %dth is there: %v", len(many), i, err == nil)
		}
	}
}

func TestResources(t *testing.T) {
	s := open(t)
	p := s.Pool(7)
	add := func(text string) string {
		w, err := p.Add(int64(len(text)))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, text)
		if err := w.Commit(sum(text)); err != nil {
			t.Fatal(err)
		}
		w.Discard() // too late
		return sum(text)
	}
	has := func(sha1 string, size int64) bool {
		f, err := p.Open(sha1, size)
		if err != nil {
			return false
		}
		f.Close()
		return true
	}
	first, second := strings.Repeat("a", MinResource), strings.Repeat("b", MinResource+1)
	a, b := add(first), add(second)
	if !has(a, MinResource) || has(a, MinResource+1) || has(sum("third"), MinResource) || has("../../../../etc/passwd", MinResource) {
		t.Error("the pool does not have what it should")
	}
	if _, err := s.Pool(8).Open(a, MinResource); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another owner has it: %v", err)
	}
	if got := p.path("da39a3ee5e6b4b0d3255bfef95601890afd80709"); !strings.HasSuffix(got, "/resources/owner_7/205/142/da39a3ee5e6b4b0d3255bfef95601890afd80709") {
		t.Errorf("a resource lies at %s", got)
	}
	w, err := p.Add(MinResource)
	if err != nil {
		t.Fatal(err)
	}
	w.Discard()
	past := time.Now().Add(-time.Hour)
	if err := errors.Join(os.Chtimes(p.path(a), past, past), s.SweepResources(MinResource+1)); err != nil {
		t.Fatal(err)
	}
	if has(a, MinResource) || !has(b, MinResource+1) {
		t.Error("not what was used last was kept")
	}
	if err := s.SweepResources(0); err != nil || has(b, MinResource+1) {
		t.Errorf("%v; the last is still there", err)
	}
	small := second[:MinResource-1]
	if add(small); has(sum(small), MinResource-1) {
		t.Error("a small file is kept")
	}
}

func TestTemporary(t *testing.T) {
	s := open(t)
	f, err := s.Temporary()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if files, err := os.ReadDir(s.temporary); err != nil || len(files) != 0 {
		t.Errorf("an upload lies at %v, %v", files, err)
	}
}
