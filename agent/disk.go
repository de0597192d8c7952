package agent

import (
	"fmt"
	"os"
	"path/filepath"
)

// diskGone returns the persistent disk that the jobs' data is on and that is not
// there any more, "" if it is or there is none.
func (a *Agent) diskGone() string {
	target, err := os.Readlink(filepath.Join(a.config.Dir, "data"))
	if err != nil {
		return ""
	}
	disk := filepath.Dir(target)
	if _, err := os.Stat(disk); !os.IsNotExist(err) {
		return ""
	}
	return disk
}

// useDisk places the jobs' data (path.data) on the persistent disk, a folder:
// the agent's data folder becomes a link to <disk>/data. "" is no disk.
func (a *Agent) useDisk(disk string) error {
	if disk == "" {
		return nil
	}
	if info, err := os.Stat(disk); err != nil {
		return fmt.Errorf("cannot use the persistent disk: %w", err)
	} else if !info.IsDir() {
		return fmt.Errorf("cannot use the persistent disk %s: it is not a folder, and the agent does not mount devices; mount the device when the VM is created, and name the folder", disk)
	}
	target := filepath.Join(disk, "data")
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("cannot use the persistent disk: %w", err)
	}
	link := filepath.Join(a.config.Dir, "data")
	if now, err := os.Readlink(link); err == nil && now == target {
		return nil
	}
	// Only an empty folder, or a link, is removed. Ended here, the next try finds
	// an empty folder.
	if err := os.Remove(link); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("cannot place the jobs' data on the persistent disk %s: %s holds data of a time without it: %w; stop the jobs, move it to %s, and apply again", disk, link, err, target)
	}
	if err := os.Symlink(target, link); err != nil {
		return fmt.Errorf("cannot place the jobs' data on the persistent disk: %w", err)
	}
	return nil
}
