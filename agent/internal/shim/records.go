package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// The names of the files in a shim's folder.
const (
	specFile   = "spec.json"
	startFile  = "start.json"
	exitFile   = "exit.json"
	socketFile = "shim.sock"
	stderrFile = "stderr"
)

// Spec is what a shim starts, pinned for the life of the process.
type Spec struct {
	// ID is unique for this start and the process's DEPLOY_PROCESS.
	ID      string   `json:"id"`
	Command []string `json:"command"`
	Env     []string `json:"env"` // all of it
	Dir     string   `json:"dir"`
	// User is whom the process runs as; nil is the shim's own user.
	User     *User        `json:"user,omitempty"`
	Limits   api.Limits   `json:"limits,omitzero"`
	KillMode api.KillMode `json:"kill_mode"`
	// StopSignal and StopGraceMS serve when the shim is asked to end by a
	// signal, as an init does; the agent's own requests bring theirs along.
	StopSignal  string `json:"stop_signal"`
	StopGraceMS int64  `json:"stop_grace_ms"`

	Log      string `json:"log"`       // file for standard output and error
	LogBytes int64  `json:"log_bytes"` // size at which it is rotated
	LogKeep  int    `json:"log_keep"`  // rotated files kept

	// Digest, ReloadDigest and Generation are the agent's; the shim only keeps
	// them, so that what runs and what it was started from cannot differ.
	Digest       string `json:"digest"`
	ReloadDigest string `json:"reload_digest"`
	Generation   string `json:"generation"`
}

// User is a user in numbers.
type User struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`
}

// Started is the record of a start. Pid and start time identify a process
// within a boot: a pid alone is used again.
type Started struct {
	ID        string    `json:"id"`
	PID       int       `json:"pid"`
	Ticks     uint64    `json:"ticks"` // start time, /proc/<pid>/stat field 22
	ShimPID   int       `json:"shim_pid"`
	ShimTicks uint64    `json:"shim_ticks"`
	BootID    string    `json:"boot_id"`
	At        time.Time `json:"at"`
}

// Ended is the record of an end.
type Ended struct {
	ID string `json:"id"`
	api.Exit
	// Error says why the process could not be started at all.
	Error string `json:"error,omitempty"`
}

// ReadSpec reads what was last started, or was about to be. The error is
// fs.ErrNotExist if nothing ever was.
func ReadSpec(dir string) (Spec, error) { return readRecord[Spec](dir, specFile) }

// ReadStarted reads the record of a start.
func ReadStarted(dir string) (Started, error) { return readRecord[Started](dir, startFile) }

// ReadEnded reads the record of an end.
func ReadEnded(dir string) (Ended, error) { return readRecord[Ended](dir, exitFile) }

func readRecord[T any](dir, name string) (T, error) {
	var record T
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return record, fmt.Errorf("cannot read the record of a process: %w", err)
	}
	if err := json.Unmarshal(data, &record); err != nil {
		return record, fmt.Errorf("cannot read the record of a process %s: %w", filepath.Join(dir, name), err)
	}
	return record, nil
}

// writeRecord replaces a record at once. It does not sync: run/ means nothing
// after a reboot, and the crash of a process alone loses no write.
func writeRecord(dir, name string, record any) error {
	data, err := json.Marshal(record)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("cannot write the record of a process: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("cannot write the record of a process: %w", err)
	}
	return nil
}

// clear removes the records of an earlier start.
func clear(dir string) error {
	for _, name := range []string{specFile, startFile, exitFile, socketFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove the record of an earlier start: %w", err)
		}
	}
	return nil
}

// BootID identifies the running kernel's boot.
func BootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("cannot tell one boot from the next: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
