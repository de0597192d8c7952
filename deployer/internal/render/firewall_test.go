package render

import (
	"reflect"
	"slices"
	"testing"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/manifests"
)

// TestFirewallIsForSystemsOfTheirOwn: a VM that is an instance's alone gets the firewall
// that the manifest asks for, with its group's public ports; another machine none, and
// without the block nobody.
func TestFirewallIsForSystemsOfTheirOwn(t *testing.T) {
	m, r := newWorld().renderer(t)
	g := m.Group("web")
	g.Ports = []manifests.Port{{Network: "tcp", Number: 4222}, {Network: "tcp", Number: 8080, Public: true}}
	in := manifests.Instance{Group: "web", Address: "127.0.0.2", AgentDir: "/vm0/agent", System: true, SSHPort: 2201}
	render := func() *Instance {
		t.Helper()
		out, diags := r.Instance(g, in)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		return out
	}
	nft := func(p api.SystemPackage) bool { return p.Program == "nft" }

	without := render()
	if without.Spec.Firewall != nil || slices.ContainsFunc(without.Spec.SystemPackages, nft) {
		t.Errorf("unasked, the firewall is %+v", without.Spec.Firewall)
	}
	m.Deployment.Firewall = &manifests.Firewall{Allow: []string{"10.0.0.0/8"}}
	with := render()
	want := &api.Firewall{SSH: []int{22, 2201}, Allow: []string{"10.0.0.0/8"}, Public: []api.PublicPort{{Network: "tcp", Number: 8080}}}
	if !reflect.DeepEqual(with.Spec.Firewall, want) || !slices.ContainsFunc(with.Spec.SystemPackages, nft) {
		t.Errorf("the firewall is %+v, want %+v; packages %+v", with.Spec.Firewall, want, with.Spec.SystemPackages)
	}
	if with.Spec.Generation == without.Spec.Generation {
		t.Error("another firewall is the same generation: it would never be applied")
	}
	if !reflect.DeepEqual(with.Spec.Jobs, without.Spec.Jobs) {
		t.Error("a firewall changes what jobs are made of, so that it restarts them")
	}
	in.System = false
	if other := render(); other.Spec.Firewall != nil {
		t.Errorf("a machine that others use, too, gets the firewall %+v", other.Spec.Firewall)
	}
}
