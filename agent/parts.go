package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// The agent's own programs and files are what it watches itself by: whoever
// removes them does not end it, and nobody would notice before it is needed.

// Part is a file of the agent's own that must stay as it is.
type Part struct {
	Path string
	Size int64
}

// PartOf is a file as it is now.
func PartOf(path string) (Part, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Part{}, fmt.Errorf("cannot look at the agent's own file: %w", err)
	}
	return Part{path, info.Size()}, nil
}

// damagedParts says which of the files are not what they were.
func damagedParts(parts []Part) []string {
	var out []string
	for _, p := range parts {
		info, err := os.Stat(p.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			out = append(out, p.Path+" is missing")
		case err == nil && info.Size() != p.Size:
			out = append(out, fmt.Sprintf("%s has %d bytes, not %d", p.Path, info.Size(), p.Size))
		}
	}
	return out
}

// damage returns all that is wrong with the agent's own files: what was set aside, and
// the parts that are not what they were.
func damage(aside []string, parts []Part) []string {
	return slices.Concat(aside, damagedParts(parts))
}
