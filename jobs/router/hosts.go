package router

import (
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/wire"
)

// appHosts are the host names that apps have, as the cloud controllers tell, whether
// or not an instance runs. It is plain data without lock or clock.
type appHosts struct {
	seen map[string]time.Time
	most int
}

// told takes a message of the controllers.
func (a *appHosts) told(m wire.RouterHosts, now time.Time) {
	for _, host := range m.Gone {
		delete(a.seen, hostKey(host))
	}
	for _, host := range m.Hosts {
		key := hostKey(host)
		if _, known := a.seen[key]; key != "" && (known || len(a.seen) < a.most) {
			a.seen[key] = now
		}
	}
}

// prune forgets what was not told for long.
func (a *appHosts) prune(now time.Time) {
	for host, seen := range a.seen {
		if now.Sub(seen) > wire.HostsStaleAfter {
			delete(a.seen, host)
		}
	}
}

// touch marks all as told now: while the bus is away nobody can.
func (a *appHosts) touch(now time.Time) {
	for host := range a.seen {
		a.seen[host] = now
	}
}

// has reports whether an app has the name of a Host header, or a wildcard above it.
func (a *appHosts) has(hostHeader string) bool {
	host := hostKey(hostHeader)
	if _, known := a.seen[host]; known {
		return true
	}
	for rest := host; ; {
		_, after, found := strings.Cut(rest, ".")
		if !found {
			return false
		}
		if _, known := a.seen["*."+after]; known {
			return true
		}
		rest = after
	}
}

// retryAfter is the number of seconds that a client is told that asks for an app without an instance: one
// that crashed is started again within seconds.
const retryAfter = "5"

const noInstanceText = "VCAP ROUTER: 503 - THE APP HAS NO RUNNING INSTANCE"

func (r *Router) toldHosts(m *nats.Msg) {
	hosts, err := wire.ParseRouterHosts(m.Data)
	if err != nil {
		r.base.Log().Warn("ignoring a message", "subject", m.Subject, "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.appHosts.told(hosts, time.Now())
}

// isApps reports whether a host name, which leads nowhere, is an app's.
func (r *Router) isApps(host string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.appHosts.has(host)
}
