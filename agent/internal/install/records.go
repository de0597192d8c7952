package install

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/agent/api"
)

// records are those of an agent's folder.
type records struct {
	dir string // the agent's
	log *slog.Logger

	mu  sync.Mutex
	all map[string]*record // by kind and digest, those that were needed
}

func (s *records) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

func (s *records) file(kind, digest string) string {
	return s.path("records", kind+"-"+digest+".json")
}

// keep notes how a finished folder is, before it comes to its place. It
// does not sync: a record that is lost is made anew from what is there.
func (s *records) keep(kind, digest, folder string) error {
	entries, err := scan(folder, true)
	if err != nil {
		return err
	}
	data, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	name := s.file(kind, digest)
	if err := os.WriteFile(name+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// get returns the record of an installed folder. One that an agent of an earlier
// version has not made is made of what is there now. s.mu is held.
func (s *records) get(kind, digest string) (*record, error) {
	key := kind + "-" + digest
	if r := s.all[key]; r != nil {
		return r, nil
	}
	r := &record{read: map[string]reading{}}
	data, err := os.ReadFile(s.file(kind, digest))
	if err == nil {
		err = json.Unmarshal(data, &r.entries)
	}
	if err != nil {
		if err := s.keep(kind, digest, s.path(kind, digest)); err != nil {
			return nil, err
		}
		if data, err = os.ReadFile(s.file(kind, digest)); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(data, &r.entries); err != nil {
			return nil, err
		}
	}
	s.all[key] = r
	return r, nil
}

// differences compares an installed folder with its record.
func (s *records) differences(kind, digest string, full bool) []difference {
	s.mu.Lock()
	defer s.mu.Unlock()
	folder := s.path(kind, digest)
	r, err := s.get(kind, digest)
	if errors.Is(err, fs.ErrNotExist) {
		return []difference{{".", api.DriftMissing}}
	}
	var out []difference
	if err == nil {
		out, err = r.compare(folder, full)
	}
	if err != nil {
		s.log.Warn("cannot compare with what was installed", "folder", folder, "err", err)
	}
	return out
}

// drifted reports whether a folder must be made anew. Files that were added to a
// package are no reason: there are programs that do so themselves.
func (s *records) drifted(kind, digest string) bool {
	return slices.ContainsFunc(s.differences(kind, digest, false), func(d difference) bool {
		return kind == kindGeneration || d.kind != api.DriftExtra
	})
}

// whole reports whether a folder is there as it was installed.
func (s *records) whole(kind, digest string) (bool, error) {
	present, err := exists(s.path(kind, digest))
	return present && !s.drifted(kind, digest), err
}

// install puts a finished folder at its place, recorded as it is. What is there
// already is as it should be, by its name, or was changed by hand and goes:
// nothing is ever written into it.
func (s *records) install(temporary, kind, digest string) error {
	if err := s.keep(kind, digest, temporary); err != nil {
		return err
	}
	if err := syncFolder(temporary); err != nil {
		return err
	}
	final := s.path(kind, digest)
	s.mu.Lock()
	delete(s.all, kind+"-"+digest)
	s.mu.Unlock()
	present, err := exists(final)
	if err != nil {
		return err
	}
	if present {
		err = exchange(temporary, final) // the caller removes the other
	} else {
		err = os.Rename(temporary, final)
	}
	if err != nil {
		return err
	}
	return syncFolder(filepath.Dir(final))
}

// exchange makes two names change places. File systems that cannot leave a
// moment without the second.
func exchange(a, b string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err == nil {
		return nil
	}
	if err := os.Rename(b, a+".old"); err != nil {
		return err
	}
	if err := os.Rename(a, b); err != nil {
		return err
	}
	return os.Rename(a+".old", a)
}
