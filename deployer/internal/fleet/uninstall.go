package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/bootstrap"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// uninstallLimit bounds removing the agent from one machine, whose processes get
// time to end.
const uninstallLimit = 3 * time.Minute

// Uninstall removes the agent, and all that it runs, from those of the VMs that
// outlive their instance. A machine that cannot be reached is an error if must is
// set; else it is reported and left as it is, since it may be gone for good.
func (f *Fleet) Uninstall(ctx context.Context, ids []state.VMID, must bool) error {
	var kept []state.VMID
	for _, id := range ids {
		if f.s.VM(id).Keep {
			kept = append(kept, id)
		}
	}
	return f.s.Each(ctx, len(kept), func(ctx context.Context, i int) error {
		id := kept[i]
		vm := f.s.VM(id)
		f.s.Event(session.Event{Phase: session.PhaseVMs, Instance: id.String(), Step: "uninstall"})
		e := session.Event{Phase: session.PhaseVMs, Instance: id.String(), Step: "uninstall", Done: true}
		defer func() { f.s.Event(e) }()
		conn, err := f.Connect(ctx, id)
		if err != nil && (must || ctx.Err() != nil) {
			err = fmt.Errorf("cannot remove the agent from the machine of %s: %w", id, err)
			e.Done, e.Error = false, err.Error()
			return err
		}
		if err != nil {
			e.Message = fmt.Sprintf("its machine cannot be reached and is left as it is: %v; if it comes back, run there: %s/bin/agent uninstall --dir %s", err, vm.AgentDir, vm.AgentDir)
			return nil
		}
		err = Within(ctx, uninstallLimit, func(ctx context.Context) error {
			return bootstrap.Uninstall(ctx, conn, vm.AgentDir, f.s.State.DeploymentID)
		})
		if errors.Is(err, bootstrap.ErrForeign) { // it never became ours
			e.Message = "its machine is left as it is: " + err.Error()
			return nil
		}
		if err != nil {
			err = fmt.Errorf("cannot remove the agent from the machine of %s: %w", id, err)
			e.Done, e.Error = false, err.Error()
		}
		return err
	})
}

// UninstallAll is Uninstall for the VMs of all instances.
func (f *Fleet) UninstallAll(ctx context.Context, must bool) error {
	var ids []state.VMID
	for _, id := range f.s.VMIDs() {
		ids = append(ids, state.Own(id))
	}
	err := f.Uninstall(ctx, ids, must)
	if err != nil {
		return errors.Join(err, errors.New("the state is kept: remove the cause and destroy again, or use --forget-unreachable if a machine no longer exists"))
	}
	return nil
}
