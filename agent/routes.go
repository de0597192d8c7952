package agent

import (
	"context"
	"sync"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/internal/routes"
)

// routing registers the routes of the processes with the routers.
type routing struct {
	registrar *routes.Registrar
	changed   chan struct{} // gets a value when the routes may have to change

	mu   sync.Mutex // held while the registrar is told, so that it hears the latest last
	spec api.Spec   // the active one, as it was read last
}

// changedHealth is called when a process, or what is expected of them, changes.
func (a *Agent) changedHealth() {
	a.beatNow()
	a.rerouteSoon()
}

// rerouteSoon has routes follow from what is now. It never blocks.
func (a *Agent) rerouteSoon() {
	select {
	case a.routing.changed <- struct{}{}:
	default: // it will see the latest
	}
}

// keepRoutes updates the routes until the agent ends.
func (a *Agent) keepRoutes() {
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-a.routing.changed:
			a.reroute()
		}
	}
}

// reroute updates the routes.
func (a *Agent) reroute() {
	a.routing.mu.Lock()
	defer a.routing.mu.Unlock()
	var servers routes.Servers
	a.mu.Lock()
	if b := a.identity.Bus; b != nil {
		servers = routes.Servers{URLs: b.URLs, CA: b.CA}
	}
	a.mu.Unlock()
	active := a.installer.Installed().Active
	if active != a.routing.spec.Generation {
		spec, err := a.installer.Spec(active)
		if err != nil {
			spec = api.Spec{} // what cannot be read has no routes
			if active != "" {
				a.config.Log.Error("cannot read which routes there are", "err", err)
			}
		}
		a.routing.spec = spec
	}
	a.routing.registrar.Update(servers, routes.Now{Spec: a.routing.spec, Statuses: a.supervisor.Statuses()})
}

// withdraw takes processes off the routers and waits until requests that are on
// their way have arrived. It reports whether any had a route.
func (a *Agent) withdraw(ctx context.Context, processes [][2]string) bool {
	a.reroute()
	var wait time.Duration
	for _, p := range processes {
		wait = max(wait, a.routing.registrar.Withdraw(p[0], p[1]))
	}
	if wait == 0 {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	return true
}

// rejoin has a process that was withdrawn and runs on registered again.
func (a *Agent) rejoin(job, name string) {
	if a.routing.registrar.Rejoin(job, name) {
		a.reroute()
	}
}
