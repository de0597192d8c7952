package infra

import (
	"fmt"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/deployer/internal/state"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// resource returns what people call a resource that the engine changes: the VM or the
// disk of an instance, as everywhere else. What belongs to no instance, and what is
// beside the VM of one, keeps its own name.
func resource(c terraform.Change, vm state.VMID, wanted map[state.VMID]terraform.InstanceInput, all []terraform.Change) string {
	if c.Name == terraform.DiskResource && c.Key != "" {
		return "disk of " + c.Key
	}
	if _, ours := wanted[vm]; !ours && c.Action != terraform.Delete || c.Key == "" || !strings.Contains(c.Key, "/") || strings.Contains(c.Key, ":") {
		return terraform.Called(c.Address)
	}
	more := slices.ContainsFunc(all, func(x terraform.Change) bool {
		return x.Key == c.Key && x.Address != c.Address && x.Name != terraform.DiskResource
	})
	if more { // the template makes several things for a VM
		return fmt.Sprintf("VM %s: %s.%s", vm, c.Type, c.Name)
	}
	return "VM " + vm.String()
}
