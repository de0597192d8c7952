package warden

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/confine"
)

// The names of the files in a warden's folder.
const (
	specFile   = "spec.json"
	startFile  = "start.json"
	exitFile   = "exit.json"
	socketFile = "warden.sock"
	stderrFile = "stderr"
	rootFolder = "root"
)

// Spec is what a warden runs.
type Spec struct {
	ID string `json:"id"` // the instance's
	confine.Spec
	// Output takes what the command itself prints; below Dir.
	Output string `json:"output"`
}

// Started identifies a warden: pid and start time do within a boot.
type Started struct {
	PID    int    `json:"pid"`
	Ticks  uint64 `json:"ticks"` // start time, /proc/<pid>/stat field 22
	BootID string `json:"boot_id"`
}

// Ended is how an app ended.
type Ended struct {
	Status int       `json:"status"` // -1: by Signal, or it could not be started
	Signal string    `json:"signal,omitempty"`
	At     time.Time `json:"at"`
	Error  string    `json:"error,omitempty"` // why it could not be started
}

func (e Ended) String() string {
	switch {
	case e.Error != "":
		return e.Error
	case e.Signal != "":
		return "ended by signal " + e.Signal
	}
	return fmt.Sprintf("ended with status %d", e.Status)
}

// ReadSpec reads what a warden was told to run.
func ReadSpec(dir string) (Spec, error) { return read[Spec](dir, specFile) }

// ReadStarted reads the record of a start.
func ReadStarted(dir string) (Started, error) { return read[Started](dir, startFile) }

// ReadEnded reads the record of an end; the error is fs.ErrNotExist if there is
// none.
func ReadEnded(dir string) (Ended, error) { return read[Ended](dir, exitFile) }

func read[T any](dir, name string) (T, error) {
	var record T
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return record, fmt.Errorf("cannot read the record of an instance: %w", err)
	}
	if err := json.Unmarshal(data, &record); err != nil {
		return record, fmt.Errorf("cannot read the record of an instance %s: %w", filepath.Join(dir, name), err)
	}
	return record, nil
}

// write replaces a record at once. It does not sync: the records mean nothing
// after a reboot, and the crash of a process alone loses no write.
func write(dir, name string, record any) error {
	data, err := json.Marshal(record)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("cannot write the record of an instance: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("cannot write the record of an instance: %w", err)
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
