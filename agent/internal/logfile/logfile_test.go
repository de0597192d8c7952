package logfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRotationKeepsOnlySoMuch(t *testing.T) {
	l := Open(filepath.Join(t.TempDir(), "p.log"), 10, 2)
	defer l.Close()
	for i := range 10 {
		fmt.Fprintf(l, "line %03d\n", i)
	}
	files, err := filepath.Glob(l.path + "*")
	if err != nil || len(files) != 3 {
		t.Errorf("kept %v, want the log and 2 rotated ones: %v", files, err)
	}
}

func TestLogTellsWhatItLost(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(folder, nil, 0o600); err != nil { // a file where the folder should be
		t.Fatal(err)
	}
	l := Open(filepath.Join(folder, "p.log"), 1000, 1)
	defer l.Close()
	fmt.Fprint(l, "12345\n")
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(l, "back\n")
	data, err := os.ReadFile(l.path)
	if err != nil || !strings.Contains(string(data), "6 bytes") || !strings.HasSuffix(string(data), "back\n") {
		t.Errorf("logged %q: %v", data, err)
	}
}
