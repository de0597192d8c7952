package confine

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// securebits (linux/securebits.h): uid 0 is no special user any more, for good.
const noRootLocked = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<6 | 1<<7

// Flags are clone(2)'s for the process that calls Exec with Namespaces.
const Flags = unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// Outer makes a new process the first of a PID namespace, and for an
// ordinary user of a user namespace, which that needs. The user stays the same
// in it. The parent of a confined process is such a one.
func Outer(a *syscall.SysProcAttr) {
	a.Cloneflags = unix.CLONE_NEWPID
	if os.Geteuid() == 0 {
		return
	}
	a.Cloneflags |= unix.CLONE_NEWUSER
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	// To mount, to make networks, and to give up what it takes to.
	a.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP, unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE}
}

// Exec confines this process as spec says and makes it the program that spec
// names; root is a folder in which the task's file system is put together. It is
// called in a process of its own, which Flags has started, between fork and exec
// as it were. It returns only when it fails; this process is of no use then.
func Exec(spec Spec, root string) error {
	runtime.LockOSThread() // privileges are a thread's; the one that calls exec stays
	if len(spec.Command) == 0 {
		return fmt.Errorf("its command is empty")
	}
	for _, group := range spec.Cgroups {
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte("0\n"), 0); err != nil {
			return fmt.Errorf("cannot join a control group: %w", err)
		}
	}
	if spec.Namespaces {
		if err := ownRoot(root, spec); err != nil {
			return err
		}
	}
	if err := unix.Chdir(spec.Home); err != nil {
		return fmt.Errorf("its folder %s: %w", spec.Home, err)
	}
	// While we may still open what another user may not.
	if err := restrict(spec); err != nil {
		return err
	}
	if err := drop(spec); err != nil {
		return err
	}
	if err := limit(spec); err != nil {
		return err
	}
	if err := refuse(); err != nil {
		return err
	}
	unix.Umask(cmp.Or(spec.Umask, 0o077))
	err := syscall.Exec(spec.Command[0], spec.Command, spec.Env)
	return fmt.Errorf("%s: %w", spec.Command[0], err)
}

// drop gives up every privilege, in the order in which each step still may.
func drop(spec Spec) error {
	if spec.Namespaces {
		if err := unix.Prctl(unix.PR_SET_SECUREBITS, noRootLocked, 0, 0, 0); err != nil {
			return fmt.Errorf("cannot give up root's privileges: %w", err)
		}
		for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
			// EINVAL: this kernel does not know it.
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && err != unix.EINVAL {
				return fmt.Errorf("cannot give up capability %d: %w", c, err)
			}
		}
	}
	if spec.UID != 0 {
		// For this thread only: it is the one that goes on.
		for _, call := range []struct {
			number, a, b, c uintptr
		}{
			{unix.SYS_SETGROUPS, 0, 0, 0},
			{unix.SYS_SETRESGID, uintptr(spec.GID), uintptr(spec.GID), uintptr(spec.GID)},
			{unix.SYS_SETRESUID, uintptr(spec.UID), uintptr(spec.UID), uintptr(spec.UID)},
		} {
			if _, _, errno := unix.RawSyscall(call.number, call.a, call.b, call.c); errno != 0 {
				return fmt.Errorf("cannot become user %d: %w", spec.UID, errno)
			}
		}
		// A change of the user has cleared it.
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
			return fmt.Errorf("cannot end with the warden: %w", err)
		}
	}
	if spec.Namespaces {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
			return fmt.Errorf("cannot give up capabilities: %w", err)
		}
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			return fmt.Errorf("cannot give up capabilities: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot refuse new privileges: %w", err)
	}
	return nil
}

// maxFile is the size of a file that no app may exceed, whatever its quota.
const maxFile = 1 << 30

// limit sets the resource limits. There is none on address space, other than in
// the original: today's runtimes reserve far more of it than they use.
func limit(spec Spec) error {
	processes := uint64(spec.Limits.Processes)
	if processes > 0 && !spec.Namespaces {
		// The limit counts all of the user's, who is also others' here.
		processes += uint64(threadsOf(os.Getuid()))
	}
	for _, l := range []struct {
		name     string
		resource int
		value    uint64
	}{
		{"open files", unix.RLIMIT_NOFILE, uint64(spec.Limits.OpenFiles)},
		{"processes", unix.RLIMIT_NPROC, processes},
		{"a file's size", unix.RLIMIT_FSIZE, min(2*uint64(spec.Limits.DiskBytes), maxFile)},
	} {
		if l.value == 0 {
			continue
		}
		var own unix.Rlimit
		if err := unix.Getrlimit(l.resource, &own); err != nil {
			return fmt.Errorf("its limit on %s: %w", l.name, err)
		}
		value := min(l.value, own.Max) // more than the machine gives nobody can have
		if err := syscall.Setrlimit(l.resource, &syscall.Rlimit{Cur: value, Max: value}); err != nil {
			return fmt.Errorf("its limit on %s (%d): %w", l.name, value, err)
		}
	}
	// A core dump would be a copy of the app's secrets, and large.
	if err := syscall.Setrlimit(unix.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("its limit on core dumps: %w", err)
	}
	return nil
}

// threadsOf counts the threads of a user on this machine.
func threadsOf(uid int) int {
	files, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return 0
	}
	sum := 0
	for _, file := range files {
		status, err := os.ReadFile(file)
		if err != nil {
			continue // it has just ended
		}
		field := func(name string) int {
			_, after, _ := strings.Cut(string(status), "\n"+name+":")
			fields := strings.Fields(after)
			if len(fields) == 0 {
				return -1
			}
			n, err := strconv.Atoi(fields[0])
			if err != nil {
				return -1
			}
			return n
		}
		if field("Uid") == uid {
			sum += max(0, field("Threads"))
		}
	}
	return sum
}
