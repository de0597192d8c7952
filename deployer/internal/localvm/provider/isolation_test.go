package provider

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

func TestNamespacesEndWithTheirInit(t *testing.T) {
	t.Parallel()
	h := newTestHost(t)
	m, err := h.createMachine(t.Context(), localvm.Machine{
		Group: "web", SSHPort: DefaultSSHPort, AuthorizedKey: h.authorizedKey(), Isolation: localvm.IsolationNamespaces,
	}, anywhere())
	if err != nil {
		t.Fatal(err)
	}
	if m.Level != localvm.IsolationNamespaces || !m.Running {
		t.Fatalf("the VM is %+v", m)
	}
	client := h.dial(m)
	if got := strings.TrimSpace(h.output(client, "tr '\\0' ' ' </proc/1/cmdline; echo $DEPLOY_INIT_PID")); !strings.Contains(got, "local-init --dir "+h.machineDir(seat{group: "web"})) || !strings.HasSuffix(got, "1") {
		t.Errorf("process 1 is %q", got)
	}
	if caps := strings.Fields(h.output(client, "grep CapAmb /proc/1/status")); caps[1] != "0000000000000000" {
		t.Errorf("the init keeps capabilities %s", caps)
	}
	// A stranger to the VM: another session, no environment.
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Start(`setsid env -i sleep 1000`); err != nil {
		t.Fatal(err)
	}
	init := h.initProcess(m)
	var all []localvm.Process
	waitFor(t, "the process on the VM", func() bool {
		if all, err = localvm.Descendants(init.PID); err != nil {
			t.Fatal(err)
		}
		return len(all) > 0
	})
	h.service(m, "agent", `echo $$ >>$HOME/starts; exec sleep 1000`)
	h.starts(m, 1)
	h.kill(init)
	waitFor(t, "the end of everything", func() bool {
		for _, p := range all {
			if p.Alive() {
				return false
			}
		}
		return len(carrying(t, m.ID)) == 0
	})
	now, err := h.updateMachine(t.Context(), m.Machine)
	if err != nil || !now.Running || now.Level != localvm.IsolationNamespaces {
		t.Fatalf("started again: %+v, %v", now, err)
	}
	h.starts(m, 2)
	if err := h.deleteMachine(t.Context(), seat{group: "web"}, m.ID); err != nil {
		t.Error(err)
	}
	if left := carrying(t, m.ID); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

// Where the kernel lets us, auto is namespaces: the tests run on such a machine.
func TestAutoTakesNamespaces(t *testing.T) {
	t.Parallel()
	h := newTestHost(t)
	m := h.isolated(localvm.IsolationAuto)
	if m.Level != localvm.IsolationNamespaces {
		t.Errorf("the VM is %+v; if this machine forbids namespaces, allow them (user_namespaces(7)) or run the tests as root", m)
	}
	h.output(h.dial(m), "true")
}

// isolated is a running VM.
func (h *testHost) isolated(isolation string) machineState {
	h.t.Helper()
	m, err := h.createMachine(h.t.Context(), localvm.Machine{
		Group: "web", SSHPort: DefaultSSHPort, AuthorizedKey: h.authorizedKey(), Isolation: isolation,
	}, anywhere())
	if err != nil || !m.Running {
		h.t.Fatalf("the VM is %+v, %v", m, err)
	}
	return m
}

// HostPIDs finds what runs on a VM by the pids there.
func TestHostPIDs(t *testing.T) {
	t.Parallel()
	h := newTestHost(t)
	if pids := localvm.HostPIDs(h.dir); pids != nil {
		t.Errorf("without a VM: %v", pids)
	}
	m := h.isolated(localvm.IsolationNamespaces)
	// Without anything in its environment that tells whose it is.
	h.service(m, "agent", `env -i sh -c 'echo $$ >'$HOME/pid'; exec sleep 1234'; sleep 1000`)
	var inside int
	waitFor(t, "the process", func() bool {
		text, _ := os.ReadFile(filepath.Join(h.machineDir(seat{group: "web"}), "pid")) // it is there in a moment
		var err error
		inside, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err == nil
	})
	pids := localvm.HostPIDs(h.dir)["web/0"]
	if want := h.initProcess(m).PID; pids[1] != want {
		t.Errorf("its init is %d, want %d", pids[1], want)
	}
	waitFor(t, "sleep under its pid", func() bool {
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", localvm.HostPIDs(h.dir)["web/0"][inside]))
		return err == nil && string(command) == "sleep\x001234\x00"
	})
	if err := h.deleteMachine(t.Context(), seat{group: "web"}, m.ID); err != nil {
		t.Error(err)
	}
	h.machine("web", 1)
	if pids := localvm.HostPIDs(h.dir); pids != nil {
		t.Errorf("of a VM without namespaces: %v", pids)
	}
}

const envRefused = "LOCALVM_TEST_REFUSED"

// Where the kernel does not let us, auto is plain processes and a VM that must
// have namespaces is refused. Kernels and containers forbid the namespaces
// themselves, or to mount another /proc in them; a seccomp filter does either
// here.
func TestWhereNamespacesAreForbidden(t *testing.T) {
	if refused := os.Getenv(envRefused); refused != "" {
		refuse(t, refused)
		h := newTestHost(t)
		m := h.isolated(localvm.IsolationAuto)
		if m.Level != localvm.IsolationNone {
			t.Errorf("the VM is %+v", m)
		}
		h.output(h.dial(m), "true")
		m.Isolation, m.Index = localvm.IsolationNamespaces, 1
		if _, err := h.createMachine(t.Context(), m.Machine, anywhere()); !errors.Is(err, localvm.ErrNoNamespaces) {
			t.Errorf("the error is %v", err)
		}
		return
	}
	t.Parallel()
	for _, refused := range []string{"clone", "mount"} {
		t.Run(refused, func(t *testing.T) {
			t.Parallel()
			executable, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(executable, "-test.run=^TestWhereNamespacesAreForbidden$", "-test.v", "-test.timeout=2m")
			cmd.Env = append(os.Environ(), envRefused+"="+refused)
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "--- PASS: TestWhereNamespacesAreForbidden") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// refuse makes a system call fail with EPERM in this process and all that it
// starts: mount, or clone with a PID namespace.
func refuse(t *testing.T, call string) {
	t.Helper()
	// Offsets in struct seccomp_data, of a little-endian machine.
	const number, argument0 = 0, 16
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	answer := func(with uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: with} }
	filter := map[string][]unix.SockFilter{
		"mount": {
			load(number),
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_MOUNT, Jt: 0, Jf: 1},
			answer(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)),
			answer(unix.SECCOMP_RET_ALLOW),
		},
		"clone": {
			load(number),
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CLONE, Jt: 0, Jf: 3},
			load(argument0),
			{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.CLONE_NEWPID, Jt: 0, Jf: 1},
			answer(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)),
			answer(unix.SECCOMP_RET_ALLOW),
		},
	}[call]
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		t.Fatalf("cannot install the filter: %v", errno)
	}
}
