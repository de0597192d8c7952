package confine

import (
	"fmt"
	"unsafe"

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
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// rule lets a system call fail with an error if its argument is like that.
type rule struct {
	name     string
	errno    unix.Errno
	argument uint32
	bits     uint32   // any of these is set; 0: not asked
	is       []uint32 // it is one of these
	not      []uint32 // it is none of these
}

// newNamespace are the flags of clone(2) that make one.
const newNamespace = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// rules are all of them.
func rules() []rule {
	all := []rule{
		{name: "clone", errno: unix.EPERM, argument: 0, bits: newNamespace},
		// Input for who has the terminal.
		{name: "ioctl", errno: unix.EPERM, argument: 1, is: []uint32{unix.TIOCSTI, unix.TIOCLINUX}},
		{name: "socket", errno: unix.EAFNOSUPPORT, argument: 0, not: families},
		// Landlock's bounds on ports do not see it.
		{name: "socket", errno: unix.EPROTONOSUPPORT, argument: 2, is: []uint32{unix.IPPROTO_MPTCP}},
	}
	for _, name := range refused {
		all = append(all, rule{name: name, errno: unix.EPERM})
	}
	for _, name := range missing {
		all = append(all, rule{name: name, errno: unix.ENOSYS})
	}
	return all
}

// program is a rule's part of the filter. All arguments that are looked at are 32
// bits wide for the kernel, which drops the rest of a register, as we do.
func (r rule) program(number uint32) []bpf.Instruction {
	const numberOffset, argumentsOffset = 0, 16 // of struct seccomp_data
	var checks []bpf.Instruction
	if r.bits != 0 || len(r.is)+len(r.not) > 0 {
		checks = append(checks, bpf.LoadAbsolute{Off: argumentsOffset + 8*r.argument, Size: 4})
	}
	if r.bits != 0 {
		checks = append(checks, bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: r.bits, SkipFalse: 1})
	}
	for i, value := range r.is {
		last := i == len(r.is)-1
		jump := bpf.JumpIf{Cond: bpf.JumpEqual, Val: value, SkipTrue: uint8(len(r.is) - 1 - i)}
		if last {
			jump.SkipFalse = 1
		}
		checks = append(checks, jump)
	}
	for i, value := range r.not {
		checks = append(checks, bpf.JumpIf{Cond: bpf.JumpEqual, Val: value, SkipTrue: uint8(len(r.not) - i)})
	}
	checks = append(checks, bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(r.errno)})
	return append([]bpf.Instruction{
		bpf.LoadAbsolute{Off: numberOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: number, SkipTrue: uint8(len(checks))},
	}, checks...)
}

// filter returns what refuse loads: programs of another architecture, which have other
// numbers, are ended.
func filter() ([]bpf.Instruction, error) {
	const architectureOffset = 4
	known, err := arch.GetInfo("")
	if err != nil {
		return nil, err
	}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: architectureOffset, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(known.ID), SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS},
	}
	if known.ID == arch.X86_64.ID {
		program = append(program,
			bpf.LoadAbsolute{Off: 0, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: uint32(arch.X32.SeccompMask), SkipFalse: 1},
			bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		)
	}
	for _, r := range rules() {
		if number, ok := known.SyscallNames[r.name]; ok {
			program = append(program, r.program(uint32(number))...)
		}
	}
	return append(program, bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}), nil
}

// refuse takes system calls from the calling thread and from what it executes. The
// thread must be locked, and have no_new_privs.
func refuse() error {
	program, err := filter()
	if err != nil {
		return fmt.Errorf("cannot filter system calls: %w", err)
	}
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("cannot filter system calls: %w", err)
	}
	instructions := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		instructions[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	load := unix.SockFprog{Len: uint16(len(instructions)), Filter: &instructions[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&load))); errno != 0 {
		return fmt.Errorf("cannot filter system calls: %w", errno)
	}
	return nil
}
