package hosts

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/wire"
)

// announceRest is between two times that all names are told, however many routers
// start.
const announceRest = 5 * time.Second

// Announce tells the routers which host names apps have, when a router starts and
// again and again, until ctx ends.
func (h *Hosts) Announce(ctx context.Context) {
	asked := make(chan struct{}, 1)
	sub, err := h.Bus.Subscribe(wire.SubjectRouterStart, func(*nats.Msg) {
		select {
		case asked <- struct{}{}:
		default:
		}
	})
	if err != nil {
		h.Log.Warn("routers are told of apps' host names in their time only", "error", err)
	} else {
		defer func() { _ = sub.Unsubscribe() }() // fails only with the connection
	}
	tick := time.NewTicker(wire.HostsInterval)
	defer tick.Stop()
	for {
		if list, err := h.Store.AppHosts(ctx); err == nil {
			for part := range slices.Chunk(list, wire.MaxHosts) {
				h.tell(wire.RouterHosts{Hosts: part})
			}
		} else if ctx.Err() == nil {
			h.Log.Warn("cannot tell the routers apps' host names", "error", err)
		}
		rest := time.NewTimer(announceRest)
		select {
		case <-ctx.Done():
			rest.Stop()
			return
		case <-rest.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-asked:
		case <-tick.C:
		}
	}
}

func (h *Hosts) tell(m wire.RouterHosts) {
	if !h.Bus.IsConnected() {
		return // they are told again
	}
	data, err := json.Marshal(m)
	if err == nil {
		err = h.Bus.Publish(wire.SubjectRouterHosts, data)
	}
	if err != nil {
		h.Log.Warn("cannot tell the routers apps' host names", "error", err)
	}
}

// Changed tells the routers at once that an app has other host names now.
func (h *Hosts) Changed(ctx context.Context, before, after []string) {
	m := wire.RouterHosts{Hosts: []string{}}
	for _, host := range after {
		if !slices.Contains(before, host) {
			m.Hosts = append(m.Hosts, host)
		}
	}
	for _, host := range before {
		if slices.Contains(after, host) {
			continue
		}
		// Apps of one owner may share a name.
		if used, err := h.Store.HasApp(ctx, host); err == nil && !used {
			m.Gone = append(m.Gone, host)
		}
	}
	if len(m.Hosts)+len(m.Gone) > 0 && len(m.Hosts) <= wire.MaxHosts && len(m.Gone) <= wire.MaxHosts {
		h.tell(m)
	}
}
