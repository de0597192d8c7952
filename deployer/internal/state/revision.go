package state

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/google/renameio/v2"
)

// maxSources bounds the files of a revision.
const maxSources = 256 << 20

func (s Store) revisionFile(number int) string {
	return filepath.Join(s.Dir, "revisions", strconv.Itoa(number)+".tar.gz")
}

// KeepSources keeps the files that a revision was made from, by name.
func (s Store) KeepSources(number int, files map[string][]byte) error {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	archive := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(files[name])), ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
		if err == nil {
			_, err = archive.Write(files[name])
		}
		if err != nil {
			return fmt.Errorf("cannot pack the sources of revision %d: %w", number, err)
		}
	}
	if err := errors.Join(archive.Close(), z.Close()); err != nil {
		return fmt.Errorf("cannot pack the sources of revision %d: %w", number, err)
	}
	path := s.revisionFile(number)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot make the folder for revisions: %w", err)
	}
	if err := renameio.WriteFile(path, out.Bytes(), 0o600, renameio.WithTempDir(filepath.Dir(path))); err != nil {
		return fmt.Errorf("cannot keep the sources of revision %d: %w", number, err)
	}
	return nil
}

// Sources reads what KeepSources kept.
func (s Store) Sources(number int) (map[string][]byte, error) {
	f, err := os.Open(s.revisionFile(number))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot find what revision %d was made from in %s: an earlier deploy made it, or the state was imported, which brings no revisions", number, filepath.Dir(s.revisionFile(number)))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read revision %d: %w", number, err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("cannot read revision %d: %w", number, err)
	}
	files := map[string][]byte{}
	left := int64(maxSources)
	for archive := tar.NewReader(z); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read revision %d: %w", number, err)
		}
		if left -= h.Size; left < 0 || !fs.ValidPath(h.Name) {
			return nil, fmt.Errorf("cannot read revision %d: it holds %q of %d bytes, which none does", number, h.Name, h.Size)
		}
		if files[h.Name], err = io.ReadAll(archive); err != nil {
			return nil, fmt.Errorf("cannot read revision %d: %w", number, err)
		}
	}
}

// DropSources removes the files of all revisions but those that are kept.
func (s Store) DropSources(kept []Revision) error {
	dir := filepath.Dir(s.revisionFile(0))
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot list the revisions: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if slices.ContainsFunc(kept, func(r Revision) bool { return s.revisionFile(r.Number) == path }) {
			continue
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("cannot remove a revision that is not kept any more: %w", err)
		}
	}
	return nil
}
