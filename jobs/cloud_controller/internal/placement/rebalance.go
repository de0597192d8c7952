package placement

import (
	"context"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Joined returns how many DEAs have begun to advertise since this controller runs, and
// when the last one did or has left.
func (p *Placer) Joined() (count int, changed time.Time) {
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	return p.pool.joined, p.pool.changed
}

// Uneven reports whether an app whose instances all run as its record says would be
// spread better if one of them moved to another DEA that has room for it. An app of
// which something is not known is not uneven.
func (p *Placer) Uneven(ctx context.Context, app store.App) (uneven, known bool, err error) {
	if app.State != store.Started || app.Instances < 2 {
		return false, true, nil
	}
	present, err := p.Store.Present(ctx, app)
	if err != nil {
		return false, false, err
	}
	as := present.Of(app)
	found, err := p.find(ctx, wire.DEAFind{Droplet: model.ID(app), InstanceFilter: wire.InstanceFilter{
		States: []string{wire.StateStarting, wire.StateRunning},
	}}, window, func(found []wire.DEAFound) bool { return len(found) >= app.Instances })
	if err != nil {
		return false, false, err
	}
	have, indices := map[string]int{}, map[int]bool{}
	for _, f := range found {
		if f.Version != model.Version(as) || f.State != wire.StateRunning {
			return false, false, nil
		}
		have[f.DEA]++
		indices[f.Index] = true
	}
	if len(indices) != app.Instances || len(found) != app.Instances {
		return false, false, nil
	}
	return p.pool.uneven(wire.DEAStart{Runtime: as.Runtime, Limits: wire.Limits{Mem: as.Memory}}, have, time.Now()), true, nil
}

// uneven reports whether an instance of an app moves to advantage, see moves. have
// counts the instances by DEA.
func (p *pool) uneven(s wire.DEAStart, have map[string]int, now time.Time) bool {
	roomy := map[string]bool{}
	for _, o := range p.advertised(s, now) {
		roomy[o.dea] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var from, to []place
	for id, n := range have {
		c := p.deas[id]
		if c == nil || !c.known(now) {
			return false // it may be leaving
		}
		from = append(from, place{zone: c.Zone, instances: n})
	}
	for id := range roomy {
		to = append(to, place{zone: p.deas[id].Zone, instances: have[id]})
	}
	return moves(from, to)
}

// moves reports whether an app is spread better with one instance less at one of the
// places that it runs at and one more at one that has room: over DEAs, and where that
// is the same, over zones.
func moves(from, to []place) bool {
	zones := map[string]int{}
	for _, one := range from {
		zones[one.zone] += one.instances
	}
	for _, one := range from {
		for _, other := range to {
			switch less := one.instances - other.instances; {
			case less >= 2, less == 1 && one.zone != other.zone && zones[one.zone]-zones[other.zone] >= 2:
				return true
			}
		}
	}
	return false
}
