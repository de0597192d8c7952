package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/wire"
)

// keepChecking looks for orphans in its interval and when asked to.
func (g *Gateway) keepChecking(ctx context.Context) error {
	for {
		var due <-chan time.Time
		if g.config.CheckOrphanInterval > 0 {
			due = time.After(g.config.CheckOrphanInterval.Duration())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-due:
		case <-g.check:
		}
		g.setChecking(true)
		if err := g.checkOrphans(ctx); err != nil && ctx.Err() == nil {
			g.base.Log().Warn("cannot check for orphans", "error", err)
		}
		g.setChecking(false)
	}
}

func (g *Gateway) setChecking(is bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.checking = is
}

// checkOrphans does both steps.
func (g *Gateway) checkOrphans(ctx context.Context) error {
	first, err := g.unknownNow(ctx)
	if err != nil {
		return err
	}
	found := newOrphans()
	if instances, bindings := first.count(); instances+bindings > 0 {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(g.config.DoubleCheckOrphanInterval.Duration()):
		}
		second, err := g.unknownNow(ctx)
		if err != nil {
			return err
		}
		found = first.and(second)
	}
	instances, bindings := found.count()
	if instances+bindings > 0 {
		g.base.Log().Warn("found orphans; purge_orphan removes them", "instances", instances, "bindings", bindings)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.orphans = found
	g.checks++
	return nil
}

// unknownNow returns what nodes have and the controller does not know. The
// controller is asked last, so that what was made meanwhile is known.
func (g *Gateway) unknownNow(ctx context.Context) (orphans, error) {
	g.mu.Lock()
	g.reports = newOrphans()
	g.mu.Unlock()
	if err := g.base.Bus().Publish(wire.ServiceSubject(g.prefix, wire.ServiceCheckOrphan), []byte(wire.SendHandles)); err != nil {
		return orphans{}, fmt.Errorf("cannot ask the nodes for their handles: %w", err)
	}
	select {
	case <-ctx.Done():
		return orphans{}, context.Cause(ctx)
	case <-time.After(g.config.NodeTimeout.Duration()):
	}
	h, err := g.refresh(ctx)
	if err != nil {
		return orphans{}, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reports.unknown(h), nil
}

func (g *Gateway) reported(m *nats.Msg) {
	r, err := wire.ParseServiceReport(m.Data)
	if err != nil {
		g.base.Log().Warn("ignoring a message", "subject", m.Subject, "error", err)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reports.add(r)
}

// purge has nodes remove those of the named orphans that both steps of the last
// check have found and that the controller still does not know. It returns them, and
// the rest, which stays.
func (g *Gateway) purge(ctx context.Context, named orphans) (purged, refused orphans, err error) {
	h, err := g.refresh(ctx)
	if err != nil {
		return orphans{}, orphans{}, err
	}
	g.mu.Lock()
	purged = g.orphans.and(named).unknown(h)
	g.mu.Unlock()
	lists := purged.lists()
	for _, node := range lists.nodes() {
		doc, err := json.Marshal(wire.PurgeOrphans{Instances: append([]string{}, lists.Instances[node]...), Bindings: append([]wire.Credentials{}, lists.Bindings[node]...)})
		if err == nil {
			err = g.base.Bus().Publish(wire.ServiceNodeSubject(g.prefix, wire.ServicePurge, node), doc)
		}
		if err != nil {
			return orphans{}, orphans{}, fmt.Errorf("cannot tell node %s: %w", node, err)
		}
	}
	g.mu.Lock()
	g.orphans = g.orphans.without(purged)
	g.mu.Unlock()
	return purged, named.without(purged), nil
}
