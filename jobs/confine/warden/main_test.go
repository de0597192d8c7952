package warden

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestOpenLog: whatever the app makes of its log, who writes into it never waits
// for the app.
func TestOpenLog(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "err.log")
	for range 2 { // new, and there
		f, err := OpenLog(dir, path, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if f, err := OpenLog(dir, path, 0, 0); err == nil || !strings.Contains(err.Error(), "no longer a file") {
		t.Errorf("a FIFO: %v, %v", f, err)
	}
}
