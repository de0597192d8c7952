package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/host/parent"
)

// The names of the files in a shim's folder.
const (
	specFile   = "spec.json"
	startFile  = "start.json"
	exitFile   = "exit.json"
	socketFile = "shim.sock"
	stderrFile = "stderr"
)

// ProcessVariable is the environment variable that holds the id of a start and
// is inherited by all that the process starts.
const ProcessVariable = "DEPLOY_PROCESS"

// Spec describes what a shim starts, pinned for the life of the process.
type Spec struct {
	// ID is unique for this start and the process's DEPLOY_PROCESS.
	ID      string   `json:"id"`
	Command []string `json:"command"`
	Env     []string `json:"env"` // all of it
	Dir     string   `json:"dir"`
	// User says whom the process runs as; nil is the shim's own user.
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
func ReadSpec(dir string) (Spec, error) { return parent.Read[Spec](dir, specFile) }

// ReadStarted reads the record of a start.
func ReadStarted(dir string) (Started, error) { return parent.Read[Started](dir, startFile) }

// ReadEnded reads the record of an end.
func ReadEnded(dir string) (Ended, error) { return parent.Read[Ended](dir, exitFile) }

// clear removes the records of an earlier start.
func clear(dir string) error {
	for _, name := range []string{specFile, startFile, exitFile, socketFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove the record of an earlier start: %w", err)
		}
	}
	return nil
}
