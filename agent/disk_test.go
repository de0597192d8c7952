package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDataLiesOnTheDisk(t *testing.T) {
	a := &Agent{config: Config{Dir: t.TempDir()}}
	disk, data := t.TempDir(), filepath.Join(a.config.Dir, "data")
	if err := os.Mkdir(data, 0o755); err != nil { // as at the agent's start
		t.Fatal(err)
	}
	for range 2 {
		if err := a.useDisk(disk); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(data, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(disk, "data", "file")); err != nil {
		t.Error(err)
	}
	if err := a.useDisk(""); err != nil {
		t.Error(err)
	}
	if gone := a.diskGone(); gone != "" {
		t.Errorf("%s is gone although it is there", gone)
	}
	if err := os.RemoveAll(disk); err != nil {
		t.Fatal(err)
	}
	if gone := a.diskGone(); gone != disk {
		t.Errorf("the disk is gone, and %q is said to be", gone)
	}
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}

	full := &Agent{config: Config{Dir: t.TempDir()}}
	kept := filepath.Join(full.config.Dir, "data", "job")
	if err := os.MkdirAll(kept, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := full.useDisk(disk); err == nil || !strings.Contains(err.Error(), "a time without it") {
		t.Errorf("data of a time without a disk: %v", err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
	if err := full.useDisk("/dev/null"); err == nil || !strings.Contains(err.Error(), "does not mount devices") {
		t.Errorf("a device: %v", err)
	}
	if err := full.useDisk(filepath.Join(disk, "missing")); err == nil {
		t.Error("a disk that is not there is no error")
	}
}
