package confine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
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
	if got := DiskUsage(dir); got < 101*leastFile || got > 200*leastFile {
		t.Errorf("100 empty files and their folder take %d bytes", got)
	}
}

// deep makes folders in each other, so deep that no path leads to the last one, which has
// a file.
func deep(t *testing.T, dir string, levels int) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range levels {
		if err := root.Mkdir("a folder", 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := root.OpenRoot("a folder")
		root.Close()
		if err != nil {
			t.Fatal(err)
		}
		root = next
	}
	defer root.Close()
	if err := root.WriteFile(".0", make([]byte, 1<<20), 0); err != nil {
		t.Fatal(err)
	}
}

// TestDeepFolders: what lies too deep for a path is not free, and is removed without as
// many open files as it is deep.
func TestDeepFolders(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "app")
	if err := os.MkdirAll(filepath.Join(dir, ".0"), 0o700); err != nil {
		t.Fatal(err)
	}
	deep(t, dir, 600)
	if got := DiskUsage(dir); got < uncounted {
		t.Errorf("a file below 600 folders: %d bytes", got)
	}
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	few := before
	few.Cur = 100
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	err := RemoveAll(dir)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
	if err := RemoveAll(dir); err != nil {
		t.Errorf("what is not there: %v", err)
	}
}

// TestRemoveAllFollowsNoLink: neither one in the place of the folder, nor one in it.
func TestRemoveAllFollowsNoLink(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	kept := filepath.Join(other, "kept")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	app := filepath.Join(dir, "app")
	for _, make := range []func() error{
		func() error { return os.Symlink(other, app) },
		func() error {
			if err := os.MkdirAll(filepath.Join(app, "a", "b"), 0o700); err != nil {
				return err
			}
			return os.Symlink(other, filepath.Join(app, "a", "b", "c"))
		},
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		if err := RemoveAll(app); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(kept); err != nil {
			t.Fatal(err)
		}
	}
}

// asUser says that the test's process is the ordinary user of TestClosedFolders.
const asUser = "CONFINE_TEST_CLOSED"

// TestClosedFolders: an ordinary user's DEA counts and removes what an app, the same user,
// has closed to itself.
func TestClosedFolders(t *testing.T) {
	if dir := os.Getenv(asUser); dir != "" {
		closed := filepath.Join(dir, "app", "closed")
		for _, make := range []func() error{
			func() error { return os.MkdirAll(filepath.Join(closed, "in"), 0o700) },
			func() error { return os.WriteFile(filepath.Join(closed, "in", "file"), make([]byte, 1<<20), 0o600) },
			func() error { return os.Chmod(filepath.Join(closed, "in"), 0) },
			func() error { return os.Chmod(closed, 0) },
		} {
			if err := make(); err != nil {
				t.Fatal(err)
			}
		}
		if got := DiskUsage(filepath.Join(dir, "app")); got < 1<<20 || got > 2<<20 {
			t.Errorf("a file of 1 MiB in a closed folder takes %d bytes", got)
		}
		if err := os.Chmod(closed, 0); err != nil {
			t.Fatal(err)
		}
		if err := RemoveAll(filepath.Join(dir, "app")); err != nil {
			t.Error(err)
		}
		return
	}
	dir, err := os.MkdirTemp("", "closed")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "test")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(program, data, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o777)
	}
	if err != nil {
		t.Fatal(err)
	}
	again := exec.Command(program, "-test.run=^TestClosedFolders$")
	again.Dir, again.Env = dir, append(os.Environ(), fmt.Sprintf("%s=%s", asUser, dir))
	if os.Getuid() == 0 {
		again.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if out, err := again.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
