package terraform

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// StateFile is the name of an engine's state in its work folder.
const StateFile = "terraform.tfstate"

// StateID tells an engine's state from others of its kind: the lineage is that of
// one deployment, the serial grows with each change.
type StateID struct {
	Lineage string `json:"lineage"`
	Serial  uint64 `json:"serial"`
}

// ErrState is in the chain of errors about an engine's state that is not the one
// which it should be.
var ErrState = errors.New("the engine's state is not what it was")

// CheckState compares the engine's state in a work folder with what is known of
// it: was is the state that the last run left, zero if that is not known, and vms
// are the ids of the machines that it must have. A state that is later than was
// need not have them: a run that was ended may have removed some. It returns the
// state's identity; the errors name the file.
func CheckState(dir string, was StateID, vms []string) (StateID, error) {
	if _, err := os.Stat(filepath.Join(dir, dataDir, StateFile)); err == nil {
		return StateID{}, nil // a backend keeps it: the engine's to find
	}
	path := filepath.Join(dir, StateFile)
	wrong := func(format string, args ...any) (StateID, error) {
		return StateID{}, fmt.Errorf("%w: %s %s", ErrState, path, fmt.Sprintf(format, args...))
	}
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return wrong("is missing")
	case err != nil:
		return StateID{}, fmt.Errorf("cannot read the engine's state: %w", err)
	case len(bytes.TrimSpace(data)) == 0:
		return wrong("is empty")
	}
	var now StateID
	if err := json.Unmarshal(data, &now); err != nil {
		return wrong("is cut off or not JSON: %v", err)
	}
	switch {
	case now.Lineage == "":
		return wrong("is not the state of an engine: it has no lineage")
	case was.Lineage != "" && now.Lineage != was.Lineage:
		return wrong("is another deployment's: its lineage is %.8s, not %.8s", now.Lineage, was.Lineage)
	case was.Lineage != "" && now.Serial >= was.Serial:
		return now, nil
	}
	lacking := slices.DeleteFunc(slices.Clone(vms), func(id string) bool {
		text, err := json.Marshal(id)
		return err == nil && bytes.Contains(data, text)
	})
	if len(lacking) > 0 {
		return wrong("is an older one: it lacks %d of %d machines", len(lacking), len(vms))
	}
	return now, nil
}
