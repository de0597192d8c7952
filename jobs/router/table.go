package router

import (
	"cmp"
	"hash/maphash"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
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
	// Name is the app's, Index its instance's number; "" if the registration does not say.
	Name, Index string
	*tagSet
	// Session is the sticky session's value: the instance's private id.
	Session string
	// FrontKey holds what it wants to see of routers.
	FrontKey string

	instance *instance
	// When it was registered last, since table.begin, and for how long that holds.
	seen, staleAfter time.Duration
}

// both are a backend and its instance, of which most have one: one allocation.
type both struct {
	backend  backend
	instance instance
	backends [1]*backend
	hosts    [1]string
}

// label returns name/index of the app's instance, with the app's id if it has no
// name; "" for what is no app's.
func (b *backend) label() string {
	name := cmp.Or(b.Name, b.App)
	if name == "" {
		return ""
	}
	return url.PathEscape(name) + "/" + url.PathEscape(b.Index)
}

// instance describes what listens at an address, under whatever URIs. The counts are of
// what is on its way to it. Requests read and change all but hosts without a lock.
type instance struct {
	hosts []string     // that lead to it
	aside atomic.Int64 // until when others are preferred, as Unix time in ns

	requests, uploads atomic.Int32
}

// setAside prefers others until then; the zero time: no others.
func (i *instance) setAside(until time.Time) {
	if until.IsZero() {
		i.aside.Store(0)
		return
	}
	i.aside.Store(until.UnixNano())
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

// tagSet are the tags that many backends have in common.
type tagSet struct {
	wire.Tags
	key      string // in table.tags
	backends int
}

// routes are the backends of a host name. They do not change: a change makes others.
type routes struct {
	host     string // "" for a name that is no more
	backends []*backend
}

// hosts are host names with their routes. Requests look at them without a lock; one
// at a time changes them. A sync.Map would take three times the memory, and an
// allocation for each look.
type hosts struct {
	slots atomic.Pointer[[]slot] // the next free one after its hash is a name's
	size  int                    // not for requests, as is used
	used  int                    // slots, those of names that are no more included
}

type slot = atomic.Pointer[routes]

var hostSeed = maphash.MakeSeed()

// find returns the slot of a host name, or the free one where the search for it ends.
func find(slots []slot, host string) *slot {
	for i := maphash.String(hostSeed, host); ; i++ {
		at := &slots[i&uint64(len(slots)-1)]
		if found := at.Load(); found == nil || found.host == host {
			return at
		}
	}
}

// of returns the routes of a host name as hostKey returns it, nil if it has none.
func (h *hosts) of(host string) *routes {
	slots := h.slots.Load()
	if slots == nil {
		return nil
	}
	return find(*slots, host).Load()
}

// each calls a function with the routes of each host name, which may change them.
func (h *hosts) each(see func(*routes)) {
	slots := h.slots.Load()
	if slots == nil {
		return
	}
	for i := range *slots {
		if found := (*slots)[i].Load(); found != nil && found.host != "" {
			see(found)
		}
	}
}

// backends returns the backends of a host name; they are not to be changed.
func (h *hosts) backends(host string) []*backend {
	if found := h.of(host); found != nil {
		return found.backends
	}
	return nil
}

// set replaces the backends of a host name; none: it is no more.
func (h *hosts) set(host string, backends []*backend) {
	h.makeRoom()
	at := find(*h.slots.Load(), host)
	had := at.Load() != nil
	switch {
	case len(backends) > 0:
		at.Store(&routes{host, backends})
		if !had {
			h.size++
			h.used++
		}
	case had:
		at.Store(&routes{}) // searches for other names go on behind it
		h.size--
	}
}

// makeRoom sees to it that a quarter of the slots is free.
func (h *hosts) makeRoom() {
	slots := h.slots.Load()
	if slots != nil && h.used < len(*slots)/4*3 {
		return
	}
	more := 16
	for more < 2*h.size {
		more *= 2
	}
	made := make([]slot, more)
	h.each(func(r *routes) { find(made, r.host).Store(r) })
	h.used = h.size
	h.slots.Store(&made)
}

// table is the routing table: host names to backends. It is plain data without
// clock; times are passed in. lookup and choose may be called at any time, the other
// methods by one at a time.
type table struct {
	hosts     hosts
	begin     time.Time
	instances map[string]*instance // by address
	tags      map[string]*tagSet   // by their text
	// An instance that has so many requests or uploads gets no more.
	maxRequests, maxUploads int
	routes, maxRoutes       int
}

func newTable() *table {
	return &table{
		begin: time.Now(), instances: map[string]*instance{}, tags: map[string]*tagSet{},
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
		backends := t.hosts.backends(host)
		if i := indexOf(backends, addr); i >= 0 {
			b := backends[i]
			if b.FrontKey != r.FrontKey {
				changed := *b // requests in progress have the old one
				b = &changed
				b.FrontKey = strings.Clone(r.FrontKey)
				backends = slices.Clone(backends)
				backends[i] = b
				t.hosts.set(host, backends)
			}
			b.seen = now.Sub(t.begin)
			continue
		}
		if t.routes >= t.maxRoutes {
			full = true
			continue
		}
		// There are a hundred thousand of these: one text for all, and nothing of the message.
		text := addr + host + string(r.App) + r.PrivateInstanceID + r.FrontKey + r.AppName + string(r.PrivateInstanceIndex)
		cut := func(size int) (s string) {
			s, text = text[:size], text[size:]
			return s
		}
		in, list := t.instances[addr], slices.Clip(backends)
		var b *backend
		if in != nil {
			b = new(backend)
		} else {
			made := &both{}
			in, b = &made.instance, &made.backend
			in.hosts = made.hosts[:0]
			if list == nil {
				list = made.backends[:0]
			}
		}
		*b = backend{Addr: cut(len(addr)), tagSet: t.shareTags(r.Tags), instance: in, seen: now.Sub(t.begin), staleAfter: after}
		host = cut(len(host))
		b.App, b.Session, b.FrontKey = cut(len(r.App)), cut(len(r.PrivateInstanceID)), cut(len(r.FrontKey))
		b.Name, b.Index = cut(len(r.AppName)), text
		if len(in.hosts) == 0 {
			t.instances[b.Addr] = in
		}
		in.hosts = append(in.hosts, host)
		t.routes++
		t.hosts.set(host, append(list, b))
		// Whoever registers anew can be reached, as far as it knows.
		in.setAside(time.Time{})
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
		backends := t.hosts.backends(host)
		i := indexOf(backends, addr)
		if app := backends[i].App; app == "" || app == string(r.App) || slices.ContainsFunc(r.URIs, func(uri string) bool { return hostKey(uri) == host }) {
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
		if i := indexOf(t.hosts.backends(host), addr); i >= 0 {
			t.remove(host, i)
			removed++
		}
	}
	return removed
}

// prune removes the backends not seen for longer than they may, and returns
// them as "host addr".
func (t *table) prune(now time.Time) (gone []string) {
	at := now.Sub(t.begin)
	t.hosts.each(func(r *routes) {
		for i, b := range slices.Backward(r.backends) {
			if at-b.seen > b.staleAfter {
				gone = append(gone, r.host+" "+b.Addr)
				t.remove(r.host, i)
			}
		}
	})
	slices.Sort(gone)
	return gone
}

// touch marks everything as seen now: while the bus is away nobody can be.
func (t *table) touch(now time.Time) {
	t.hosts.each(func(r *routes) {
		for _, b := range r.backends {
			b.seen = now.Sub(t.begin)
		}
	})
}

// setAside prefers other backends until then.
func (t *table) setAside(addr string, until time.Time) {
	if in := t.instances[addr]; in != nil {
		in.setAside(until)
	}
}

// lookup returns the routes of a Host header: of the name itself, else of the
// closest wildcard "*.domain" above it; nil if there are none.
func (t *table) lookup(hostHeader string) *routes {
	host := hostKey(hostHeader)
	if host == "" {
		return nil
	}
	if found := t.hosts.of(host); found != nil {
		return found
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	for rest := host; ; {
		_, after, found := strings.Cut(rest, ".")
		if !found {
			return nil
		}
		if found := t.hosts.of("*." + after); found != nil {
			return found
		}
		rest = after
	}
}

// choose picks a backend for a Host header: the one whose session it is, else
// that of two at random which has fewer requests; but none of tried, and one that
// was set aside only if there is no other. nil if all are tried, there is none,
// or those that there are have all the requests that they may have: full.
func (t *table) choose(hostHeader, session string, tried []string, upload bool, now time.Time) (chosen *backend, full bool) {
	found := t.lookup(hostHeader)
	if found == nil {
		return nil, false
	}
	var room [16]*backend
	open, aside := room[:0:8], room[8:8]
	for _, b := range found.backends {
		in := b.instance
		switch {
		case slices.Contains(tried, b.Addr):
		case int(in.requests.Load()) >= t.maxRequests || upload && int(in.uploads.Load()) >= t.maxUploads:
			full = true
		case now.UnixNano() < in.aside.Load():
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
	if len(open) == 1 {
		return open[0], false
	}
	one, other := open[rand.IntN(len(open))], open[rand.IntN(len(open))]
	if other.instance.requests.Load() < one.instance.requests.Load() {
		one = other
	}
	return one, false
}

// size counts the host names and the distinct backends.
func (t *table) size() (urls, backends int) { return t.hosts.size, len(t.instances) }

// shareTags returns the set of these tags, for one backend more.
func (t *table) shareTags(tags wire.Tags) *tagSet {
	var room [256]byte
	key := room[:0]
	for _, name := range slices.Sorted(maps.Keys(tags)) {
		key = append(strconv.AppendQuote(key, name), '=')
		key = append(strconv.AppendQuote(key, tags[name]), ',')
	}
	set := t.tags[string(key)]
	if set == nil {
		set = &tagSet{Tags: make(wire.Tags, len(tags)), key: string(key)}
		for name, value := range tags {
			set.Tags[strings.Clone(name)] = strings.Clone(value)
		}
		t.tags[set.key] = set
	}
	set.backends++
	return set
}

func (t *table) remove(host string, i int) {
	backends := t.hosts.backends(host)
	b := backends[i]
	t.routes--
	if b.tagSet.backends--; b.tagSet.backends == 0 {
		delete(t.tags, b.tagSet.key)
	}
	at := slices.Index(b.instance.hosts, host)
	if b.instance.hosts = slices.Delete(b.instance.hosts, at, at+1); len(b.instance.hosts) == 0 {
		delete(t.instances, b.Addr)
	}
	t.hosts.set(host, slices.Delete(slices.Clone(backends), i, i+1))
}

func indexOf(backends []*backend, addr string) int {
	return slices.IndexFunc(backends, func(b *backend) bool { return b.Addr == addr })
}
