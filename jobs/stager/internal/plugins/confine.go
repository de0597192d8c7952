package plugins

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a plugin runs may be written by an app's owner (a Gemfile is a program),
// so the kernel holds its process to files that are no secret: the system's, and
// the app's own. Landlock needs no privilege, but Linux 5.19 for what is used
// here; where it is not there, the plugin runs as it is.

// landlockABI is the first version whose REFER lets files be moved between
// folders.
const landlockABI = 2

// readable are the system's folders; what is not there is left out.
var readable = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/proc", "/sys/devices/system/cpu", "/sys/fs/cgroup", "/nix/store"}

var devices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}

// The rights of Landlock's first version, and what came with later ones.
const (
	readRights = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	fileRights = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE
	allRights1 = unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1
)

// Confinement says how plugins are kept from what is not theirs on this machine:
// "landlock", or "" where the kernel does not have it.
func Confinement() string {
	if abi() >= landlockABI {
		return "landlock"
	}
	return ""
}

func abi() int {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(version)
}

// confine takes from the calling thread, and from what it executes, all files but
// the system's and the work folder, and the means to reach other processes. The
// thread must be locked and has to execute a program next.
func confine(work string, more ...string) error {
	version := abi()
	if version < landlockABI {
		return nil
	}
	rights := uint64(allRights1 | unix.LANDLOCK_ACCESS_FS_REFER)
	if version >= 3 {
		rights |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: rights}
	if version >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_SIGNAL | unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	}
	ruleset, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return fmt.Errorf("cannot confine the plugin: %w", errno)
	}
	defer unix.Close(int(ruleset))

	allow := func(path string, rights uint64) error {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot let the plugin use %s: %w", path, err)
		}
		defer unix.Close(fd)
		var stat unix.Stat_t
		if err := unix.Fstat(fd, &stat); err != nil {
			return err
		}
		if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
			rights &= fileRights | unix.LANDLOCK_ACCESS_FS_WRITE_FILE
		}
		rule := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(fd)}
		if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, ruleset, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
			return fmt.Errorf("cannot let the plugin use %s: %w", path, errno)
		}
		return nil
	}
	if err := allow(work, rights); err != nil {
		return err
	}
	for _, path := range append(more, readable...) {
		if err := allow(path, readRights); err != nil {
			return err
		}
	}
	for _, path := range devices {
		if err := allow(path, unix.LANDLOCK_ACCESS_FS_READ_FILE|unix.LANDLOCK_ACCESS_FS_WRITE_FILE); err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot confine the plugin: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0, 0); errno != 0 {
		return fmt.Errorf("cannot confine the plugin: %w", errno)
	}
	return nil
}

// execute confines this process and makes it another program. It returns on
// errors only.
func execute(cfg Config, program string, args ...string) error {
	runtime.LockOSThread() // confinement is a thread's; it is this one that executes
	more := []string{program}
	for _, path := range []string{cfg.RuntimePath, cfg.StaticServer, cfg.Tomcat} {
		if path != "" {
			more = append(more, path)
		}
	}
	if cfg.External != "" {
		real, err := filepath.EvalSymlinks(cfg.External)
		if err != nil {
			return err
		}
		more = append(more, filepath.Dir(real)) // and what lies beside it
	}
	if err := confine(filepath.Dir(cfg.DestDir), more...); err != nil {
		return err
	}
	err := unix.Exec(program, append([]string{program}, args...), os.Environ())
	return fmt.Errorf("cannot run %s: %w", program, err)
}
