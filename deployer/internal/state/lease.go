package state

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
)

// ErrSuperseded is returned to a run whose lease another one has taken over:
// what it knows is the past, so it may write nothing any more.
var ErrSuperseded = errors.New("another deploy has taken over, so nothing more is written or begun here; look at its output, or apply again")

// Begin takes the lease: from now on st is of the given epoch, which must be
// higher than any before, and nobody who holds an earlier lease can write. It
// is compare-and-set: it fails with ErrSuperseded if the state on disk is not
// the one that st was read from.
//
// A lock cannot promise that: its holder may be suspended at any moment, also
// between its look at the disk and its write. So writers do first what they can
// be stopped from (put the new text into a temporary file), then look who has the
// lease, and then rename; and Begin, once its own text is in place, removes the
// temporary files of others and looks again. A writer that was suspended finds
// either the new lease or no temporary file. This needs no more of a file system
// than that a rename is atomic.
func (s Store) Begin(st *State, secrets *Secrets, epoch uint64) error {
	name := make([]byte, 8)
	rand.Read(name)
	before := lease{st.Epoch, st.Lease}
	after := lease{epoch, hex.EncodeToString(name)}
	if epoch <= before.epoch {
		return fmt.Errorf("cannot begin epoch %d: the state is of epoch %d", epoch, before.epoch)
	}
	st.Epoch, st.Lease = after.epoch, after.name
	if _, err := s.write(st, secrets, before); err != nil {
		st.Epoch, st.Lease = before.epoch, before.name
		return err
	}
	for {
		if err := s.sweep(); err != nil {
			return err
		}
		// What was renamed just before the sweep is written over.
		now, err := s.onDisk()
		if err != nil {
			return err
		}
		if now != after && now != before {
			return ErrSuperseded
		}
		if wrote, err := s.write(st, secrets, now); err != nil || !wrote {
			return err
		}
	}
}

// Save writes what differs from the disk, atomically, and tells whether
// anything did. It fails with ErrSuperseded once another run has begun, also if
// there is nothing to write.
func (s Store) Save(st *State, secrets *Secrets) (wrote bool, err error) {
	return s.write(st, secrets, lease{st.Epoch, st.Lease})
}

// Check fails with ErrSuperseded once another run has begun. What is done after
// it may still be done too late: it is for what cannot be taken back by anybody.
func (s Store) Check(st *State) error {
	now, err := s.onDisk()
	if err == nil && now != (lease{st.Epoch, st.Lease}) {
		err = ErrSuperseded
	}
	return err
}

// lease says who may write.
type lease struct {
	epoch uint64
	name  string
}

// onDisk is the lease of the state on disk, zero if there is none.
func (s Store) onDisk() (lease, error) {
	st, err := s.LoadState()
	if err != nil || st == nil {
		return lease{}, err
	}
	return lease{st.Epoch, st.Lease}, nil
}

// write puts state and secrets in place of those of the lease held.
func (s Store) write(st *State, secrets *Secrets, held lease) (wrote bool, err error) {
	secrets.DeploymentID = st.DeploymentID
	secretData, err := encode(secrets)
	if err != nil {
		return false, err
	}
	if secrets.Encryption != nil {
		if secretData, err = s.Keys.Seal(secretData, *secrets.Encryption); err != nil {
			return false, fmt.Errorf("cannot write %s: %w", s.secretsFile(), err)
		}
	}
	stateData, err := encode(st)
	if err != nil {
		return false, err
	}
	if now, err := s.onDisk(); err != nil {
		return false, err
	} else if now != held {
		return false, ErrSuperseded
	}
	if !secrets.read {
		if _, err := os.Lstat(s.secretsFile()); !errors.Is(err, fs.ErrNotExist) {
			return false, errors.Join(fmt.Errorf("cannot write %s: it is there and was not read, so what it holds would be lost", s.secretsFile()), err)
		}
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return false, fmt.Errorf("cannot make the state folder: %w", err)
	}
	if wrote, err = writeChanged(filepath.Join(s.Dir, ".gitignore"), []byte("*\n")); err != nil {
		return wrote, err
	}
	for _, f := range []struct {
		path string
		data []byte
	}{
		// Secrets first: a state without its secrets would be of no use.
		{s.secretsFile(), secretData},
		{s.stateFile(), stateData},
	} {
		w, err := s.writeHeld(f.path, f.data, held)
		wrote = wrote || w
		if err != nil {
			return wrote, err
		}
		secrets.read = true // the first of the two
	}
	return wrote, nil
}

// writeHeld replaces a file if it differs, as long as the lease holds.
func (s Store) writeHeld(path string, data []byte, held lease) (wrote bool, err error) {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return false, nil
	}
	wrong := func(err error) error { return fmt.Errorf("cannot write the state: %w", err) }
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(s.Dir), renameio.WithPermissions(0o600))
	if err != nil {
		return false, wrong(err)
	}
	defer f.Cleanup() // nothing after the rename
	if _, err := f.Write(data); err != nil {
		return false, wrong(err)
	}
	if err := f.Sync(); err != nil {
		return false, wrong(err)
	}
	if now, err := s.onDisk(); err != nil {
		return false, err
	} else if now != held {
		return false, ErrSuperseded
	}
	switch err := f.CloseAtomicallyReplace(); {
	case errors.Is(err, fs.ErrNotExist): // swept by another's Begin
		return false, ErrSuperseded
	case err != nil:
		return false, wrong(err)
	}
	return true, syncFolder(s.Dir)
}

// sweep removes the temporary files of writers, those that were ended too.
func (s Store) sweep() error {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return fmt.Errorf("cannot list the state folder: %w", err)
	}
	for _, e := range entries {
		for _, name := range []string{s.stateFile(), s.secretsFile()} {
			if !strings.HasPrefix(e.Name(), "."+filepath.Base(name)) {
				continue
			}
			if err := os.Remove(filepath.Join(s.Dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("cannot remove what an earlier run left: %w", err)
			}
		}
	}
	return nil
}
