package provider

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestCopyFolder(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "copy")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(from, "bin", "empty"), 0o755))
	must(os.WriteFile(filepath.Join(from, "bin", "run"), []byte("#!/bin/sh\n"), 0o755))
	must(os.WriteFile(filepath.Join(from, "bin", "secret"), []byte("x"), 0o400))
	must(os.Symlink("bin/run", filepath.Join(from, "link")))
	must(os.Chmod(filepath.Join(from, "bin"), 0o500))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(from, "bin"), 0o700) })
	must(copyFolder(t.Context(), from, to))
	for name, want := range map[string]os.FileMode{"bin": 0o700 | os.ModeDir, "bin/empty": 0o755 | os.ModeDir, "bin/run": 0o755, "bin/secret": 0o400} {
		if info, err := os.Lstat(filepath.Join(to, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
	if link, err := os.Readlink(filepath.Join(to, "link")); err != nil || link != "bin/run" {
		t.Errorf("link: %q, %v", link, err)
	}
	if data, err := os.ReadFile(filepath.Join(to, "link")); err != nil || string(data) != "#!/bin/sh\n" {
		t.Errorf("run: %q, %v", data, err)
	}

	other := func() string { return filepath.Join(t.TempDir(), "copy") }
	if err := copyFolder(t.Context(), filepath.Join(from, "none"), other()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such image: %v", err)
	}
	if err := copyFolder(t.Context(), filepath.Join(from, "bin", "run"), other()); err == nil || !strings.Contains(err.Error(), "not a folder") {
		t.Errorf("a file: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := copyFolder(ended, from, other()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	must(syscall.Mkfifo(filepath.Join(from, "pipe"), 0o600))
	if err := copyFolder(t.Context(), from, other()); err == nil || !strings.Contains(err.Error(), "pipe is neither") {
		t.Errorf("a pipe: %v", err)
	}
}
