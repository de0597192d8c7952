package deployer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// protected refuses a plan that would delete a VM of a group with
// prevent_destroy. As in Terraform, a group that is taken out of the manifest
// takes its protection with it.
func (r *run) protected(p *plan.Plan) error {
	var refused []string
	for _, c := range p.Instances {
		g := r.manifest.Group(c.Group)
		deleted := c.Action == plan.Delete || c.Action.NewVM() ||
			slices.Contains(r.enginePlan[c.Instance], terraform.Delete)
		if g != nil && g.PreventDestroy && deleted {
			refused = append(refused, c.Instance)
		}
	}
	if len(refused) == 0 {
		return nil
	}
	return fmt.Errorf("cannot delete the VMs of %s: their group says prevent_destroy; nothing was touched; remove prevent_destroy from the manifest if they shall go, or undo the change that asks for it", strings.Join(refused, ", "))
}
