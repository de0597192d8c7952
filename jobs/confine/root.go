package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Home is where an app that has a file system of its own sees its folder.
const Home = "/home/vcap"

// SystemPaths are what of the machine an app sees, read only, where it is there.
func SystemPaths() []string {
	return []string{
		"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/etc", "/opt",
		"/run/systemd/resolve", // resolv.conf leads there on some systems
	}
}

// devices are the only ones that an app sees.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// ownRoot puts a file system together at root, in a mount namespace of our own,
// and makes it ours: the instance's folder and what is visible of the machine,
// read only. Everything else, other apps' folders, the DEA's files and the
// machine's sockets among it, is not there.
func ownRoot(root string, spec Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot have mounts of its own: %w", err)
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m,nr_inodes=1024"); err != nil {
		return fmt.Errorf("cannot mount its root: %w", err)
	}
	at := func(path string) string { return filepath.Join(root, path) }
	for _, path := range spec.Visible {
		if err := show(path, at(path)); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/proc", "/dev", "/tmp", "/var", "/dev/shm", Home} {
		if err := os.MkdirAll(at(dir), 0o755); err != nil {
			return err
		}
	}
	for _, device := range devices {
		target := at("/dev/" + device)
		if err := os.WriteFile(target, nil, 0o666); err != nil {
			return err
		}
		if err := unix.Mount("/dev/"+device, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cannot show /dev/%s: %w", device, err)
		}
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"} {
		if err := os.Symlink(target, at("/dev/"+name)); err != nil {
			return err
		}
	}
	shm := fmt.Sprintf("mode=1777,size=%d", max(spec.Limits.MemoryBytes, 1<<20))
	if err := unix.Mount("tmpfs", at("/dev/shm"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, shm); err != nil {
		return fmt.Errorf("cannot mount /dev/shm: %w", err)
	}
	if err := unix.Mount("proc", at("/proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("cannot mount /proc: %w", err)
	}
	// Temporary files count as the app's own.
	for source, target := range map[string]string{spec.Dir: Home, filepath.Join(spec.Dir, "tmp"): "/tmp"} {
		if err := unix.Mount(source, at(target), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cannot show %s: %w", source, err)
		}
		if err := unix.MountSetattr(unix.AT_FDCWD, at(target), 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}); err != nil {
			return fmt.Errorf("cannot show %s without privileges: %w", source, err)
		}
	}
	if err := os.Symlink("/tmp", at("/var/tmp")); err != nil {
		return err
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	// The old root lies on top of the new one after that, and is taken away.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("cannot take its root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("cannot leave the machine's root: %w", err)
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("cannot make its root read only: %w", err)
	}
	return unix.Chdir("/")
}

// show makes a path of the machine visible, read only. A link stays one.
func show(path, target string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot show %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		link, err := os.Readlink(path)
		if err != nil {
			return fmt.Errorf("cannot show %s: %w", path, err)
		}
		return os.Symlink(link, target)
	case info.IsDir():
		err = os.MkdirAll(target, 0o755)
	default:
		err = os.WriteFile(target, nil, 0o644)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(path, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("cannot show %s: %w", path, err)
	}
	readOnly := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID}
	if err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, readOnly); err != nil {
		return fmt.Errorf("cannot show %s read only: %w", path, err)
	}
	return nil
}

// Covers says whether a path lies below one of those that are visible.
func Covers(visible []string, path string) bool {
	for _, v := range visible {
		if path == v || strings.HasPrefix(path, strings.TrimSuffix(v, "/")+"/") {
			return true
		}
	}
	return false
}
