// Package memfs is a folder in memory as an fs.FS, for what is read from an
// archive or from a kept revision and must not be written anywhere.
package memfs

import (
	"bytes"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// FS maps the paths of files to their contents. The folders on the way exist by
// implication; the root always does.
type FS map[string][]byte

// Open implements fs.FS.
func (f FS) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if data, ok := f[name]; ok {
		return &file{info{path.Base(name), 0o444, int64(len(data))}, bytes.NewReader(data)}, nil
	}
	entries := f.entries(name)
	if len(entries) == 0 && name != "." {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &folder{info{path.Base(name), fs.ModeDir | 0o555, 0}, entries}, nil
}

// entries returns what lies directly in a folder, sorted by name.
func (f FS) entries(folder string) []fs.DirEntry {
	found := map[string]fs.DirEntry{}
	for name, data := range f {
		rest, within := strings.CutPrefix(name, folder+"/")
		if folder == "." {
			rest, within = name, true
		}
		if !within {
			continue
		}
		first, _, deeper := strings.Cut(rest, "/")
		entry := info{first, 0o444, int64(len(data))}
		if deeper {
			entry = info{first, fs.ModeDir | 0o555, 0}
		}
		found[first] = fs.FileInfoToDirEntry(entry)
	}
	var out []fs.DirEntry
	for _, name := range slices.Sorted(maps.Keys(found)) {
		out = append(out, found[name])
	}
	return out
}

// info is the fs.FileInfo of a file or folder.
type info struct {
	name string
	mode fs.FileMode
	size int64
}

func (i info) Name() string               { return i.name }
func (i info) Size() int64                { return i.size }
func (i info) Mode() fs.FileMode          { return i.mode }
func (i info) ModTime() time.Time         { return time.Time{} }
func (i info) IsDir() bool                { return i.mode.IsDir() }
func (i info) Sys() any                   { return nil }
func (i info) Stat() (fs.FileInfo, error) { return i, nil }
func (i info) Close() error               { return nil }

// file is an open file.
type file struct {
	info
	io.Reader
}

// folder is an open folder; left are the entries that were not read yet.
type folder struct {
	info
	left []fs.DirEntry
}

func (d *folder) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: fs.ErrInvalid}
}

// ReadDir implements fs.ReadDirFile.
func (d *folder) ReadDir(n int) ([]fs.DirEntry, error) {
	if n > 0 && len(d.left) == 0 {
		return nil, io.EOF
	}
	if n <= 0 || n > len(d.left) {
		n = len(d.left)
	}
	out := d.left[:n]
	d.left = d.left[n:]
	return out, nil
}
