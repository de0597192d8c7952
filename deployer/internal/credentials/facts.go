package credentials

import (
	"maps"
	"slices"
	"strings"

	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/acme"
	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/manifests"
)

// Places are the addresses of VMs that will replace others, by instance, as far as
// the engine's plan tells. Nil once the VMs exist.
type Places map[string]Place

// Place is the address of a VM and the agent's folder on it.
type Place struct{ Address, AgentDir string }

// Facts returns what the manifest's expressions may refer to: the instances with
// their addresses, the values of secrets, the certificates.
func (c *Credentials) Facts(places Places) manifests.Facts {
	f := manifests.Facts{
		DeploymentID: c.s.State.DeploymentID,
		Earlier:      c.s.State.Earlier(),
		Secrets:      map[string]cty.Value{},
		Instances:    map[string][]manifests.Instance{},
		Leaving:      map[string][]manifests.Instance{},
		Certificates: map[manifests.CertificateKey]cty.Value{},
		Domains:      map[string]cty.Value{},
	}
	c.s.Update(func() { c.collect(&f, places) })
	return f
}

func (c *Credentials) collect(f *manifests.Facts, places Places) {
	for name, attributes := range c.s.Secrets.Values {
		f.Secrets[name] = stringObject(attributes)
	}
	for group, slots := range c.s.State.Groups {
		f.Instances[group] = []manifests.Instance{}
		for _, slot := range slots {
			id := api.InstanceID(group, slot.Index)
			vm, made := c.s.State.VMs[id]
			if !made && c.s.Exempt(id) != "" {
				continue // this session does not make it
			}
			if p, replaced := places[id]; replaced {
				vm.Address, vm.AgentDir = p.Address, p.AgentDir
			}
			f.Instances[group] = append(f.Instances[group], instance(group, slot, vm))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.s.State.Previous)) {
		group, index, _ := api.SplitInstance(id)
		f.Leaving[group] = append(f.Leaving[group], instance(group, state.Slot{Index: index}, c.s.State.Previous[id]))
	}
	if c.s.Secrets.ACME != nil {
		f.ACMEThumbprint, _ = acme.Thumbprint(c.s.Secrets.ACME.Key) // Ensure has read it
	}
	for name, issued := range c.s.Secrets.Domains {
		f.Domains[name] = stringObject(map[string]string{
			"ca": c.Trusted(), "certificate": issued.Certificate, "private_key": issued.PrivateKey,
		})
	}
	for key, issued := range c.s.Secrets.Certificates {
		if k, ok := parseKey(key); ok {
			f.Certificates[k] = stringObject(map[string]string{
				"ca": c.Trusted(), "certificate": issued.Certificate, "private_key": issued.PrivateKey,
			})
		}
	}
}

func instance(group string, slot state.Slot, vm state.VM) manifests.Instance {
	return manifests.Instance{
		Group: group, Index: slot.Index, AZ: slot.AZ, Address: vm.Address, AgentDir: vm.AgentDir, ImageDir: vm.ImageDir,
		System: vm.System, SSHPort: vm.SSHPort,
	}
}

func stringObject(m map[string]string) cty.Value {
	attributes := map[string]cty.Value{}
	for k, v := range m {
		attributes[k] = cty.StringVal(v)
	}
	return cty.ObjectVal(attributes)
}

// parseKey reads "group/index/job/name".
func parseKey(s string) (manifests.CertificateKey, bool) {
	parts := strings.Split(s, "/")
	if len(parts) != 4 {
		return manifests.CertificateKey{}, false
	}
	_, index, err := api.SplitInstance(parts[0] + "/" + parts[1])
	if err != nil {
		return manifests.CertificateKey{}, false
	}
	return manifests.CertificateKey{Group: parts[0], Index: index, Job: parts[2], Name: parts[3]}, true
}

func formatKey(k manifests.CertificateKey) string {
	return api.InstanceID(k.Group, k.Index) + "/" + k.Job + "/" + k.Name
}
