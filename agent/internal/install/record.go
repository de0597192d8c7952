package install

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/clusterworks/deploy/agent/api"
)

// record is a folder as it was installed: a generation or an unpacked package.
// It is records/<kind>-<digest>.json on disk.
type record struct {
	entries []entry // sorted by path
	// read holds what was found in files whose stamp is not that of the entry, so
	// that each is read once as long as nobody touches it.
	read map[string]reading
}

// entry is one file, folder or link.
type entry struct {
	Path   string      `json:"path"` // slash-separated; "." is the folder itself
	Mode   fs.FileMode `json:"mode"`
	UID    uint32      `json:"uid"`
	GID    uint32      `json:"gid"`
	SHA256 string      `json:"sha256,omitempty"` // of a regular file
	Link   string      `json:"link,omitempty"`   // where a symbolic link leads
	Stamp  stamp       `json:"stamp"`
}

// stamp describes what changes when a file is written to: as long as it stays, the
// content does. Whoever wants to can set the other times, but not that of the
// last change (ctime).
type stamp struct {
	Inode    uint64 `json:"inode"`
	Size     int64  `json:"size"`
	Modified int64  `json:"modified"` // ns
	Changed  int64  `json:"changed"`  // ns
}

type reading struct {
	stamp  stamp
	sha256 string
}

// difference is one way in which a folder is not as recorded.
type difference struct {
	path string // slash-separated, within the folder
	kind api.DriftKind
}

// scan reads a folder. Files are read only if their content is asked for.
func scan(folder string, content bool) ([]entry, error) {
	var all []entry
	err := filepath.WalkDir(folder, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrPermission) && d != nil {
			return nil // its mode tells why
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(folder, name)
		if err != nil {
			return err
		}
		e := entry{Path: filepath.ToSlash(relative), Mode: info.Mode()}
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			e.UID, e.GID = s.Uid, s.Gid
			e.Stamp = stamp{s.Ino, s.Size, s.Mtim.Nano(), s.Ctim.Nano()}
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			e.Link, err = os.Readlink(name)
		case info.Mode().IsRegular() && content:
			e.SHA256, err = sha256File(name)
		}
		all = append(all, e)
		return err
	})
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.Path, b.Path) })
	return all, err
}

func sha256File(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// compare tells how a folder differs from its record, sorted by path. Of a
// folder that is missing or new only the folder itself is named. Full reads
// every file, else those are read whose stamps differ.
func (r *record) compare(folder string, full bool) ([]difference, error) {
	found, err := scan(folder, false)
	if errors.Is(err, fs.ErrNotExist) {
		return []difference{{".", api.DriftMissing}}, nil
	}
	if err != nil {
		return nil, err
	}
	there := make(map[string]entry, len(found))
	for _, e := range found {
		there[e.Path] = e
	}
	var out []difference
	reported := func(path string) bool { // with a folder above it
		return slices.ContainsFunc(out, func(d difference) bool { return strings.HasPrefix(path, d.path+"/") && d.kind != api.DriftMode })
	}
	for _, was := range r.entries {
		is, present := there[was.Path]
		delete(there, was.Path)
		switch {
		case reported(was.Path):
		case !present:
			out = append(out, difference{was.Path, api.DriftMissing})
		case is.Mode.Type() != was.Mode.Type() || is.Link != was.Link || was.Mode.IsRegular() && !r.sameContent(folder, was, is, full):
			out = append(out, difference{was.Path, api.DriftChanged})
		case is.Mode != was.Mode || is.UID != was.UID || is.GID != was.GID:
			out = append(out, difference{was.Path, api.DriftMode})
		}
	}
	for _, e := range found {
		if _, extra := there[e.Path]; extra && !reported(e.Path) {
			out = append(out, difference{e.Path, api.DriftExtra})
		}
	}
	slices.SortFunc(out, func(a, b difference) int { return strings.Compare(a.path, b.path) })
	return out, nil
}

func (r *record) sameContent(folder string, was, is entry, full bool) bool {
	if is.Stamp.Size != was.Stamp.Size {
		return false
	}
	if !full {
		if is.Stamp == was.Stamp {
			return true
		}
		if read := r.read[is.Path]; read.stamp == is.Stamp {
			return read.sha256 == was.SHA256
		}
	}
	digest, err := sha256File(filepath.Join(folder, filepath.FromSlash(is.Path)))
	if err != nil {
		// Not readable any more: that is its mode, which is compared too.
		return is.Mode != was.Mode || is.UID != was.UID || is.GID != was.GID
	}
	r.read[is.Path] = reading{is.Stamp, digest}
	return digest == was.SHA256
}
