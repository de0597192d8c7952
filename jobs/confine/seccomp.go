package confine

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// refused are system calls that no app needs: each is for who administers a
// machine or looks into other processes, or has been the way out of many a
// confinement. They fail with EPERM. Names that an architecture does not have are
// left out.
var refused = []string{
	// other file systems, namespaces and roots
	"mount", "umount", "umount2", "pivot_root", "chroot", "fsopen", "fsconfig", "fsmount", "fspick", "move_mount", "open_tree",
	"open_tree_attr", "mount_setattr", "unshare", "setns", "open_by_handle_at", "name_to_handle_at", "statmount", "listmount",
	// other processes
	"ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "process_madvise",
	// the kernel's own programs, keys and counters
	"bpf", "perf_event_open", "keyctl", "add_key", "request_key", "userfaultfd", "lookup_dcookie",
	// the machine
	"clock_settime", "clock_settime64", "clock_adjtime", "clock_adjtime64", "settimeofday", "adjtimex", "stime", "sethostname",
	"setdomainname", "reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "syslog", "init_module", "finit_module",
	"delete_module", "create_module", "kexec_load", "kexec_file_load", "iopl", "ioperm", "vhangup", "nfsservctl", "vm86", "vm86old",
	"modify_ldt", "lsm_set_self_attr",
}

// missing are system calls that fail as if the kernel did not have them, so that
// programs do without: io_uring, and clone3, whose flags a filter cannot see.
var missing = []string{"io_uring_setup", "io_uring_enter", "io_uring_register", "clone3"}

// families are the kinds of sockets that a process may have. Others, as those to
// the machine's hypervisor, are in no namespace.
var families = []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// refuse takes system calls from the calling thread and from what it executes. The
// thread must be locked, and have no_new_privs.
func refuse() error {
	known, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("cannot filter system calls: %w", err)
	}
	here := func(names []string) []string {
		var found []string
		for _, name := range names {
			if _, ok := known.SyscallNames[name]; ok {
				found = append(found, name)
			}
		}
		return found
	}
	deny := func(errno unix.Errno) seccomp.Action { return seccomp.ActionErrno | seccomp.Action(errno) }
	const newNamespace = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	other := seccomp.ArgumentConditions{}
	for _, family := range families {
		other = append(other, seccomp.Condition{Argument: 0, Operation: seccomp.NotEqual, Value: family})
	}
	filter := seccomp.Filter{Policy: seccomp.Policy{
		DefaultAction: seccomp.ActionAllow,
		Syscalls: []seccomp.SyscallGroup{
			{Action: deny(unix.EPERM), Names: here(refused), NamesWithCondtions: []seccomp.NameWithConditions{
				{Name: "clone", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.BitsSet, Value: newNamespace}}},
				// Input for who has the terminal.
				{Name: "ioctl", Conditions: equal32(1, unix.TIOCSTI)},
				{Name: "ioctl", Conditions: equal32(1, unix.TIOCLINUX)},
			}},
			{Action: deny(unix.ENOSYS), Names: here(missing)},
			{Action: deny(unix.EAFNOSUPPORT), NamesWithCondtions: []seccomp.NameWithConditions{{Name: "socket", Conditions: other}}},
			// Landlock's bounds on ports do not see it.
			{Action: deny(unix.EPROTONOSUPPORT), NamesWithCondtions: []seccomp.NameWithConditions{
				{Name: "socket", Conditions: equal32(2, unix.IPPROTO_MPTCP)},
			}},
		},
	}}
	// The library's filter allows whatever comes by another architecture's calls,
	// which most kernels take: those programs do not run at all.
	if err := onlyArchitecture(uint32(known.ID)); err != nil {
		return fmt.Errorf("cannot filter system calls: %w", err)
	}
	if err := seccomp.LoadFilter(filter); err != nil {
		return fmt.Errorf("cannot filter system calls: %w", err)
	}
	return nil
}

// equal32 matches an argument that is an int for the kernel, whatever a program
// puts into the other half of the register.
func equal32(argument uint32, value uint64) seccomp.ArgumentConditions {
	conditions := seccomp.ArgumentConditions{{Argument: argument, Operation: seccomp.BitsNotSet, Value: math.MaxUint32 &^ value}}
	for bit := uint64(1); bit <= value; bit <<= 1 {
		if value&bit != 0 {
			conditions = append(conditions, seccomp.Condition{Argument: argument, Operation: seccomp.BitsSet, Value: bit})
		}
	}
	return conditions
}

// onlyArchitecture kills whoever makes a system call of another architecture.
func onlyArchitecture(id uint32) error {
	const archOffset = 4 // of struct seccomp_data
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: archOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: id, SkipTrue: 1},
		bpf.RetConstant{Val: uint32(seccomp.ActionKillProcess)},
		bpf.RetConstant{Val: uint32(seccomp.ActionAllow)},
	})
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(program))
	for i, p := range program {
		filter[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	load := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&load))); errno != 0 {
		return errno
	}
	return nil
}
