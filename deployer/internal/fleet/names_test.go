package fleet

import (
	"net"
	"slices"
	"testing"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/ssh/sshtest"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// TestNamesAreForSystemsOfTheirOwn: a VM that is an instance's alone is to know all
// instances, at the addresses that they have now; a machine with names of its own none.
func TestNamesAreForSystemsOfTheirOwn(t *testing.T) {
	f := fleetOf(t, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, sshtest.NewKeys(t))
	vms := f.s.State.VMs
	vms["web/0"] = state.VM{ID: "vm-0", Address: "10.0.0.10", System: true}
	vms["db/0"] = state.VM{ID: "vm-1", Address: "10.0.0.11", System: true}
	vms["old/0"] = state.VM{ID: "vm-2", Address: "10.0.0.12"}
	vms["new/0"] = state.VM{ID: "vm-3"} // no address yet

	want := []api.Name{{Instance: "db/0", Address: "10.0.0.11"}, {Instance: "old/0", Address: "10.0.0.12"}, {Instance: "web/0", Address: "10.0.0.10"}}
	if got := namesOn(f.s, "web/0"); !slices.Equal(got, want) {
		t.Errorf("web/0 is to know %v, want %v", got, want)
	}
	if got := namesOn(f.s, "old/0"); got != nil {
		t.Errorf("a machine with names of its own is to know %v", got)
	}
	knows := func(id, digest string) bool { return KnowsNames(f.s, id, &api.Inventory{Names: digest}) }
	digest := api.NamesDigest("web/0", want)
	if !knows("web/0", digest) || knows("web/0", "") || knows("db/0", digest) || !knows("old/0", "") || knows("old/0", digest) {
		t.Error("KnowsNames takes other names for those that are wanted")
	}
	vms["db/0"] = state.VM{ID: "vm-4", Address: "10.0.0.99", System: true}
	if knows("web/0", digest) {
		t.Error("another address of an instance is no reason to tell it")
	}
}
