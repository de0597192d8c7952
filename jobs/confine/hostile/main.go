// Command hostile tries what a hostile app or Gemfile would, and says of each
// attempt whether it did: a line "NAME denied REASON" or "NAME did". It belongs to
// the tests of the DEA and the stager and is never shipped. What it may find
// outside is told by its environment: SECRET (a file), VICTIM (a pid), FOREIGN (a
// TCP port that is not its own), VICTIM_PORT (another app's, "address:port", which
// answers HTTP), MACHINE (a service of the machine's, the same), ABSTRACT and SOCKET (sockets that listen).
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attempt is one thing that must not work; nil: it did.
type attempt struct {
	name string
	try  func() error
}

var errNotThere = errors.New("there is nothing")

func main() {
	// Each in a process of its own: some end it, some change it.
	if len(os.Args) > 1 && os.Args[1] == "-one" {
		for _, a := range attempts() {
			if a.name == os.Args[2] {
				runtime.LockOSThread()
				if err := a.try(); err != nil {
					fmt.Println("denied", strings.ReplaceAll(err.Error(), "\n", " "))
				} else {
					fmt.Println("did")
				}
			}
		}
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "-bounds" {
		exhaust(os.Args[2])
		return
	}
	for _, a := range attempts() {
		out, err := exec.Command("/proc/self/exe", "-one", a.name).Output()
		text := strings.TrimSpace(string(out))
		if text == "" {
			text = fmt.Sprintf("denied it was ended: %v", err)
		}
		fmt.Println("ATTEMPT", a.name, text)
	}
	fmt.Println("ATTEMPTS ARE OVER")
	if len(os.Args) > 1 && os.Args[1] == "-p" { // as an app, which serves
		l, err := net.Listen("tcp", ":"+os.Args[2])
		if err != nil {
			fmt.Println("cannot listen:", err)
			os.Exit(1)
		}
		for {
			conn, err := l.Accept()
			if err == nil {
				conn.Close()
			}
		}
	}
}

func attempts() []attempt {
	read := func(path string) func() error {
		return func() error {
			data, err := os.ReadFile(path)
			if err == nil && len(data) == 0 {
				return errNotThere
			}
			return err
		}
	}
	write := func(path, text string) func() error {
		return func() error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteString(text)
			return err
		}
	}
	call := func(number uintptr, args ...uintptr) func() error {
		return func() error {
			var a [6]uintptr
			copy(a[:], args)
			if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
				return errno
			}
			return nil
		}
	}
	socket := func(family, kind, protocol int) func() error {
		return func() error { _, err := unix.Socket(family, kind, protocol); return err }
	}
	dial := func(network, address string) func() error {
		return func() error {
			conn, err := net.DialTimeout(network, address, 2*time.Second)
			if err == nil {
				conn.Close()
			}
			return err
		}
	}
	// A relay may take a connection before it looks whom it is for, so that only an
	// answer tells.
	ask := func(address string) func() error {
		return func() error {
			conn, err := net.DialTimeout("tcp", address, 2*time.Second)
			if err != nil {
				return err
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", address); err != nil {
				return err
			}
			_, err = conn.Read(make([]byte, 1))
			return err
		}
	}
	environs := func() error {
		files, err := filepath.Glob("/proc/[0-9]*/environ")
		if err != nil {
			return err
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err == nil && strings.Contains(string(data), "OF_ANOTHER=") && file != fmt.Sprintf("/proc/%d/environ", os.Getpid()) {
				return nil
			}
		}
		return errNotThere
	}
	victim, err := strconv.Atoi(os.Getenv("VICTIM"))
	if err != nil {
		victim = 1
	}
	name := []byte("hostile\x00")
	path := func(s string) uintptr { b := append([]byte(s), 0); return uintptr(unsafe.Pointer(&b[0])) }
	return []attempt{
		{"dial-victim", ask(os.Getenv("VICTIM_PORT"))},
		{"dial-machine", dial("tcp", os.Getenv("MACHINE"))},
		{"read-secret", read(os.Getenv("SECRET"))},
		{"read-shadow", read("/etc/shadow")},
		{"read-host-key", read("/etc/ssh/ssh_host_ed25519_key")},
		{"read-machine-id", read("/etc/machine-id")},
		{"read-kcore", read("/proc/kcore")},
		{"read-kernel-keys", read("/proc/keys")},
		{"list-root-home", func() error { _, err := os.ReadDir("/root"); return err }},
		{"list-run", func() error {
			found, err := os.ReadDir("/run")
			if err == nil && len(found) == 0 {
				return errNotThere
			}
			return err
		}},
		{"write-usr", func() error { return os.WriteFile("/usr/bin/hostile", []byte("x"), 0o755) }},
		{"write-etc", func() error { return os.WriteFile("/etc/hostile", []byte("x"), 0o644) }},
		{"link-system-file", func() error { return os.Link("/usr/bin/env", "hostile.link") }},
		{"environment-of-others", environs},
		{"environment-of-parent", func() error { return read("/proc/1/environ")() }},
		{"root-of-parent", func() error { _, err := os.ReadDir("/proc/1/root/"); return err }},
		{"memory-of-victim", read(fmt.Sprintf("/proc/%d/maps", victim))},
		{"signal-victim", func() error { return syscall.Kill(victim, 0) }},
		{"trace-victim", func() error { return syscall.PtraceAttach(victim) }},
		{"trace-own-child", func() error {
			cmd := exec.Command("/bin/true")
			cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
			return cmd.Run()
		}},
		{"core-pattern", write("/proc/sys/kernel/core_pattern", "|/tmp/x")},
		{"sysrq", func() error {
			if info, err := os.Stat("/proc/sysrq-trigger"); err != nil || info.Mode()&os.ModeDevice != 0 {
				return errNotThere // hidden
			}
			return write("/proc/sysrq-trigger", "h")()
		}},
		{"cgroup", func() error { return os.Mkdir("/sys/fs/cgroup/memory/hostile", 0o755) }},
		{"mknod-block", func() error { return unix.Mknod("disk", unix.S_IFBLK|0o600, int(unix.Mkdev(254, 0))) }},
		{"open-disk", func() error { _, err := os.Open("/dev/vda"); return err }},
		{"open-memory", func() error { _, err := os.Open("/dev/mem"); return err }},
		{"open-kernel-log", func() error { _, err := os.Open("/dev/kmsg"); return err }},
		{"loop-device", func() error { _, err := os.Open("/dev/loop-control"); return err }},
		{"mount", func() error { return unix.Mount("tmpfs", "tmp", "tmpfs", 0, "") }},
		{"new-mount-api", call(unix.SYS_FSOPEN, path("tmpfs"), 0)},
		{"chroot", func() error { return unix.Chroot(".") }},
		{"unshare-user", call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER)},
		{"unshare-net", call(unix.SYS_UNSHARE, unix.CLONE_NEWNET)},
		{"clone-user", func() error {
			cmd := exec.Command("/bin/true")
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
			return cmd.Run()
		}},
		{"enter-namespace", func() error {
			f, err := os.Open("/proc/1/ns/mnt")
			if err != nil {
				return err
			}
			return unix.Setns(int(f.Fd()), 0)
		}},
		{"set-clock", func() error {
			var now unix.Timespec
			if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
				return err
			}
			return unix.ClockSettime(unix.CLOCK_REALTIME, &now)
		}},
		{"adjust-clock", func() error { _, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_TICK, Tick: 10000}); return err }},
		{"set-hostname", func() error { return unix.Sethostname(name[:7]) }},
		{"reboot", call(unix.SYS_REBOOT, unix.LINUX_REBOOT_MAGIC1, unix.LINUX_REBOOT_MAGIC2, unix.LINUX_REBOOT_CMD_CAD_ON)},
		{"load-module", call(unix.SYS_INIT_MODULE, uintptr(unsafe.Pointer(&name[0])), 8, path(""))},
		{"bpf", call(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&[128]byte{0: 1, 4: 4, 8: 4, 12: 1})), 72)},
		{"perf", func() error {
			_, err := unix.PerfEventOpen(&unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: unix.PERF_ATTR_SIZE_VER0, Bits: unix.PerfBitExcludeKernel}, 0, -1, -1, 0)
			return err
		}},
		{"keyring", func() error { _, err := unix.AddKey("user", "hostile", name, unix.KEY_SPEC_USER_KEYRING); return err }},
		{"userfaultfd", call(unix.SYS_USERFAULTFD, 1)},
		{"io-uring", call(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&[120]byte{})))},
		{"become-root", func() error {
			if os.Getuid() == 0 {
				return errors.New("it is root, of which nothing is left")
			}
			return unix.Setresuid(0, 0, 0)
		}},
		{"setuid-program", func() error {
			out, err := exec.Command("/bin/su", "-c", "id -u", "root").Output()
			if err == nil && os.Getuid() != 0 && strings.TrimSpace(string(out)) == "0" {
				return nil
			}
			return errors.New("no other user")
		}},
		{"take-capabilities", func() error {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			all := [2]unix.CapUserData{{Effective: 1 << unix.CAP_SYS_ADMIN, Permitted: 1 << unix.CAP_SYS_ADMIN}}
			return unix.Capset(&header, &all[0])
		}},
		{"raw-socket", socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)},
		{"packet-socket", socket(unix.AF_PACKET, unix.SOCK_RAW, 0)},
		{"hypervisor-socket", socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)},
		{"multipath-tcp", socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)},
		{"listen-foreign-port", func() error {
			l, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("FOREIGN"))
			if err == nil {
				l.Close()
			}
			return err
		}},
		{"abstract-socket-of-others", dial("unix", "@"+os.Getenv("ABSTRACT"))},
		{"socket-of-others", dial("unix", os.Getenv("SOCKET"))},
		{"lock-ports", func() error {
			f, err := os.OpenFile("/run/deploy-dea-ports/20000", os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				return err
			}
			return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		}},
	}
}

// exhaust takes as much of something as it gets, and says how much that was; it
// stops well before a machine without bounds is harmed.
func exhaust(what string) {
	switch what {
	case "processes":
		started := 0
		for range 3000 {
			if exec.Command("/bin/sleep", "20").Start() != nil {
				break
			}
			started++
		}
		fmt.Println("BOUND processes", started)
	case "memory":
		var all [][]byte
		for i := range 4096 {
			block := make([]byte, 1<<20)
			for at := 0; at < len(block); at += 4096 {
				block[at] = 1
			}
			all = append(all, block)
			if i%64 == 63 {
				fmt.Println("BOUND memory", len(all))
			}
		}
	case "disk":
		// A file after the other: a single one has a bound of its own.
		signal.Ignore(syscall.SIGXFSZ)
		block := make([]byte, 1<<20)
		for n := range 4096 {
			if err := os.WriteFile(fmt.Sprintf("fill%d", n), block, 0o600); err != nil {
				fmt.Println("BOUND disk", n, err)
				break
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(20 * time.Second)
	case "inodes":
		for n := range 1 << 20 {
			if err := os.WriteFile(fmt.Sprintf("empty%d", n), nil, 0o600); err != nil {
				break
			}
		}
		time.Sleep(20 * time.Second)
	case "output":
		block := []byte(strings.Repeat("flood\n", 100_000))
		for range 1000 { // 600 MB
			if _, err := os.Stdout.Write(block); err != nil {
				return
			}
		}
	case "hidden":
		cmd := exec.Command("/bin/sleep", os.Args[3])
		cmd.Env, cmd.SysProcAttr = []string{}, &syscall.SysProcAttr{Setsid: true}
		fmt.Println("BOUND hidden", cmd.Start())
	}
}
