package provider

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/deployer/internal/localvm"
)

const envBridge = "LOCALVM_TEST_BRIDGE"

// TestBridge runs in a network namespace of its own: VMs on a bridge see each other by
// their addresses, one that ended comes back with its own, and nothing is left of them.
func TestBridge(t *testing.T) {
	if os.Getenv(envBridge) == "" {
		t.Parallel()
		executable, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(executable, "-test.run=^TestBridge$", "-test.v", "-test.timeout=3m")
		cmd.Env = append(os.Environ(), envBridge+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
		if os.Geteuid() != 0 {
			if err := localvm.CheckBridge(netip.MustParsePrefix("10.40.0.0/16")); err == nil || !strings.Contains(err.Error(), "that takes root") {
				t.Errorf("as an ordinary user: %v", err)
			}
			cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
		}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestBridge") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	cidr := netip.MustParsePrefix("10.41.0.0/24")
	names := func() string {
		all, err := net.Interfaces()
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, i := range all {
			out = append(out, i.Name)
		}
		return strings.Join(out, " ")
	}
	h, other := newTestHost(t), newTestHost(t)
	make := func(h *testHost, index int64, where place) (machineState, error) {
		return h.createMachine(t.Context(), localvm.Machine{
			Group: "web", Index: index, SSHPort: DefaultSSHPort, AuthorizedKey: h.authorizedKey(), Bridge: cidr.String(),
		}, where)
	}
	must := func(h *testHost, index int64) machineState {
		t.Helper()
		m, err := make(h, index, place{cidr: cidr})
		if err != nil || !m.Running || m.Level != localvm.IsolationNamespaces {
			t.Fatalf("the VM is %+v, %v", m, err)
		}
		return m
	}
	a, b, c := must(h, 0), must(h, 1), must(other, 0)
	if got := a.Address + " " + b.Address + " " + c.Address; got != "10.41.0.2 10.41.0.3 10.41.0.4" {
		t.Errorf("the addresses are %s", got)
	}
	if want := "lo deploy-0a290000 vm-0a290002 vm-0a290003 vm-0a290004"; names() != want {
		t.Errorf("this machine has the links %s, want %s", names(), want)
	}
	// From one VM to the other, which sees the first one's address.
	through, err := h.dial(a).Dial("tcp", b.SSHAddress())
	if err != nil {
		t.Fatal(err)
	}
	connection, channels, requests, err := ssh.NewClientConn(through, b.SSHAddress(), h.config(b, h.key))
	if err != nil {
		t.Fatal(err)
	}
	onB := ssh.NewClient(connection, channels, requests)
	if out := h.output(onB, "echo $SSH_CONNECTION"); !strings.HasPrefix(out, a.Address+" ") {
		t.Errorf("%s sees a connection of %s from %q", b.Address, a.Address, out)
	}
	if out := h.output(onB, "cat /proc/net/route | wc -l; grep -c : /proc/net/dev"); out != "3\n2" {
		t.Errorf("routes and links of a VM: %q", out)
	}
	if _, err := make(other, 1, place{cidr: cidr, static: netip.MustParseAddr(a.Address)}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("another deployment takes an address in use: %v", err)
	}
	for range 2 { // power cuts
		h.kill(h.initProcess(a))
		now, err := h.updateMachine(t.Context(), a.Machine)
		if err != nil || !now.Running || now.Address != a.Address {
			t.Fatalf("started again: %+v, %v", now, err)
		}
		h.output(h.dial(now), "true")
	}
	for text, want := range map[string]string{
		"10.41.0.0/24": "", "10.41.0.0/16": "by deploy-0a290000", "10.41.0.128/25": "by deploy-0a290000", "10.42.0.0/16": "",
	} {
		if err := localvm.CheckBridge(netip.MustParsePrefix(text)); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("a bridge of %s: %v", text, err)
		}
	}
	for _, m := range []struct {
		h *testHost
		machineState
	}{{h, a}, {other, c}, {h, b}} {
		if err := m.h.deleteMachine(t.Context(), seatOf(m.Machine), m.ID); err != nil {
			t.Error(err)
		}
	}
	if names() != "lo" {
		t.Errorf("this machine is left with the links %s", names())
	}
}
