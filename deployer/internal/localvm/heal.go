package localvm

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/agent/host/damaged"
)

// A file is put back when a daemon has found it damaged so often in a row, every
// FolderCheck. Whoever changes a file tells the daemon at once, and a folder that is
// being removed is gone by then.
const (
	ticksDamaged   = 2 // missing, or not what such a file can be
	ticksDifferent = 5 // as such a file can be, with other content than the daemon's
)

// Kept is a file that a daemon can write again, since it knows what was in it.
type Kept struct {
	Name string // in the daemon's folder
	Data []byte
	// Possible reports whether other content could be a change of which the daemon
	// was not told yet; nil: none can.
	Possible func([]byte) bool
}

// Heal puts back the daemon's files that were damaged, its status and its lock among
// them, and sets aside what was in their place.
func (d *Daemon) Heal(files []Kept) {
	if d.damaged == nil {
		d.damaged = map[string]int{}
	}
	for _, f := range append(files, Kept{Name: StatusFile, Data: d.status}) {
		path := filepath.Join(d.Dir, f.Name)
		data, err := os.ReadFile(path)
		if err == nil && bytes.Equal(data, f.Data) {
			delete(d.damaged, f.Name)
			continue
		}
		limit := ticksDamaged
		if err == nil && f.Possible != nil && f.Possible(data) {
			limit = ticksDifferent
		}
		if d.damaged[f.Name]++; d.damaged[f.Name] < limit {
			continue
		}
		delete(d.damaged, f.Name)
		note := path + " was missing"
		if err == nil {
			note, err = damaged.SetAside(path, errors.New("it is not what was written"))
		} else if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err == nil {
			err = renameio.WriteFile(path, f.Data, 0o600)
		}
		if err != nil {
			d.Log.Error("cannot put back a damaged file", "file", path, "error", err)
			continue
		}
		d.Log.Warn("put back a damaged file", "file", path, "what", note)
		d.noteRepair(note)
	}
	d.healLock()
}

// healLock takes the lock again if its file is another.
func (d *Daemon) healLock() {
	path := filepath.Join(d.Dir, lockFile)
	mine, err := d.lock.Stat()
	if err != nil {
		return
	}
	if now, err := os.Stat(path); err == nil && os.SameFile(mine, now) {
		delete(d.damaged, lockFile)
		return
	}
	if d.damaged[lockFile]++; d.damaged[lockFile] < ticksDamaged {
		return
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		d.Log.Error("cannot take the lock again, whose file is another", "file", path, "error", err)
		if file != nil {
			_ = file.Close()
		}
		return
	}
	_ = d.lock.Close()
	d.lock = file
	delete(d.damaged, lockFile)
	d.Log.Warn("took the lock again, whose file was another", "file", path)
	d.noteRepair(path + " was missing or another file")
}
