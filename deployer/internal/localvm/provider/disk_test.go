package provider

import (
	"os"
	"path/filepath"
	"testing"
)

// A disk that is renamed keeps its data, and never takes the place of other data.
func TestMoveFolder(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "database-0"), filepath.Join(dir, "db-0")
	write := func(path string) {
		t.Helper()
		err := os.MkdirAll(path, 0o700)
		if err == nil {
			err = os.WriteFile(filepath.Join(path, "data"), []byte(path), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(from)
	if err := os.Mkdir(to, 0o700); err != nil { // empty: as a run by hand may have left it
		t.Fatal(err)
	}
	for range 2 { // again: a run was ended after it
		if err := moveFolder(from, to); err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(filepath.Join(to, "data")); err != nil || string(data) != from {
			t.Errorf("%q, %v", data, err)
		}
	}
	write(from)
	if err := moveFolder(from, to); err == nil {
		t.Error("took the place of other data")
	}
	if data, err := os.ReadFile(filepath.Join(to, "data")); err != nil || string(data) != from {
		t.Errorf("%q, %v", data, err)
	}
	if err := moveFolder(filepath.Join(dir, "none"), filepath.Join(dir, "neither")); err == nil {
		t.Error("moved nothing")
	}
}
