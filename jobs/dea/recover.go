package dea

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/clusterworks/deploy/agent/host/parent"
	"github.com/clusterworks/deploy/agent/host/proc"
	"github.com/clusterworks/deploy/jobs/confine"
	"github.com/clusterworks/deploy/jobs/confine/warden"
	"github.com/clusterworks/deploy/jobs/dea/internal/core"
	"github.com/clusterworks/deploy/jobs/wire"
)

// recover takes over what an earlier DEA has left: instances that run are
// attended again, untouched; of those that ended meanwhile it is told how; what
// nobody has a record of is removed.
func (d *DEA) recover(ctx context.Context, m *core.Machine) []core.Action {
	var actions []core.Action
	step := func(e core.Event) { actions = append(actions, m.Step(time.Now(), e)...) }
	folders, records := map[string]bool{}, map[string]bool{}
	boot, err := proc.BootID()
	if err != nil {
		d.base.Log().Error("cannot find out whether the machine was rebooted", "error", err)
	}
	for _, i := range m.Instances() {
		folders[i.Folder], records[i.ID] = true, true
		if i.State == wire.StateCrashed {
			continue
		}
		if i.Left { // the earlier DEA may not have come so far
			actions = append(actions, core.Trim{ID: i.ID, Folder: i.Folder})
			continue
		}
		handle, err := warden.Attach(ctx, d.records(i.ID))
		a := &attendant{dea: d, instance: i, handle: handle, orders: make(chan order, 1)}
		switch {
		case err == nil && i.Launched:
			if spec, err := warden.ReadSpec(d.records(i.ID)); err == nil && spec.UID != 0 {
				d.allotted.users.use(spec.UID)
			}
			d.allotted.ports.use(i.Port, i.DebugPort, i.ConsolePort)
			d.base.Log().Info("an instance keeps running", "app", i.Start.Name, "index", i.Start.Index, "state", i.State)
			d.attend(ctx, a)
			if i.State == wire.StateStopped {
				a.tell(endQuickly)
			}
		case !i.Launched && i.State == wire.StateStarting:
			// The earlier DEA did not come that far: once more, from the beginning.
			a.handle = nil
			if handle != nil {
				handle.Leave()
			}
			if err := d.clear(ctx, i.ID, i.Folder); err != nil {
				step(core.Failed{ID: i.ID, Why: err.Error(), Fault: true})
				continue
			}
			d.attend(ctx, a)
		default:
			if err != nil && !errors.Is(err, parent.ErrGone) {
				d.base.Log().Error("cannot take over an instance; ending it", "instance", i.ID, "error", err)
			}
			if started, err := warden.ReadStarted(d.records(i.ID)); err == nil && started.BootID != boot && boot != "" {
				step(core.Lost{ID: i.ID})
				continue
			}
			step(core.Ended{ID: i.ID, Why: a.bury(ctx)})
		}
	}
	for _, route := range m.Routes() {
		actions = append(actions, core.Register{Route: route})
	}
	if err := d.sweep(ctx, folders, records); err != nil {
		d.base.Log().Error("cannot remove an instance without a record", "error", err)
	}
	return actions
}

// clear ends and removes whatever there is of an instance.
func (d *DEA) clear(ctx context.Context, id, folder string) error {
	dir := d.records(id)
	limited, cancel := context.WithTimeout(ctx, 2*killWait)
	defer cancel()
	if err := warden.Kill(limited, dir); err != nil {
		return err
	}
	if spec, err := warden.ReadSpec(dir); err == nil {
		if err := confine.Remove(spec.Cgroups); err != nil {
			return err
		}
	}
	return d.discard(ctx, id, folder)
}

// sweep removes folders of instances and records that are not wanted.
func (d *DEA) sweep(ctx context.Context, folders, records map[string]bool) error {
	var failed error
	entries, err := os.ReadDir(filepath.Join(d.config.BaseDir, "run"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if records[e.Name()] {
			continue
		}
		d.base.Log().Info("removing an instance without a record", "instance", e.Name())
		if err := d.clear(ctx, e.Name(), e.Name()); err != nil {
			failed = errors.Join(failed, fmt.Errorf("instance %s: %w", e.Name(), err))
		}
	}
	entries, err = os.ReadDir(filepath.Join(d.config.BaseDir, "apps"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !folders[e.Name()] {
			failed = errors.Join(failed, confine.RemoveAll(d.instanceFolder(e.Name())))
		}
	}
	return failed
}
