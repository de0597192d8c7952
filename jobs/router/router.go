package router

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/router/internal/upstream"
	"github.com/clusterworks/deploy/jobs/wire"
)

// A router that has just started knows no routes, and everyone answers its
// router.start at once: it listens when no route has come for settleQuiet, at
// the latest after settleMax. Until then those in front of it use another one.
const (
	settleQuiet = 300 * time.Millisecond
	settleMax   = 3 * time.Second

	// maxPending bounds the registrations that wait to be taken; the bus drops more,
	// which come again. All DEAs register all routes each 30 s.
	maxPending = 1 << 17
)

// Router is a running router.
type Router struct {
	config    Config
	settings  atomic.Pointer[Config] // what a reload may change
	file      string
	base      *component.Component
	transport *upstream.Transport
	upgrades  *httputil.ReverseProxy
	copies    buffers // what bodies are copied with
	heads     buffers // of requests
	metrics   metrics
	traffic   *traffic
	added     chan struct{} // a route came

	table *table // mu is held by who changes it

	mu       sync.RWMutex
	appHosts appHosts

	serving sync.Mutex
	server  *component.Server // nil: does not listen yet
	address string
	gone    bool // drained before it listened

	startInterval, pruneInterval time.Duration
}

// New reads the configuration and opens what the router needs, except its port.
// Run must follow, which gives all of it back.
func New(p component.Process) (*Router, error) {
	cfg, raw, err := load(p.ConfigFile)
	if err != nil {
		return nil, err
	}
	r := &Router{
		config:        cfg,
		file:          p.ConfigFile,
		table:         newTable(),
		traffic:       newTraffic(cfg.EnableNonprodApps),
		added:         make(chan struct{}, 1),
		startInterval: wire.RouterStartInterval,
		pruneInterval: wire.RouterPruneInterval,
	}
	r.table.maxRequests, r.table.maxUploads, r.table.maxRoutes = cfg.InstanceRequests, cfg.InstanceUploads, cfg.MaxRoutes
	r.appHosts = appHosts{seen: map[string]time.Time{}, most: cfg.MaxRoutes}
	r.settings.Store(&cfg)
	r.base, err = component.Open(component.Options{
		Type:    "Router",
		Process: p,
		Config:  cfg.Config,
		Raw:     raw,
		Varz:    r.varz,
		Ready:   r.ready,
		Drain:   r.drain,
		Reload:  r.reload,
	})
	if err != nil {
		return nil, err
	}
	r.transport = r.newTransport()
	r.heads.size = 2 << 10
	r.upgrades = r.newUpgrades()
	return r, nil
}

// Run routes until ctx ends, then drains quickly.
func (r *Router) Run(ctx context.Context) error {
	defer r.base.Close()
	defer r.transport.Close()
	// One channel for both: subscriptions with handlers of their own would overtake
	// each other, and a route that goes be kept for one that comes.
	registrations := make(chan *nats.Msg, maxPending)
	for _, subject := range []string{wire.SubjectRouterRegister, wire.SubjectRouterUnregister} {
		if _, err := r.base.Bus().ChanSubscribe(subject, registrations); err != nil {
			return fmt.Errorf("cannot subscribe %s: %w", subject, err)
		}
	}
	handlers := map[string]nats.MsgHandler{
		wire.SubjectRouterHosts:    r.toldHosts,
		wire.SubjectRouterRequests: r.tellRequests,
		wire.SubjectRouterGreet: func(m *nats.Msg) {
			if m.Reply != "" {
				r.publishStart(m.Reply)
			}
		},
	}
	for subject, handle := range handlers {
		if _, err := r.base.Bus().Subscribe(subject, handle); err != nil {
			return fmt.Errorf("cannot subscribe %s: %w", subject, err)
		}
	}
	connected := make(chan struct{}, 1)
	r.base.OnConnect(func() {
		// Everyone has its whole time to register again.
		r.touch()
		r.publishStart(wire.SubjectRouterStart)
		select {
		case connected <- struct{}{}:
		default:
		}
	})
	return r.base.Run(ctx,
		func(ctx context.Context) error { return r.listen(ctx, connected) },
		func(ctx context.Context) error { return r.hearRegistrations(ctx, registrations) },
		r.keepFresh,
		r.tellActive,
		keepHeadroom,
	)
}

// Address returns where requests come in, "" as long as the router does not listen.
func (r *Router) Address() string {
	r.serving.Lock()
	defer r.serving.Unlock()
	return r.address
}

// listen waits for the bus and the routes, then serves.
func (r *Router) listen(ctx context.Context, connected <-chan struct{}) error {
	select {
	case <-connected:
	case <-ctx.Done():
		return nil
	}
	latest := time.After(settleMax)
	for settled := false; !settled; {
		select {
		case <-r.added:
		case <-time.After(settleQuiet):
			settled = true
		case <-latest:
			settled = true
		case <-ctx.Done():
			return nil
		}
	}
	inet := r.config.Inet
	if inet == "" {
		inet = r.base.Address()
	}
	server, err := component.Listen(net.JoinHostPort(inet, strconv.Itoa(r.config.Port)), r, r.base.Log())
	if err != nil {
		return err
	}
	server.PeerKeepalive, server.DrainTimeout = r.config.PeerKeepalive, r.config.DrainTimeout
	r.serving.Lock()
	if r.gone {
		r.serving.Unlock()
		return server.Close()
	}
	r.server, r.address = server, server.Addr().String()
	r.serving.Unlock()
	r.base.Log().Info("serving", "address", server.Addr().String())
	if r.config.FrontKey == "" && len(r.config.fronts) == 0 {
		r.base.Log().Info("believing nobody's X-Forwarded-* headers, since neither front_key nor trusted_fronts is set; give routers and load balancers the same front_key")
	}
	return server.Serve(ctx)
}

// keepFresh asks everyone to register again and again, and drops those who do
// not. While the bus is away nobody can, so nobody is dropped.
func (r *Router) keepFresh(ctx context.Context) error {
	start, prune := time.NewTicker(r.startInterval), time.NewTicker(r.pruneInterval)
	defer start.Stop()
	defer prune.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-start.C:
			if r.base.Connected() {
				r.publishStart(wire.SubjectRouterStart)
			}
		case <-prune.C:
			if !r.base.Connected() {
				r.touch()
				continue
			}
			r.mu.Lock()
			gone := r.table.prune(time.Now())
			r.appHosts.prune(time.Now())
			r.mu.Unlock()
			if len(gone) > 0 {
				r.base.Log().Warn("dropped routes that were not registered again", "routes", gone)
			}
		}
	}
}

// publishStart asks for registrations: on wire.SubjectRouterStart everyone, as
// the answer to a greet the one who asked.
func (r *Router) publishStart(subject string) {
	data, err := json.Marshal(wire.RouterStart{
		ID:                               r.base.UUID(),
		Version:                          wire.RouterVersion,
		Hosts:                            []string{r.base.Address()},
		MinimumRegisterIntervalInSeconds: int(wire.RegisterInterval / time.Second),
		PruneThresholdInSeconds:          int(wire.RouterStaleAfter / time.Second),
	})
	if err == nil {
		err = r.base.Bus().Publish(subject, data)
	}
	if err != nil {
		r.base.Log().Warn("cannot ask for registrations", "error", err)
	}
}

// tellActive publishes again and again which apps were asked for, if that is
// asked for: whoever puts idle apps to sleep listens.
func (r *Router) tellActive(ctx context.Context) error {
	if !r.config.EnableNonprodApps {
		return nil
	}
	flush := time.NewTicker(time.Duration(r.config.FlushAppsInterval * float64(time.Second)))
	defer flush.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-flush.C:
		}
		if !r.base.Connected() {
			continue // they are told when the bus is back
		}
		message, err := wire.EncodeActiveApps(r.traffic.activeApps())
		if err == nil {
			err = r.base.Bus().Publish(wire.SubjectRouterActiveApps, message)
		}
		if err != nil {
			r.base.Log().Warn("cannot find out which apps are active", "error", err)
		}
	}
}

// hearRegistrations takes routes and lets go of them in the order in which that was
// said, until ctx ends.
func (r *Router) hearRegistrations(ctx context.Context, said <-chan *nats.Msg) error {
	for {
		select {
		case m := <-said:
			if m.Subject == wire.SubjectRouterUnregister {
				r.registration(m, r.unregister)
			} else {
				r.registration(m, r.register)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *Router) registration(m *nats.Msg, take func(wire.Registration)) {
	message, err := wire.ParseRegistration(m.Data)
	if err != nil {
		r.base.Log().Warn("ignoring a message", "subject", m.Subject, "error", err)
		return
	}
	take(message)
}

func (r *Router) register(m wire.Registration) {
	own, _ := netip.ParseAddrPort(r.Address())
	log := func() *slog.Logger { return r.base.Log().With("host", m.Host, "port", m.Port) }
	switch {
	case m.RouteServiceURL != "":
		// It would be served without its route service, which may be its door lock.
		log().Warn("ignoring a registration: this router has no route services", "uris", m.URIs)
		r.unregister(m)
		return
	case m.Host == r.base.Address() && m.Port == int(own.Port()):
		log().Warn("ignoring a registration: it leads to this router itself", "uris", m.URIs)
		return
	case len(m.URIs) > maxURIs:
		log().Warn("ignoring a registration: it has too many URIs", "uris", len(m.URIs), "most", maxURIs)
		return
	}
	r.mu.Lock()
	added, stale, full := r.table.register(m, time.Now())
	r.mu.Unlock()
	if full {
		log().Warn("ignoring routes: there are too many", "uris", m.URIs, "most", r.config.MaxRoutes)
	}
	if len(stale) > 0 {
		log().Warn("dropped routes of an ended app: another app listens there now", "routes", stale)
	}
	if added == 0 {
		return
	}
	r.base.Log().Info("registered", "host", m.Host, "port", m.Port, "uris", m.URIs)
	select {
	case r.added <- struct{}{}:
	default:
	}
}

func (r *Router) unregister(m wire.Registration) {
	r.mu.Lock()
	removed := r.table.unregister(m)
	r.mu.Unlock()
	if removed > 0 {
		r.base.Log().Info("unregistered", "host", m.Host, "port", m.Port, "uris", m.URIs)
	}
}

// leads reports whether a backend still serves a host: its port may be another app's
// by now.
func (r *Router) leads(host string, b *backend) bool {
	found := r.table.lookup(host)
	return found != nil && slices.Contains(found.backends, b)
}

func (r *Router) setAside(addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.table.setAside(addr, time.Now().Add(asideFor))
}

func (r *Router) touch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.table.touch(time.Now())
	r.appHosts.touch(time.Now())
}

func (r *Router) varz() map[string]any {
	now := time.Now()
	doc := r.metrics.varz(now)
	rates := r.traffic.rates(now)
	doc["top10_app_requests"] = rates[:min(len(rates), topURLs)]
	if r.config.Status.ExposeAllApps {
		doc["top_app_requests"] = rates
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	doc["urls"], doc["droplets"] = r.table.size()
	return doc
}

func (r *Router) ready() error {
	if r.Address() == "" {
		return fmt.Errorf("waiting for routes to be registered")
	}
	return nil
}

func (r *Router) draining() bool {
	r.serving.Lock()
	defer r.serving.Unlock()
	return r.server != nil && r.server.Draining()
}

func (r *Router) drain(ctx context.Context) error {
	r.serving.Lock()
	r.gone = true
	server := r.server
	r.serving.Unlock()
	if server == nil {
		return nil
	}
	return server.Drain(ctx)
}

// reload takes what may change while requests are served.
func (r *Router) reload() error {
	cfg, _, err := load(r.file)
	if err != nil {
		return err
	}
	r.settings.Store(&cfg)
	return nil
}
