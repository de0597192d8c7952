// Package damaged sets unreadable files aside. The program that needs them starts
// without them, and an operator can still look at them.
package damaged

import (
	"fmt"
	"os"
	"path/filepath"
)

// suffix is appended to the name of a file that is set aside.
const suffix = ".damaged"

// SetAside renames a file for a reason, in place of one that was set aside before,
// and returns what to tell of it.
func SetAside(path string, why error) (note string, err error) {
	if err := os.Rename(path, path+suffix); err != nil {
		return "", fmt.Errorf("cannot set %s aside, which is damaged (%w): %w", path, why, err)
	}
	return fmt.Sprintf("%s was damaged (%v) and is set aside as %s", path, why, filepath.Base(path)+suffix), nil
}
