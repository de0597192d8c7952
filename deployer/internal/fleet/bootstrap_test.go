package fleet

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/packages"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/ssh/sshtest"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// The host key of the first contact is what later contacts are held to, also when
// the agent could not be put on the VM and the run ended there.
func TestAHostKeyIsKeptWhenBootstrapFails(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), fleetTestLimit)
	defer cancel()
	host := sshtest.Start(t)
	unknown := host.Keys
	unknown.HostKey = ""
	f := fleetOf(t, host.Address, unknown)
	f.s.Report = func(session.Event) {}
	f.s.Manifest = &manifests.Manifest{}
	f.s.Store = state.Store{Dir: t.TempDir()}
	vm := f.s.State.VMs["web/0"]
	vm.AgentDir, vm.OS, vm.Arch = t.TempDir(), "plan9", "mips" // which it is not
	f.s.State = state.New("test")
	f.s.State.VMs = map[string]state.VM{"web/0": vm}
	if err := f.s.Save(); err != nil {
		t.Fatal(err)
	}

	err := f.bootstrapOne(ctx, "web/0", packages.Blob{Digest: strings.Repeat("0", 64)})
	if err == nil || !strings.Contains(err.Error(), "plan9") {
		t.Fatalf("the bootstrap was to fail for its platform: %v", err)
	}
	kept, err := f.s.Store.LoadState()
	if err != nil {
		t.Fatal(err)
	}
	if got := kept.VMs["web/0"].HostKey; got != host.HostKey {
		t.Errorf("the state on disk has the host key %q, not %q", got, host.HostKey)
	}

	// Another machine at the address is refused by the next run.
	f.Close()
	other := sshtest.Start(t)
	vm = kept.VMs["web/0"]
	vm.SSHPort = other.Address.Port
	kept.VMs["web/0"] = vm
	f.s.State = kept
	if err := f.bootstrapOne(ctx, "web/0", packages.Blob{Digest: strings.Repeat("0", 64)}); err == nil || !strings.Contains(err.Error(), "cannot trust the host") {
		t.Errorf("another host key than the kept one: %v", err)
	}
}

// A VM that boots gets the time that its template says.
func TestBootSecondsOfTheTemplateHold(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := fleetOf(t, listener.Addr(), sshtest.NewKeys(t))
	if err := listener.Close(); err != nil { // so that connections are refused
		t.Fatal(err)
	}
	f.setPatience(bootPatience)
	f.s.State.VMs["web/0"] = func(vm state.VM) state.VM { vm.BootSeconds = 1; return vm }(f.s.State.VMs["web/0"])
	if _, err := f.Connect(t.Context(), state.Own("web/0")); err == nil || !strings.Contains(err.Error(), "within 1s") {
		t.Errorf("a VM that has a second to boot: %v", err)
	}
}

// TestTheBusOfSlowMachinesIsAskedPatiently: one slow VM is enough, since it may be the
// one that the bus runs on; a VM that boots as usual changes nothing.
func TestTheBusOfSlowMachinesIsAskedPatiently(t *testing.T) {
	f := fleetOf(t, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, sshtest.NewKeys(t))
	vms := f.s.State.VMs
	for _, test := range []struct {
		boot int
		want time.Duration
	}{{0, busWait}, {300, busWait}, {900, 30 * time.Second}} {
		vms["web/1"] = state.VM{BootSeconds: test.boot}
		if got := patient(f.s, busWait); got != test.want {
			t.Errorf("boot within %d s: the bus has %s to answer, not %s", test.boot, got, test.want)
		}
	}
}

// A VM that is slow to boot is slow to answer: what it is asked waits longer.
func TestSlowMachinesAreAskedPatiently(t *testing.T) {
	for _, test := range []struct {
		boot int
		want time.Duration
	}{{0, 5 * time.Second}, {60, 5 * time.Second}, {900, 30 * time.Second}} {
		if got := AskTime(state.VM{BootSeconds: test.boot}); got != test.want {
			t.Errorf("boot within %d s: a question may take %s, not %s", test.boot, got, test.want)
		}
	}
}
