package archive

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// entry is one of a zip archive: a file unless its mode says otherwise, a link
// to its text.
type entry struct {
	name string
	mode fs.FileMode
	text string
}

func zipped(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		header := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		header.SetMode(e.mode)
		out, err := w.CreateHeader(header)
		if err == nil {
			_, err = io.WriteString(out, e.text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// unzip unpacks into <dir>/in and fails the test if anything else in dir, where
// escapes would land first, has changed.
func unzip(t testing.TB, data []byte, limits Limits) (folder string, err error) {
	t.Helper()
	dir := t.TempDir()
	folder = filepath.Join(dir, "in")
	file := filepath.Join(dir, "app.zip")
	if err := errors.Join(os.Mkdir(folder, 0o755), os.WriteFile(file, data, 0o600)); err != nil {
		t.Fatal(err)
	}
	err = Unzip(file, folder, limits)
	beside, listErr := os.ReadDir(dir)
	if listErr != nil || len(beside) != 2 {
		t.Fatalf("beside the folder: %v, %v", beside, listErr)
	}
	return folder, err
}

var enough = Limits{Bytes: 1 << 20, Entries: 100}

func TestUnzip(t *testing.T) {
	folder, err := unzip(t, zipped(t,
		entry{"app.js", 0o600, "1"},
		entry{"bin/", fs.ModeDir | 0o700, ""},
		entry{"bin/run", 0o744 | fs.ModeSetuid, "2"},
		entry{"lib/deep/x", 0o644, "3"},
		entry{"current", fs.ModeSymlink | 0o777, "lib/deep"},
		entry{"lib/up", fs.ModeSymlink | 0o777, "../app.js"},
		entry{"dangling", fs.ModeSymlink | 0o777, "later"},
	), enough)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"app.js": "1 -rw-r--r--", "bin/run": "2 -rwxr-xr-x", "current/x": "3 -rw-r--r--", "lib/up": "1 -rw-r--r--"} {
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s %v", data, info.Mode()); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestUnzipRefuses(t *testing.T) {
	link := fs.ModeSymlink | 0o777
	bomb := strings.Repeat("0", 2<<20)
	for _, tc := range []struct {
		name    string
		entries []entry
		want    string
	}{
		{"up", []entry{{"../x", 0o644, ""}}, `"../x" is outside`},
		{"up from within", []entry{{"a/../../x", 0o644, ""}}, "is outside"},
		{"absolute", []entry{{"/tmp/x", 0o644, ""}}, "is outside"},
		{"folder up", []entry{{"../x/", fs.ModeDir | 0o755, ""}}, "is outside"},
		{"NUL", []entry{{"a\x00b", 0o644, ""}}, "is outside"},
		{"link out", []entry{{"l", link, "/etc/passwd"}}, `link to "/etc/passwd", outside`},
		{"link up", []entry{{"a/l", link, "../../x"}}, "outside"},
		{"link by way of a link", []entry{{"here", link, "."}, {"l", link, "here/../../x"}}, "outside"},
		{"link that leaves and comes back", []entry{{"here", link, "."}, {"l", link, "here/../in"}}, "outside"},
		{"links in a ring", []entry{{"a", link, "b"}, {"b", link, "a"}}, "outside"},
		{"file through a link", []entry{{"l", link, "d"}, {"d/", fs.ModeDir | 0o755, ""}, {"l/x", 0o644, ""}}, `"l"`},
		{"link without target", []entry{{"l", link, ""}}, "sensible target"},
		{"link with a huge target", []entry{{"l", link, strings.Repeat("x/", 4000)}}, "sensible target"},
		{"twice", []entry{{"x", 0o644, "1"}, {"x", 0o644, "2"}}, "exists"},
		{"link twice", []entry{{"x", link, "1"}, {"x", link, "2"}}, "twice"},
		{"file as folder", []entry{{"x", 0o644, "1"}, {"x/y", 0o644, "2"}}, "x/y"},
		{"device", []entry{{"dev", fs.ModeDevice | 0o644, ""}}, "no file, folder or link"},
		{"pipe", []entry{{"pipe", fs.ModeNamedPipe | 0o644, ""}}, "no file, folder or link"},
		{"bomb", []entry{{"b", 0o644, bomb}}, "larger than the 1 MB"},
		{"bomb in parts", []entry{{"a", 0o644, bomb[:600<<10]}, {"b", 0o644, bomb[:600<<10]}}, "larger than the 1 MB"},
		{"many", slices.Repeat([]entry{{"d/", fs.ModeDir | 0o755, ""}}, 101), "101 entries"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := unzip(t, zipped(t, tc.entries...), enough); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
	for name, data := range map[string][]byte{"empty": nil, "text": []byte("hello"), "cut": zipped(t, entry{"a", 0o644, bomb})[:100]} {
		if _, err := unzip(t, data, enough); err == nil || !strings.Contains(err.Error(), "no zip archive") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// TestUnzipLyingSizes: what a header says of a file's size is not believed.
func TestUnzipLyingSizes(t *testing.T) {
	data := zipped(t, entry{"b", 0o644, strings.Repeat("0", 2<<20)})
	// The size in the central directory, little-endian, 24 bytes after its mark.
	at := bytes.Index(data, []byte("PK\x01\x02")) + 24
	copy(data[at:], []byte{1, 0, 0, 0})
	if _, err := unzip(t, data, enough); err == nil {
		t.Error("no error")
	}
}

// FuzzUnzip: whatever the bytes, nothing lands beside the folder and nothing in
// it leads out.
func FuzzUnzip(f *testing.F) {
	link := fs.ModeSymlink | 0o777
	f.Add(zipped(f, entry{"a/b", 0o644, "x"}, entry{"l", link, "a"}, entry{"a/l", link, "../l/b"}))
	f.Add(zipped(f, entry{"../a", 0o644, "x"}, entry{"h", link, "."}, entry{"l", link, "h/../.."}))
	f.Fuzz(func(t *testing.T, data []byte) {
		folder, err := unzip(t, data, enough)
		if err != nil {
			return
		}
		inside, err := filepath.EvalSymlinks(folder)
		if err != nil {
			t.Fatal(err)
		}
		if err := filepath.WalkDir(folder, func(name string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			target, err := filepath.EvalSymlinks(name)
			if err == nil && target != inside && !strings.HasPrefix(target, inside+"/") {
				t.Errorf("%s leads to %s", name, target)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPack(t *testing.T) {
	folder := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(folder, "app/empty"), 0o755))
	must(os.WriteFile(filepath.Join(folder, "startup"), []byte("go"), 0o500))
	must(os.WriteFile(filepath.Join(folder, "app/x"), []byte("x"), 0o644))
	must(os.Symlink("x", filepath.Join(folder, "app/l")))
	var b bytes.Buffer
	must(Pack(&b, folder, 100))
	r, err := gzip.NewReader(&b)
	must(err)
	var list []string
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		must(err)
		text, err := io.ReadAll(archive)
		must(err)
		list = append(list, fmt.Sprintf("%s %o %s%s", header.Name, header.Mode, header.Linkname, text))
	}
	want := []string{"./ 755 ", "./app/ 755 ", "./app/empty/ 755 ", "./app/l 777 x", "./app/x 644 x", "./startup 500 go"}
	if !slices.Equal(list, want) {
		t.Errorf("packed\n%q\nwant\n%q", list, want)
	}

	if err := Pack(io.Discard, folder, 2); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("too large: %v", err)
	}
	must(os.Symlink("/etc", filepath.Join(folder, "app/etc")))
	if err := Pack(io.Discard, folder, 100); err == nil || !strings.Contains(err.Error(), `app/etc: it is a link to "/etc"`) {
		t.Errorf("link out: %v", err)
	}
}
