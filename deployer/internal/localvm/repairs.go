package localvm

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"
)

// repairsFolder is in a daemon's folder and has a file for each repair that no apply
// has told of.
const repairsFolder = "repairs"

// maxRepairs bounds a daemon's repairs that are kept; the first ones are.
const maxRepairs = 20

// Repair is one of a daemon's own files that it put back.
type Repair struct {
	// Instance is the VM's ("router/0"), "" if the daemon is none of a VM.
	Instance string    `json:"-"`
	At       time.Time `json:"at"`
	What     string    `json:"what"` // "…/config.json was missing"

	path string
}

// String tells of the repair.
func (r Repair) String() string {
	who := "a published address"
	if r.Instance != "" {
		who = r.Instance
	}
	return fmt.Sprintf("%s: its local VM put back one of its own files at %s: %s; find out what removes or changes files there", who, r.At.Local().Format(time.DateTime), r.What)
}

// noteRepair keeps a repair until ForgetRepairs.
func (d *Daemon) noteRepair(what string) {
	dir := filepath.Join(d.Dir, repairsFolder)
	err := os.MkdirAll(dir, 0o700)
	var had []os.DirEntry
	if err == nil {
		had, err = os.ReadDir(dir)
	}
	if err == nil && len(had) < maxRepairs {
		now := time.Now()
		data, _ := json.Marshal(Repair{At: now, What: what}) // plain data; cannot fail
		err = renameio.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.json", now.UnixNano())), data, 0o600)
	}
	if err != nil {
		d.Log.Error("cannot note a repair", "error", err)
	}
}

// Repairs returns what the daemons below a folder of VMs have put back since the last
// apply told of it, the oldest first.
func Repairs(vms string) []Repair {
	paths, err := filepath.Glob(filepath.Join(vms, "*", repairsFolder, "*.json"))
	if err != nil {
		return nil
	}
	var out []Repair
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it was told just now
		}
		r := Repair{path: path}
		if json.Unmarshal(data, &r) != nil {
			r.What = "a note of it is damaged: " + path
		}
		var c Machine
		if _, err := ReadConfig(filepath.Dir(filepath.Dir(path)), &c); err == nil && c.Group != "" {
			r.Instance = fmt.Sprintf("%s/%d", c.Group, c.Index)
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Repair) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.path, b.path)) })
	return out
}

// ForgetRepairs drops repairs that were told.
func ForgetRepairs(told []Repair) error {
	var errs []error
	for _, r := range told {
		if err := os.Remove(r.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
