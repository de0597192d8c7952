package warden

import (
	"fmt"
	"time"

	"github.com/clusterworks/deploy/agent/host/parent"
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

// Spec describes what a warden runs.
type Spec struct {
	ID string `json:"id"` // the instance's
	confine.Spec
	// Output takes what the command itself prints; below Dir.
	Output string `json:"output"`
	// Streams take what the command prints instead; nil: Output does. What the warden
	// has to say stays in Output.
	Streams *Streams `json:"streams,omitempty"`
	// Bound ends it with the connection of who started it; else it lives on.
	Bound bool `json:"bound,omitempty"`
}

// Started identifies a warden: pid and start time do within a boot.
type Started struct {
	PID    int    `json:"pid"`
	Ticks  uint64 `json:"ticks"` // start time, /proc/<pid>/stat field 22
	BootID string `json:"boot_id"`
}

// Ended describes how an app ended.
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
func ReadSpec(dir string) (Spec, error) { return parent.Read[Spec](dir, specFile) }

// ReadStarted reads the record of a start.
func ReadStarted(dir string) (Started, error) { return parent.Read[Started](dir, startFile) }

// ReadEnded reads the record of an end; the error is fs.ErrNotExist if there is
// none.
func ReadEnded(dir string) (Ended, error) { return parent.Read[Ended](dir, exitFile) }
