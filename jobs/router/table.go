package router

import (
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// backend is one instance behind a URI.
type backend struct {
	Addr string // host:port
	App  string
	Tags wire.Tags
	// Session is the sticky session's value: the instance's private id.
	Session string
	// FrontKey is what it wants to see of routers.
	FrontKey string

	instance   *instance
	seen       time.Time
	staleAfter time.Duration
}

// instance is what listens at an address, under whatever URIs. The counts are of
// what is on its way to it; they need no lock.
type instance struct {
	hosts []string  // that lead to it
	aside time.Time // until when others are preferred

	requests, uploads atomic.Int32
}

// enter counts a request, and its upload, unless there are too many.
func (i *instance) enter(upload bool, requests, uploads int) bool {
	if int(i.requests.Add(1)) > requests {
		i.requests.Add(-1)
		return false
	}
	if upload && int(i.uploads.Add(1)) > uploads {
		i.uploads.Add(-1)
		i.requests.Add(-1)
		return false
	}
	return true
}

// table is the routing table: host names to backends. It is plain data without
// lock or clock; times are passed in.
type table struct {
	hosts     map[string][]*backend
	instances map[string]*instance // by address
	// An instance that has so many requests or uploads gets no more.
	maxRequests, maxUploads int
	routes, maxRoutes       int
}

func newTable() *table {
	return &table{
		hosts: map[string][]*backend{}, instances: map[string]*instance{},
		maxRequests: math.MaxInt32, maxUploads: math.MaxInt32, maxRoutes: math.MaxInt32,
	}
}

// hostKey is a host name as the table has it: lower-case, without port and
// final dot. "" for what is no host name.
func hostKey(host string) string {
	if plainKey(host) {
		return host
	}
	host = strings.ToLower(strings.TrimSpace(host))
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	if strings.ContainsAny(host, "/ \t\r\n@?#") {
		return ""
	}
	return host
}

// plainKey reports whether a host name is as the table has it.
func plainKey(host string) bool {
	for i := range len(host) {
		switch c := host[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '.' && i < len(host)-1:
		default:
			return false
		}
	}
	return host != ""
}

// register adds the backend to each URI and says how many routes are new. A
// backend already there is only seen again: its tags, app and session stay, as
// in the original, its key is the new one. URIs that are no host names are left out, and so are new ones
// when there are too many routes: full. stale are the other hosts that led to the
// same address for another app: that app is gone.
func (t *table) register(r wire.Registration, now time.Time) (added int, stale []string, full bool) {
	addr := net.JoinHostPort(r.Host, strconv.Itoa(r.Port))
	after := wire.RouterStaleAfter
	if s := r.StaleThresholdInSeconds; s > 0 && s < int(after/time.Second) {
		after = time.Duration(s) * time.Second
	}
	stale = t.dropOthers(addr, r)
	for _, uri := range r.URIs {
		host := hostKey(uri)
		if host == "" {
			continue
		}
		if i := indexOf(t.hosts[host], addr); i >= 0 {
			b := t.hosts[host][i]
			if b.FrontKey != r.FrontKey {
				changed := *b // requests in progress have the old one
				b = &changed
				b.FrontKey = r.FrontKey
				t.hosts[host][i] = b
			}
			b.seen = now
			continue
		}
		if t.routes >= t.maxRoutes {
			full = true
			continue
		}
		in := t.instances[addr]
		if in == nil {
			in = &instance{}
			t.instances[addr] = in
		}
		in.hosts = append(in.hosts, host)
		t.routes++
		t.hosts[host] = append(t.hosts[host], &backend{
			instance: in, Addr: addr, App: string(r.App), Tags: r.Tags, Session: r.PrivateInstanceID, FrontKey: r.FrontKey,
			seen: now, staleAfter: after,
		})
		// Whoever registers anew can be reached, as far as it knows.
		in.aside = time.Time{}
		added++
	}
	return added, stale, full
}

// dropOthers removes the routes to an address that another app had, except those
// that are registered again.
func (t *table) dropOthers(addr string, r wire.Registration) (gone []string) {
	in := t.instances[addr]
	if in == nil || r.App == "" {
		return nil
	}
	for at := len(in.hosts) - 1; at >= 0; at-- {
		host := in.hosts[at]
		i := indexOf(t.hosts[host], addr)
		if app := t.hosts[host][i].App; app == "" || app == string(r.App) || slices.ContainsFunc(r.URIs, func(uri string) bool { return hostKey(uri) == host }) {
			continue
		}
		t.remove(host, i)
		gone = append(gone, host)
	}
	return gone
}

// unregister removes the backend from each URI and says how many routes went.
func (t *table) unregister(r wire.Registration) (removed int) {
	addr := net.JoinHostPort(r.Host, strconv.Itoa(r.Port))
	for _, uri := range r.URIs {
		host := hostKey(uri)
		if i := indexOf(t.hosts[host], addr); i >= 0 {
			t.remove(host, i)
			removed++
		}
	}
	return removed
}

// prune removes the backends not seen for longer than they may, and returns
// them as "host addr".
func (t *table) prune(now time.Time) (gone []string) {
	for host, backends := range t.hosts {
		for i := len(backends) - 1; i >= 0; i-- {
			if now.Sub(backends[i].seen) > backends[i].staleAfter {
				gone = append(gone, host+" "+backends[i].Addr)
				t.remove(host, i)
				backends = t.hosts[host]
			}
		}
	}
	slices.Sort(gone)
	return gone
}

// touch marks everything as seen now: while the bus is away nobody can be.
func (t *table) touch(now time.Time) {
	for _, backends := range t.hosts {
		for _, b := range backends {
			b.seen = now
		}
	}
}

// setAside prefers other backends until then.
func (t *table) setAside(addr string, until time.Time) {
	if in := t.instances[addr]; in != nil {
		in.aside = until
	}
}

// lookup returns the backends of a Host header: of the name itself, else of the
// closest wildcard "*.domain" above it. The slice is not to be changed.
func (t *table) lookup(hostHeader string) []*backend {
	host := hostKey(hostHeader)
	if host == "" {
		return nil
	}
	if backends := t.hosts[host]; len(backends) > 0 {
		return backends
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	for rest := host; ; {
		_, after, found := strings.Cut(rest, ".")
		if !found {
			return nil
		}
		if backends := t.hosts["*."+after]; len(backends) > 0 {
			return backends
		}
		rest = after
	}
}

// choose picks a backend for a Host header: the one whose session it is, else
// that of two at random which has fewer requests; but none of tried, and one that
// was set aside only if there is no other. nil if all are tried, there is none,
// or those that there are have all the requests that they may have: full.
func (t *table) choose(hostHeader, session string, tried []string, upload bool, now time.Time) (chosen *backend, full bool) {
	var open, aside []*backend
	for _, b := range t.lookup(hostHeader) {
		in := b.instance
		switch {
		case slices.Contains(tried, b.Addr):
		case int(in.requests.Load()) >= t.maxRequests || upload && int(in.uploads.Load()) >= t.maxUploads:
			full = true
		case now.Before(in.aside):
			aside = append(aside, b)
		case session != "" && b.Session == session:
			return b, false
		default:
			open = append(open, b)
		}
	}
	if len(open) == 0 {
		open = aside
	}
	if len(open) == 0 {
		return nil, full
	}
	one, other := open[rand.IntN(len(open))], open[rand.IntN(len(open))]
	if other.instance.requests.Load() < one.instance.requests.Load() {
		one = other
	}
	return one, false
}

// size counts the host names and the distinct backends.
func (t *table) size() (urls, backends int) { return len(t.hosts), len(t.instances) }

func (t *table) remove(host string, i int) {
	b := t.hosts[host][i]
	t.routes--
	at := slices.Index(b.instance.hosts, host)
	if b.instance.hosts = slices.Delete(b.instance.hosts, at, at+1); len(b.instance.hosts) == 0 {
		delete(t.instances, b.Addr)
	}
	if len(t.hosts[host]) == 1 {
		delete(t.hosts, host)
		return
	}
	t.hosts[host] = slices.Delete(t.hosts[host], i, i+1)
}

func indexOf(backends []*backend, addr string) int {
	return slices.IndexFunc(backends, func(b *backend) bool { return b.Addr == addr })
}
