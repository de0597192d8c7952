package render

import (
	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/manifests"
)

// bound adds the firewall of the manifest, and the program that sets it, to an instance
// whose VM is its alone; nil is none.
func (out *Instance) bound(f *manifests.Firewall, g *manifests.Group, in manifests.Instance) {
	if f == nil || !in.System {
		return
	}
	out.Spec.Firewall = firewall(f, g, in)
	out.Spec.SystemPackages = append(out.Spec.SystemPackages, api.SystemPackage{Name: "nft", Program: "nft", Apt: []string{"nftables"}})
}

// firewall returns what reaches the VM of an instance: its group's public ports, and
// what the manifest allows.
func firewall(f *manifests.Firewall, g *manifests.Group, in manifests.Instance) *api.Firewall {
	out := &api.Firewall{SSH: []int{22}, Allow: f.Allow}
	if in.SSHPort != 0 && in.SSHPort != 22 { // behind a forwarder it is another one
		out.SSH = append(out.SSH, in.SSHPort)
	}
	for _, p := range g.Ports {
		if p.Public {
			out.Public = append(out.Public, api.PublicPort{Network: p.Network, Number: p.Number})
		}
	}
	return out
}
