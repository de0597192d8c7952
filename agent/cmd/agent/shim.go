package main

import (
	"archive/zip"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// shimProgram is the name of the shim in the zip archive that `make build`
// appends to the agent, so that one file is all that a VM needs.
const shimProgram = "shim"

// shimCommand returns how shims are started: by the small program that the executable
// carries, unpacked once into the agent's folder. An executable that carries
// none, as `go build` leaves it, is a shim itself when it is told so: larger, and
// the same in all else.
func shimCommand(executable, dir string) ([]string, error) {
	archive, err := zip.OpenReader(executable)
	if errors.Is(err, zip.ErrFormat) {
		return []string{executable, "shim"}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look for the shim in the agent's program: %w", err)
	}
	defer archive.Close()
	for _, f := range archive.File {
		if f.Name != shimProgram {
			continue
		}
		// Shims of earlier agents run from files of other names.
		name := filepath.Join(dir, "bin", fmt.Sprintf("%s-%08x", shimProgram, f.CRC32))
		if err := unpackShim(f, name); err != nil {
			return nil, fmt.Errorf("cannot unpack the shim to %s: %w", name, err)
		}
		return []string{name}, nil
	}
	return []string{executable, "shim"}, nil
}

// unpackShim writes the program, unless it is there.
func unpackShim(f *zip.File, name string) error {
	info, err := os.Stat(name)
	if err == nil && info.Size() == int64(f.UncompressedSize64) && info.Mode().Perm() == 0o755 {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	content, err := f.Open()
	if err != nil {
		return err
	}
	defer content.Close()
	file, err := renameio.NewPendingFile(name, renameio.WithStaticPermissions(0o755))
	if err != nil {
		return err
	}
	defer file.Cleanup()
	if _, err := file.ReadFrom(content); err != nil { // checks the archive's checksum
		return err
	}
	return file.CloseAtomicallyReplace()
}
