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

// Home is the place where a process that has a file system of its own sees its folder.
const Home = "/home/vcap"

// SystemPaths returns what of the machine a confined process sees, read only, where it
// is there: programs and libraries, and of /etc what these read. passwd and group
// are not among it: with namespaces, a process has its own.
func SystemPaths() []string {
	paths := []string{
		"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/opt", "/nix/store", "/var/lib/gems",
		// resolv.conf leads there on some systems.
		"/run/systemd/resolve/resolv.conf", "/run/systemd/resolve/stub-resolv.conf", "/run/resolvconf/resolv.conf", "/run/NetworkManager/resolv.conf",
	}
	for _, name := range []string{
		// names and addresses
		"gai.conf", "host.conf", "hosts", "hostname", "nsswitch.conf", "networks", "protocols", "resolv.conf", "rpc", "services",
		// certificates of authorities
		"ca-certificates", "ca-certificates.conf", "crypto-policies", "pki/ca-trust", "pki/java", "pki/tls/cert.pem", "pki/tls/certs", "pki/tls/openssl.cnf",
		"ssl/cert.pem", "ssl/certs", "ssl/java", "ssl/openssl.cnf",
		// the linker, and what a distribution keeps there
		"alternatives", "debian_version", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "os-release", "redhat-release",
		// times, languages, types of files
		"fonts", "localtime", "locale.alias", "locale.conf", "magic", "magic.mime", "mime.types", "timezone",
		// shells and terminals
		"bash.bashrc", "inputrc", "profile", "shells", "terminfo",
		// runtimes
		"java", "maven", "perl", "python3", "ruby",
	} {
		paths = append(paths, "/etc/"+name)
	}
	for _, pattern := range []string{"/etc/java-*", "/etc/python3.*"} {
		found, err := filepath.Glob(pattern)
		if err == nil {
			paths = append(paths, found...)
		}
	}
	return paths
}

// devices are the only ones that a confined process sees.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

// hidden are files of /proc that tell of the whole machine more than a process
// needs, or that are its switches. They are empty.
var hidden = []string{"kcore", "keys", "kmsg", "sched_debug", "sysrq-trigger", "timer_list"}

// ownRoot puts a file system together at root, in a mount namespace of our own,
// and makes it ours: the instance's folder and what is visible of the machine,
// read only. Everything else, other tasks' folders, the platform's files and the
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
	for seen, path := range spec.Mounts {
		if err := show(path, at(seen)); err != nil {
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
	for _, name := range hidden {
		err := unix.Mount(at("/dev/null"), at("/proc/"+name), "", unix.MS_BIND, "")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot hide /proc/%s: %w", name, err)
		}
	}
	if err := ownUsers(at("/etc"), spec); err != nil {
		return err
	}
	// Temporary files count as the task's own.
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

// ownUsers writes the users that a process knows: itself and root.
func ownUsers(etc string, spec Spec) error {
	uid, gid := spec.UID, spec.GID
	if uid == 0 {
		uid, gid = os.Geteuid(), os.Getegid()
	}
	if err := os.MkdirAll(etc, 0o755); err != nil {
		return err
	}
	users, groups := "root:x:0:0:root:/root:/usr/sbin/nologin\n", "root:x:0:\n"
	if uid != 0 {
		users += fmt.Sprintf("vcap:x:%d:%d::%s:/bin/bash\n", uid, gid, Home)
	}
	if gid != 0 {
		groups += fmt.Sprintf("vcap:x:%d:\n", gid)
	}
	return errors.Join(os.WriteFile(filepath.Join(etc, "passwd"), []byte(users), 0o644), os.WriteFile(filepath.Join(etc, "group"), []byte(groups), 0o644))
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
	readOnly := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
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
