package deployer

import "github.com/clusterworks/deploy/deployer/internal/localvm"

// tellRepairs says which of their own files local VMs have put back since an apply
// last said it.
func (x *deployment) tellRepairs() []localvm.Repair {
	repairs := localvm.Repairs(x.Store.VMs())
	for _, r := range repairs {
		x.Event(Event{Phase: PhaseLoad, Message: r.String()})
	}
	return repairs
}
