package state

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ErrDamaged is in the chain of errors about a state folder whose files do not
// make a whole: some are missing, cut off or another deployment's.
var ErrDamaged = errors.New("the state folder is damaged")

// damageError says what of a folder is damaged, and how to go on.
type damageError struct{ text string }

func (e *damageError) Error() string        { return e.text }
func (e *damageError) Is(target error) bool { return target == ErrDamaged }

// wayOut ends messages about damage.
const wayOut = "nothing was written; deploy state repair MANIFEST puts back what the folder has copies of, deploy state import MANIFEST < FILE an export"

// missing says that a file is not there although others are.
func missing(dir, name string, others []string) error {
	return &damageError{fmt.Sprintf("cannot use the state folder %s: %s is missing, and %s there: this deployment was applied before, so it is not a new one; %s; "+
		"if nothing of it exists any more, remove the folder", dir, name, areThere(others), wayOut)}
}

// damaged says that a file holds what it must not.
func damaged(path string, why error) error {
	return &damageError{fmt.Sprintf("cannot use %s: %v; %s", path, why, wayOut)}
}

func areThere(names []string) string {
	if len(names) == 1 {
		return names[0] + " is"
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last] + " are"
}

// cutOff explains why a JSON file could not be read.
func cutOff(data []byte, err error) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return errors.New("it is empty, as a crash or a full disk leaves files")
	}
	return fmt.Errorf("it is cut off or not JSON: %w", err)
}

// evidence are the files of the folder that only a run leaves which has begun,
// after it has written the state.
func evidence(dir string) ([]string, error) {
	var found []string
	for _, name := range []string{"journal.jsonl", "terraform/terraform.tfstate", "terraform/applied.json", "vms", "packages", "revisions", "copies"} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot look into the state folder: %w", err)
		}
		if info.IsDir() {
			entries, err := os.ReadDir(path)
			if err != nil {
				return nil, fmt.Errorf("cannot look into the state folder: %w", err)
			}
			if len(entries) == 0 { // a plan may make it
				continue
			}
		}
		found = append(found, name)
	}
	if len(found) > 0 {
		if _, err := os.Stat(filepath.Join(dir, "secrets.json")); err == nil {
			found = append([]string{"secrets.json"}, found...)
		}
	}
	return found, nil
}
