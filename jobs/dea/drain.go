package dea

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/dea/internal/core"
	"github.com/clusterworks/deploy/jobs/wire"
)

// drain leaves: the health manager is asked to have everything run elsewhere;
// what does is withdrawn from the routers and stopped here when its requests are
// finished. A process that is told to end without having been drained has no
// time for that.
func (d *DEA) drain(ctx context.Context) error {
	select {
	case <-d.leaving:
		return d.shutdown(ctx)
	default:
	}
	sub, err := d.base.Bus().Subscribe(wire.SubjectDEAHeartbeat, handle(d, wire.ParseDEAHeartbeat, func(_ *nats.Msg, h wire.DEAHeartbeat) { d.heard(ctx, h) }))
	if err != nil {
		return fmt.Errorf("cannot hear of replacements: %w", err)
	}
	// Fails only with the connection, and then there is nothing to undo.
	defer func() { _ = sub.Unsubscribe() }()
	d.event(core.Evacuate{})
	if idle, _ := ask(d, (*core.Machine).Drained); !idle && !d.hasOthers(ctx) {
		d.base.Log().Warn("there is no other DEA; stopping apps without a replacement")
		d.event(core.GiveUp{})
	}
	late := time.NewTimer(d.config.Intervals.EvacuationDelay.Duration())
	defer late.Stop()
	for {
		select {
		case <-d.drained:
			return d.routes.Close(ctx)
		case <-late.C:
			d.base.Log().Warn("apps did not start elsewhere in time; stopping them anyway", "waited", d.config.Intervals.EvacuationDelay.Duration())
			d.event(core.GiveUp{})
		case <-d.leaving:
			return d.shutdown(ctx)
		case <-ctx.Done():
			return fmt.Errorf("cannot wait until apps run elsewhere: %w", context.Cause(ctx))
		}
	}
}

// heard learns from another DEA's heartbeat what runs elsewhere by now. Routers
// hear of it at the same time: they are given a moment before the instance here
// is withdrawn.
func (d *DEA) heard(ctx context.Context, h wire.DEAHeartbeat) {
	if h.DEA == d.base.UUID() {
		return
	}
	d.begin(func() {
		select {
		case <-time.After(d.config.Intervals.SettleTime.Duration()):
		case <-ctx.Done():
			return
		}
		for _, i := range h.Droplets {
			if i.State == wire.StateRunning {
				d.event(core.Replaced{Droplet: i.Droplet, Version: i.Version, Index: i.Index})
			}
		}
	})
}

// hasOthers says whether there are DEAs beside this one that take apps. That
// there are none is believed when nobody has answered several times.
func (d *DEA) hasOthers(ctx context.Context) bool {
	for range 3 {
		all, err := askAll(ctx, d.base.Bus(), wire.SubjectDEAStatus, wire.ParseDEAStatus)
		if err != nil {
			d.base.Log().Warn("cannot ask other DEAs", "error", err)
		}
		for _, s := range all {
			if s.ID != d.base.UUID() && s.State == "" {
				return true
			}
		}
	}
	return false
}

// shutdown ends everything at once.
func (d *DEA) shutdown(ctx context.Context) error {
	d.event(core.Shutdown{})
	select {
	case <-d.drained:
		return d.routes.Close(ctx)
	case <-ctx.Done():
		return errors.New("apps did not end in time")
	}
}
