package install

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// archive packs entries; Linkname of a regular file is its content, so that an
// entry is one value.
func archive(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	w := tar.NewWriter(zip)
	for _, h := range headers {
		content := h.Linkname
		if h.Typeflag == tar.TypeReg {
			h.Linkname, h.Size = "", int64(len(content))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(content)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func file(name, content string, mode int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: content, Mode: mode}
}

func link(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}
}

func hardLink(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
}

func folder(name string, mode int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}
}

func TestUnpackKeepsContentModesAndLinks(t *testing.T) {
	dir := t.TempDir()
	data := archive(t, folder("./", 0o755), folder("./bin/", 0o555), file("./bin/hello", "#!hello", 0o755),
		file("deep/without/folder", "x", 0o640), link("bin/hi", "hello"), link("up", "deep/../bin"), hardLink("same", "bin/hello"))
	if err := unpack(bytes.NewReader(data), dir, 1<<20, 100); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		content string
		mode    fs.FileMode
	}{
		"bin/hello": {"#!hello", 0o755}, "bin/hi": {"#!hello", 0o755}, "up/hello": {"#!hello", 0o755},
		"same": {"#!hello", 0o755}, "deep/without/folder": {"x", 0o640},
	} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != want.content {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != want.mode {
			t.Errorf("%s: mode %v, %v; want %v", name, info.Mode(), err, want.mode)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "bin")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("a read-only folder must stay removable by its owner: %v, %v", info.Mode(), err)
	}
}

func TestUnpackRefusesAttacks(t *testing.T) {
	valid := archive(t, file("a", "content", 0o644))
	for name, tc := range map[string]struct {
		data []byte
		want string
	}{
		"parent":             {archive(t, file("../evil", "x", 0o644)), "leads out"},
		"hidden parent":      {archive(t, file("a/../../evil", "x", 0o644)), "leads out"},
		"absolute":           {archive(t, file("/evil", "x", 0o644)), "leads out"},
		"link out":           {archive(t, link("a", "../outside")), "leads out"},
		"absolute link":      {archive(t, link("a", "/etc")), "leads out"},
		"deep link out":      {archive(t, link("a/b", "../../outside")), "leads out"},
		"write through link": {archive(t, link("a", "b"), link("a", "../outside")), "leads out"},
		"over a link":        {archive(t, link("a", "b"), file("a", "x", 0o644)), "exists"},
		"link chain":         {archive(t, folder("d", 0o755), link("d/up", ".."), link("out", "d/up/.."), file("out/evil", "x", 0o644)), ""},
		"link chain, unused": {archive(t, folder("d", 0o755), link("d/up", ".."), link("out", "d/up/..")), "leads out"},
		"hard link out":      {archive(t, hardLink("a", "../outside/secret")), "leads out"},
		"twice":              {archive(t, file("a", "x", 0o644), file("a", "y", 0o644)), "exists"},
		"device":             {archive(t, tar.Header{Typeflag: tar.TypeChar, Name: "a", Mode: 0o666}), "neither"},
		"fifo":               {archive(t, tar.Header{Typeflag: tar.TypeFifo, Name: "a", Mode: 0o666}), "neither"},
		"too large":          {archive(t, file("a", strings.Repeat("x", 1001), 0o644)), "more than 1000 bytes"},
		"too large in all":   {archive(t, file("a", strings.Repeat("x", 600), 0o644), file("b", strings.Repeat("x", 600), 0o644)), "more than 1000 bytes"},
		"too many":           {archive(t, file("a", "", 0o644), file("b", "", 0o644), file("c", "", 0o644), file("d", "", 0o644), file("e", "", 0o644)), "more than 4 entries"},
		"cut off":            {valid[:len(valid)-6], "EOF"},
		"not gzip":           {[]byte("hello"), "gzip"},
		"empty":              {nil, "gzip"},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "in")
			outside := filepath.Join(parent, "outside")
			for _, d := range []string{dir, outside} {
				if err := os.Mkdir(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("s"), 0o600); err != nil {
				t.Fatal(err)
			}
			err := unpack(bytes.NewReader(tc.data), dir, 1000, 4)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
			assertNothingOutside(t, parent)
		})
	}
}

func TestUnpackDropsSetUserID(t *testing.T) {
	dir := t.TempDir()
	if err := unpack(bytes.NewReader(archive(t, file("a", "x", 0o6755))), dir, 1000, 4); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "a")); err != nil || info.Mode() != 0o755 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// assertNothingOutside wants only what a test put beside the unpack folder.
func assertNothingOutside(t *testing.T, parent string) {
	t.Helper()
	entries, err := os.ReadDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "in" && e.Name() != "outside" {
			t.Errorf("unpacked outside: %s", e.Name())
		}
	}
	entries, err = os.ReadDir(filepath.Join(parent, "outside"))
	if err != nil || len(entries) > 1 {
		t.Errorf("unpacked outside: %v, %v", entries, err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, folder("d", 0o755), file("d/a", "content", 0o755), link("l", "d/a")))
	f.Add(archive(f, file("../evil", "x", 0o644)))
	f.Add(archive(f, link("l", ".."), file("l/outside/evil", "x", 0o644)))
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		parent := t.TempDir()
		for _, name := range []string{"in", "outside"} {
			if err := os.Mkdir(filepath.Join(parent, name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		dir := filepath.Join(parent, "in")
		_ = unpack(bytes.NewReader(data), dir, 1<<16, 64) // whether it is refused is not the point
		assertNothingOutside(t, parent)
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.Type()&fs.ModeSymlink == 0 {
				return err
			}
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			if rel, err := filepath.Rel(dir, filepath.Join(filepath.Dir(name), target)); filepath.IsAbs(target) || err != nil || !filepath.IsLocal(rel) {
				t.Errorf("link %s leads to %s", name, target)
			}
			return nil // links over links are in the table above
		})
		if err != nil {
			t.Error(err)
		}
	})
}
