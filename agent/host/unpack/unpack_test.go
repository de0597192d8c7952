package unpack

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// entry is one of an archive: a file unless its mode says otherwise, a link to its
// text. A hard link has hard set.
type entry struct {
	name string
	mode fs.FileMode
	text string
	hard bool
}

const (
	link   = fs.ModeSymlink | 0o777
	folder = fs.ModeDir | 0o755
)

func hardLink(name, target string) entry { return entry{name: name, text: target, hard: true} }

func tarred(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	zipped := gzip.NewWriter(&b)
	out := tar.NewWriter(zipped)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: int64(e.mode.Perm())}
		if e.mode&fs.ModeSetuid != 0 {
			h.Mode |= 0o6000
		}
		kinds := map[fs.FileMode]byte{0: tar.TypeReg, fs.ModeDir: tar.TypeDir, fs.ModeSymlink: tar.TypeSymlink,
			fs.ModeDevice: tar.TypeBlock, fs.ModeDevice | fs.ModeCharDevice: tar.TypeChar, fs.ModeNamedPipe: tar.TypeFifo}
		h.Typeflag = kinds[e.mode.Type()]
		switch {
		case e.hard:
			h.Typeflag, h.Linkname = tar.TypeLink, e.text
		case h.Typeflag == tar.TypeSymlink:
			h.Linkname = e.text
		case h.Typeflag == tar.TypeReg:
			h.Size = int64(len(e.text))
		}
		err := out.WriteHeader(h)
		if err == nil && h.Typeflag == tar.TypeReg {
			_, err = io.WriteString(out, e.text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(out.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
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

// unpack unpacks into <dir>/in and fails the test if anything beside it, where
// escapes would land first, has changed.
func unpack(t testing.TB, isZip bool, data []byte, o Options) (string, error) {
	t.Helper()
	parent := t.TempDir()
	dir, secret, file := filepath.Join(parent, "in"), filepath.Join(parent, "outside"), filepath.Join(parent, "archive")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(secret, []byte("as it was"), 0o600), os.WriteFile(file, data, 0o600)); err != nil {
		t.Fatal(err)
	}
	var err error
	if isZip {
		err = Zip(t.Context(), file, dir, o)
	} else {
		err = TarGz(t.Context(), bytes.NewReader(data), dir, o)
	}
	beside, listErr := os.ReadDir(parent)
	text, readErr := os.ReadFile(secret)
	info, statErr := os.Stat(secret)
	if errors.Join(listErr, readErr, statErr) != nil || len(beside) != 3 || string(text) != "as it was" || info.Mode() != 0o600 {
		t.Fatalf("beside the folder: %v, %q, %v", beside, text, errors.Join(listErr, readErr, statErr))
	}
	return dir, err
}

var enough = Options{Bytes: 1 << 20, Entries: 100}

func check(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, want := range files {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s %v", data, info.Mode()); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestTarGz(t *testing.T) {
	dir, err := unpack(t, false, tarred(t,
		entry{"./", folder, "", false}, entry{"./bin/", fs.ModeDir | 0o555, "", false}, entry{"./bin/hello", 0o755, "#!hello", false},
		entry{"./startup", 0o500, "#!/bin/bash", false}, entry{"./app/", fs.ModeDir, "", false}, entry{"./app/", fs.ModeDir, "", false},
		entry{"./app/main.js", 0o777 | fs.ModeSetuid, "main", false}, entry{"hidden", 0, "h", false},
		entry{"deep/without/folder", 0o640, "x", false}, entry{"bin/hi", link, "hello", false}, entry{"up", link, "deep/../bin", false},
		hardLink("same", "bin/hello"), hardLink("./app/hard", "./app/main.js"), entry{"./app/link", link, "../startup", false},
		entry{"dangling", link, "later", false},
	), enough)
	if err != nil {
		t.Fatal(err)
	}
	check(t, dir, map[string]string{
		"bin/hello": "#!hello -rwxr-xr-x", "bin/hi": "#!hello -rwxr-xr-x", "up/hello": "#!hello -rwxr-xr-x", "same": "#!hello -rwxr-xr-x",
		"startup": "#!/bin/bash -r-x------", "app/main.js": "main -rwxrwxrwx", "app/hard": "main -rwxrwxrwx", "app/link": "#!/bin/bash -r-x------",
		"deep/without/folder": "x -rw-r-----", "hidden": "h -r--------",
	})
	// Its owner can always fill and remove a folder.
	for name, want := range map[string]fs.FileMode{".": 0o755, "bin": 0o755, "app": 0o700, "deep": 0o755, "deep/without": 0o755} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
}

func TestZip(t *testing.T) {
	o := enough
	o.Public = true
	dir, err := unpack(t, true, zipped(t,
		entry{"/", folder, "", false}, entry{"app.js", 0o600, "1", false}, entry{"bin/", fs.ModeDir | 0o700, "", false},
		entry{"bin/run", 0o744 | fs.ModeSetuid, "2", false}, entry{"lib/deep/x", 0o644, "3", false},
		entry{"current", link, "lib/deep", false}, entry{"lib/up", link, "../app.js", false}, entry{"dangling", link, "later", false},
	), o)
	if err != nil {
		t.Fatal(err)
	}
	check(t, dir, map[string]string{"app.js": "1 -rw-r--r--", "bin/run": "2 -rwxr-xr-x", "current/x": "3 -rw-r--r--", "lib/up": "1 -rw-r--r--"})
}

// An archive is refused for the same reasons whatever its format.
func TestRefuses(t *testing.T) {
	bomb := strings.Repeat("0", 2<<20)
	none := []entry(nil)
	for _, tc := range []struct {
		name    string
		entries []entry
		want    string
		only    string // format
	}{
		{"up", []entry{{"../x", 0o644, "", false}}, `its entry "../x" is outside`, ""},
		{"up from within", []entry{{"a/../../x", 0o644, "", false}}, "is outside", ""},
		{"absolute", []entry{{"/tmp/x", 0o644, "", false}}, "is outside", ""},
		{"folder up", []entry{{"../x/", folder, "", false}}, "is outside", ""},
		{"NUL", []entry{{"a\x00b", 0o644, "", false}}, "holds a NUL", "zip"}, // a tar cannot say it
		{"long name", []entry{{strings.Repeat("d/", 600) + "x", 0o644, "", false}}, "more than 1024 bytes", ""},
		{"long part of a name", []entry{{strings.Repeat("d", 300), 0o644, "", false}}, "name too long", ""},
		{"link out", []entry{{"l", link, "/etc/passwd", false}}, `is a link to "/etc/passwd", outside`, ""},
		{"link up", []entry{{"a/l", link, "../../x", false}}, "outside", ""},
		{"link by way of a link", []entry{{"here", link, ".", false}, {"l", link, "here/../../x", false}}, "outside", ""},
		{"link through a link", []entry{{"l", link, ".", false}, {"m", link, "l/../x", false}}, "outside", ""},
		{"link that leaves and comes back", []entry{{"here", link, ".", false}, {"l", link, "here/../in", false}}, "outside", ""},
		{"link chain", []entry{{"d", folder, "", false}, {"d/up", link, "..", false}, {"out", link, "d/up/..", false}}, "outside", ""},
		{"file through a link chain", []entry{{"d/", folder, "", false}, {"d/up", link, "..", false}, {"out", link, "d/up/..", false}, {"out/evil", 0o644, "x", false}}, "exists", ""},
		{"links in a ring", []entry{{"a", link, "b", false}, {"b", link, "a", false}}, "outside", ""},
		{"link below a link", []entry{{"l", link, ".", false}, {"l/m", link, "../x", false}}, "exists", ""},
		{"file through a link", []entry{{"l", link, "d", false}, {"d/", folder, "", false}, {"l/x", 0o644, "", false}}, "exists", ""},
		{"file over a link", []entry{{"l", link, "d", false}, {"l", 0o644, "x", false}}, "exists", ""},
		{"link without target", []entry{{"l", link, "", false}}, "sensible target", ""},
		{"link with a huge target", []entry{{"l", link, strings.Repeat("x/", 4000), false}}, "sensible target", ""},
		{"hard link out", []entry{hardLink("h", "../outside")}, "outside the archive", "tar"},
		{"absolute hard link", []entry{hardLink("h", "/etc/passwd")}, "outside the archive", "tar"},
		{"hard link to a link", []entry{{"a/l", link, "x", false}, hardLink("h", "a/l")}, "no file", "tar"},
		{"hard link to a folder", []entry{{"a/", folder, "", false}, hardLink("h", "a")}, "no file", "tar"},
		{"hard link to what comes later", []entry{hardLink("h", "a"), {"a", 0o644, "", false}}, "no file before it", "tar"},
		{"twice", []entry{{"x", 0o644, "1", false}, {"./x", 0o644, "2", false}}, "exists", ""},
		{"link twice", []entry{{"x", link, "1", false}, {"x", link, "2", false}}, "twice", ""},
		{"file as folder", []entry{{"x", 0o644, "1", false}, {"x/y", 0o644, "2", false}}, `is below "x", which exists and is not a folder`, ""},
		{"file over a folder", []entry{{"a/b", 0o644, "x", false}, {"a", 0o644, "x", false}}, "exists", ""},
		{"folder over a file", []entry{{"a", 0o644, "x", false}, {"a/", folder, "", false}}, "exists", ""},
		{"file over the folder itself", []entry{{".", 0o644, "x", false}}, "cannot be unpacked", ""},
		{"device", []entry{{"dev", fs.ModeDevice | 0o644, "", false}}, "neither file, folder nor link", ""},
		{"character device", []entry{{"dev", fs.ModeDevice | fs.ModeCharDevice | 0o644, "", false}}, "neither file, folder nor link", ""},
		{"pipe", []entry{{"pipe", fs.ModeNamedPipe | 0o644, "", false}}, "neither file, folder nor link", ""},
		{"bomb", []entry{{"b", 0o644, bomb, false}}, "larger than the 1 MB", ""},
		{"bomb in parts", []entry{{"a", 0o644, bomb[:600<<10], false}, {"b", 0o644, bomb[:600<<10], false}}, "larger than the 1 MB", ""},
		{"many", slices.Repeat([]entry{{"d/", folder, "", false}}, 101), "more than the 100 entries", ""},
		{"empty", none, "", ""},
	} {
		for format, data := range map[string][]byte{"tar": nil, "zip": nil} {
			if tc.only != "" && tc.only != format {
				continue
			}
			if format == "zip" {
				data = zipped(t, tc.entries...)
			} else {
				data = tarred(t, tc.entries...)
			}
			t.Run(tc.name+" in "+format, func(t *testing.T) {
				_, err := unpack(t, format == "zip", data, enough)
				if tc.want == "" {
					if err != nil {
						t.Error(err)
					}
				} else if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("error %v, want one with %q", err, tc.want)
				}
			})
		}
	}
}

func TestRefusesOtherFormats(t *testing.T) {
	one := entry{"a", 0o644, strings.Repeat("0", 1000), false}
	packed := tarred(t, one)
	for name, tc := range map[string]struct {
		zip  bool
		data []byte
		want string
	}{
		"empty tar": {false, nil, "gzip"}, "text as tar": {false, []byte("hello"), "gzip"}, "zip as tar": {false, zipped(t, one), "gzip"},
		"tar without its end": {false, packed[:len(packed)-6], "EOF"}, "tar with more behind": {false, append(slices.Clone(packed), "more"...), "gzip"},
		"empty zip": {true, nil, "no zip archive"}, "text as zip": {true, []byte("hello"), "no zip archive"}, "zip without its end": {true, zipped(t, one)[:100], "no zip archive"},
	} {
		if _, err := unpack(t, tc.zip, tc.data, enough); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, tc.want)
		}
	}
}

// A file's size in a zip's header is not believed.
func TestZipWithWrongSizes(t *testing.T) {
	data := zipped(t, entry{"b", 0o644, strings.Repeat("0", 2<<20), false})
	// The size in the central directory, little-endian, 24 bytes after its mark.
	at := bytes.Index(data, []byte("PK\x01\x02")) + 24
	copy(data[at:], []byte{1, 0, 0, 0})
	if _, err := unpack(t, true, data, enough); err == nil {
		t.Error("no error")
	}
}

// A table of contents is read to its limit only, whatever memory it asks for.
func TestZipWithHugeTable(t *testing.T) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	comment := strings.Repeat("c", 60_000)
	for n := range maxDirectory/len(comment) + 1 {
		if _, err := w.CreateHeader(&zip.FileHeader{Name: fmt.Sprint(n), Comment: comment}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(t, true, b.Bytes(), Options{Bytes: 1 << 20}); err == nil || !strings.Contains(err.Error(), "table of contents is too large") {
		t.Errorf("error %v", err)
	}
}

// The headers of a tar count, too: they unpack to nothing but take time.
func TestTarOfHeaders(t *testing.T) {
	var b bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	out := tar.NewWriter(zipped)
	for range slack>>19 + 3 {
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": strings.Repeat("0", 1<<19)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(out.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(t, false, b.Bytes(), Options{Bytes: 1000}); err == nil || !strings.Contains(err.Error(), "far more than is allowed") {
		t.Errorf("error %v", err)
	}
}

// Unpacking ends with its context, also in the middle of a file.
func TestEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("nobody waits for it")
	data := tarred(t, entry{"a", 0o644, strings.Repeat("0", 1<<20), false}, entry{"b", 0o644, "", false})
	in := io.MultiReader(bytes.NewReader(data[:len(data)/2]), reader(func() { cancel(gone) }), bytes.NewReader(data[len(data)/2:]))
	if err := TarGz(ctx, in, t.TempDir(), enough); !errors.Is(err, gone) {
		t.Errorf("error %v", err)
	}
}

// reader calls a function and ends.
type reader func()

func (r reader) Read([]byte) (int, error) {
	r()
	return 0, io.EOF
}

// Everything belongs to the owner, the folder and links included.
func TestOwner(t *testing.T) {
	o := enough
	// An ordinary user can give files to itself only.
	if o.UID, o.GID = os.Geteuid(), os.Getegid(); o.UID == 0 {
		o.UID, o.GID = 12345, 12346
	}
	dir, err := unpack(t, false, tarred(t, entry{"a/b/c", 0o644, "x", false}, hardLink("h", "a/b/c"), entry{"l", link, "a", false}, entry{"d", folder, "", false}), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if stat := info.Sys().(*syscall.Stat_t); int(stat.Uid) != o.UID || int(stat.Gid) != o.GID {
			t.Errorf("%s belongs to %d:%d", name, stat.Uid, stat.Gid)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// Whatever the bytes: nothing lands beside the folder, nothing in it leads out,
// and the limits hold.
func FuzzUnpack(f *testing.F) {
	many := []entry{{"a/b", 0o644, "x", false}, {"l", link, "a", false}, {"a/l", link, "../l/b", false}}
	out := []entry{{"../a", 0o644, "x", false}, {"h", link, ".", false}, {"l", link, "h/../..", false}}
	through := []entry{{"l", link, "..", false}, {"l/outside", 0o644, "x", false}}
	for _, entries := range [][]entry{many, out, out[1:], through} {
		f.Add(true, zipped(f, entries...))
		f.Add(false, tarred(f, entries...))
	}
	f.Add(false, tarred(f, entry{"a", 0o777 | fs.ModeSetuid, "x", false}, hardLink("b", "a")))
	f.Add(false, []byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, isZip bool, data []byte) {
		o := Options{Bytes: 1 << 16, Entries: 64}
		dir, err := unpack(t, isZip, data, o)
		refused := err != nil
		inside, err := filepath.EvalSymlinks(dir)
		if err != nil {
			t.Fatal(err)
		}
		size := int64(0)
		if err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if stat := info.Sys().(*syscall.Stat_t); info.Mode().IsRegular() {
				size += info.Size() / int64(stat.Nlink)
			}
			if mode := info.Mode(); mode&^(fs.ModePerm|fs.ModeDir|fs.ModeSymlink) != 0 {
				t.Errorf("%s has the mode %v", name, mode)
			}
			// Of an archive that was refused, the links are not checked yet.
			if target, err := filepath.EvalSymlinks(name); !refused && err == nil && target != inside && !strings.HasPrefix(target, inside+"/") {
				t.Errorf("%s leads to %s", name, target)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if size > o.Bytes+64 { // division by the number of links rounds down, never up
			t.Errorf("%d bytes", size)
		}
	})
}
