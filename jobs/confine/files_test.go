package confine

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// TestDiskUsage: files without content are not free.
func TestDiskUsage(t *testing.T) {
	dir := t.TempDir()
	for i := range 100 {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := DiskUsage(dir); got < 101*leastFile {
		t.Errorf("100 empty files and their folder take %d bytes", got)
	}
}
