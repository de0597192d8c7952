package cloudcontroller

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/accounts"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/api"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/blob"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/hosts"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/peers"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/placement"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/routers"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/services"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/staging"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/uaa"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/updates"
	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/passwords"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Controller is a running cloud controller.
type Controller struct {
	config    *config.Live
	file      string
	base      *component.Component
	registrar *component.Registrar
	catalog   model.Catalog
	blobs     *blob.Store
	guard     passwords.Guard
	client    *http.Client // to DEAs' file servers and gateways
	peers     *http.Client // to the other controllers

	mu       sync.Mutex
	parts    *parts            // nil: the database is not open yet
	public   *component.Server // nil: does not listen yet
	internal *component.Server // nil: does not listen yet, or not in plain text
	secure   *component.Server // the same over TLS; nil: does not listen yet, or has no certificate
	requests []*nats.Subscription
	waiting  error // why it cannot serve yet, nil: it can
	gone     bool  // drained before it listened
}

// parts are the controller's parts that work with the database.
type parts struct {
	store    *store.Store
	frame    *rest.Frame
	accounts *accounts.Accounts
	hosts    *hosts.Hosts
	peers    *peers.Peers
	staging  *staging.Staging
	placer   *placement.Placer
	updates  *updates.Updates
	routers  *routers.Routers
	api      *api.Server
}

// New reads the configuration and opens what the controller needs, except its
// database and port. Run must follow, which gives all of it back.
func New(p component.Process) (*Controller, error) {
	cfg, raw, err := config.Load(p.ConfigFile)
	if err != nil {
		return nil, err
	}
	catalog, err := model.NewCatalog(cfg.RuntimesFile, cfg.Directories.StagingManifests)
	if err != nil {
		return nil, err
	}
	blobs, err := blob.Open(cfg.Directories.Droplets, cfg.Directories.Resources, cfg.Directories.Tmpdir)
	if err != nil {
		return nil, err
	}
	c := &Controller{
		config: config.NewLive(cfg), file: p.ConfigFile, catalog: catalog, blobs: blobs,
		guard:   passwords.Guard{Hasher: passwords.NewHasher(passwords.ConcurrentHashes, passwords.Recommended), Logins: passwords.NewLimiter(passwords.LoginInterval)},
		waiting: errors.New("waiting for the database"),
	}
	c.base, err = component.Open(component.Options{
		Type: "CloudController", Process: p, Config: cfg.Config, Raw: shown(raw),
		Varz: c.varz, Ready: c.ready, Drain: c.drain, Reload: c.reload,
	})
	if err != nil {
		return nil, err
	}
	c.registrar = c.base.NewRegistrar()
	c.client = &http.Client{Transport: c.transport()}
	between := c.transport()
	if cfg.Secure() {
		between.DialTLSContext = cfg.DialTLS(between.DialContext)
	}
	c.peers = &http.Client{Transport: between}
	return c, nil
}

// transport returns the settings of a client of other components.
func (c *Controller) transport() *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, peers.DialTimeout)
			defer cancel()
			return c.base.Dialer().DialContext(ctx, network, address)
		},
		ResponseHeaderTimeout: 30 * time.Second,
		MaxIdleConnsPerHost:   4,
		IdleConnTimeout:       10 * time.Second,
	}
}

// Run serves until ctx ends, then drains quickly.
func (c *Controller) Run(ctx context.Context) error {
	defer c.base.Close()
	defer c.client.CloseIdleConnections()
	defer c.peers.CloseIdleConnections()
	defer func() {
		if p := c.working(); p != nil {
			p.store.Close()
		}
	}()
	return c.base.Run(ctx, c.registrar.Run, c.serve)
}

// serve opens the database, waiting for it if it must, and then takes requests,
// the bus's first.
func (c *Controller) serve(ctx context.Context) error {
	opened := c.openStore(ctx)
	if opened == nil {
		return nil
	}
	p := c.wire(ctx, opened)
	c.waitFor(errors.New("fetching what the other controllers have"))
	if !c.settle(ctx, p.accounts) {
		return nil
	}
	if err := p.hosts.Subscribe(ctx); err != nil {
		return err
	}
	if err := p.routers.Subscribe(); err != nil {
		return err
	}
	requests, err := p.placer.Subscribe()
	c.mu.Lock()
	c.requests = requests
	c.mu.Unlock()
	if err != nil {
		return err
	}
	c.base.OnConnect(p.placer.Locate)
	var background sync.WaitGroup
	defer background.Wait()
	background.Go(func() { p.hosts.Serve(ctx) })
	background.Go(func() { p.hosts.Announce(ctx) })
	background.Go(func() { p.placer.Serve(ctx) })
	background.Go(func() {
		if err := p.updates.Serve(ctx); err != nil {
			c.base.Log().Error("this controller does not update apps", "error", err)
		}
	})
	background.Go(func() { p.peers.KeepInStep(ctx, func(reason error) { c.waitFor(reason) }) })
	return c.listen(ctx, p)
}

// settle tries until the accounts are where they are wanted, with those of the admins,
// and reports whether they are: ctx may end first.
func (c *Controller) settle(ctx context.Context, a *accounts.Accounts) bool {
	for {
		err := a.Settle(ctx)
		if err == nil {
			err = a.AddAdmins(ctx)
		}
		if err == nil {
			return true
		}
		if known := c.waitFor(err); !known && ctx.Err() == nil {
			c.base.Log().Warn("cannot serve yet; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// openStore tries until the database is there. It returns nil if ctx ends first.
func (c *Controller) openStore(ctx context.Context) *store.Store {
	uri := func() (string, error) { return c.config.Now().DatabaseURI() }
	for {
		attempt, cancel := context.WithTimeout(ctx, 3*time.Minute)
		opened, err := store.Open(attempt, uri, c.base.Dialer())
		cancel()
		if err == nil {
			return opened
		}
		if known := c.waitFor(err); !known {
			c.base.Log().Warn("cannot use the database; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// uaa returns what asks the user component.
func (c *Controller) uaa() *uaa.Client {
	return uaa.New(func() config.UAA { return c.config.Now().UAA }, c.config.Start.Secure(), c.peers)
}

// wire makes the parts, which work until ctx ends.
func (c *Controller) wire(ctx context.Context, opened *store.Store) *parts {
	log, bus := c.base.Log(), c.base.Bus()
	opened.ClaimWithin(func(host string) string { return c.config.Now().ClaimedIn(host) })
	p := &parts{store: opened, frame: rest.NewFrame(ctx, log)}
	p.accounts = accounts.New(accounts.Deps{Config: c.config, Log: log, Store: opened, Guard: c.guard, UAA: c.uaa()})
	p.hosts = hosts.New(hosts.Deps{Config: c.config, Log: log, Bus: bus, Store: opened})
	offered := services.New(services.Deps{
		Config: c.config, Log: log, Store: opened, Client: c.client,
		Restart: func(ctx context.Context, appID int64, cause string) error {
			return p.updates.Restart(ctx, appID, cause)
		},
	})
	p.peers = peers.New(peers.Deps{Config: c.config, Log: log, Store: opened, Blobs: c.blobs, Client: c.peers})
	p.staging = staging.New(staging.Deps{
		Config: c.config, Log: log, Bus: bus, Store: opened, Catalog: c.catalog, Services: offered, Peers: p.peers, Frame: p.frame, Address: c.address, SecureAddress: c.secureAddress,
	})
	p.placer = placement.New(placement.Deps{
		Config: c.config, Log: log, Bus: bus, Store: opened, Blobs: c.blobs, Catalog: c.catalog, Services: offered, Address: c.address, SecureAddress: c.secureAddress,
	})
	p.updates = updates.New(updates.Deps{Config: c.config, Log: log, Bus: bus, Store: opened, Placer: p.placer, Holder: c.base.UUID()})
	p.routers = routers.New(bus, log)
	var inside *http.Client
	if c.config.Start.Secure() {
		inside = c.peers
	}
	p.api = api.New(api.Deps{
		Config: c.config, Log: log, Store: opened, Blobs: c.blobs, Catalog: c.catalog, Client: c.client, Inside: inside, Frame: p.frame,
		Accounts: p.accounts, Hosts: p.hosts, Services: offered, Peers: p.peers, Staging: p.staging, Placer: p.placer, Updates: p.updates, Routers: p.routers,
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.parts = p
	return p
}

// listen serves users and, on a port of its own, the other components, and
// registers the API with the routers.
func (c *Controller) listen(ctx context.Context, p *parts) error {
	cfg := &c.config.Start
	open, err := c.open(cfg, p)
	if err != nil {
		return err
	}
	fail := func(err error) error {
		for _, server := range open {
			err = errors.Join(err, server.Close())
		}
		return err
	}
	c.mu.Lock()
	if c.gone {
		c.mu.Unlock()
		return fail(nil)
	}
	c.public, c.internal, c.secure = open[publicServer], open[internalServer], open[secureServer]
	c.mu.Unlock()
	if err := c.registrar.Register(c.route()); err != nil {
		return fail(err)
	}
	all, ctx := errgroup.WithContext(ctx)
	for name, server := range open {
		c.base.Log().Info("serving", "server", name, "address", server.Addr().String(), "name", cfg.ExternalURI)
		all.Go(func() error { return server.Serve(ctx) })
	}
	return all.Wait()
}

// The names of a controller's servers.
const (
	publicServer   = "public"
	internalServer = "internal"
	secureServer   = "internal TLS"
)

// open takes the ports of all servers that the controller has.
func (c *Controller) open(cfg *config.Config, p *parts) (map[string]*component.Server, error) {
	open := map[string]*component.Server{}
	for _, s := range []struct {
		name   string
		wanted bool
		port   int
		routes http.Handler
	}{
		{internalServer, cfg.InternalPlaintext, cfg.InternalPort, p.api.Internal()},
		{secureServer, cfg.Secure(), cfg.InternalTLSPort, p.api.Internal()},
		{publicServer, true, cfg.ExternalPort, p.api.Routes()},
	} {
		if !s.wanted {
			continue
		}
		server, err := c.server(s.port, s.routes)
		if err != nil {
			for _, other := range open {
				err = errors.Join(err, other.Close())
			}
			return nil, err
		}
		if s.name == secureServer {
			server.TLS = cfg.ServerTLS()
		}
		open[s.name] = server
	}
	return open, nil
}

// server takes a port on the controller's address.
func (c *Controller) server(port int, routes http.Handler) (*component.Server, error) {
	inet := cmp.Or(c.config.Start.Inet, c.base.Address())
	server, err := component.Listen(net.JoinHostPort(inet, strconv.Itoa(port)), routes, c.base.Log())
	if err != nil {
		return nil, err
	}
	server.PeerKeepalive, server.DrainTimeout = c.config.Start.PeerKeepalive, c.config.Start.DrainTimeout
	return server, nil
}

func (c *Controller) route() wire.Registration {
	host, port, _ := net.SplitHostPort(c.Address())
	n, _ := strconv.Atoi(port)
	return wire.Registration{
		Host: host, Port: n, URIs: []string{c.config.Start.ExternalURI}, Tags: wire.Tags{"component": "CloudController"},
		FrontKey: c.config.Start.FrontKey(),
	}
}

// reached returns host:port at which a server is reached, "" if it is nil.
func (c *Controller) reached(server *component.Server) string {
	if server == nil {
		return ""
	}
	_, port, _ := net.SplitHostPort(server.Addr().String())
	return net.JoinHostPort(c.base.Address(), port)
}

// Address returns where users' requests come in, "" as long as the controller
// does not listen.
func (c *Controller) Address() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reached(c.public)
}

// address returns host:port at which other components reach this controller, or
// will.
func (c *Controller) address() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return cmp.Or(c.reached(c.internal), net.JoinHostPort(c.base.Address(), strconv.Itoa(c.config.Start.InternalPort)))
}

// secureAddress returns host:port at which components with a certificate reach this
// controller, or will; "": it has no such server.
func (c *Controller) secureAddress() string {
	if !c.config.Start.Secure() {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return cmp.Or(c.reached(c.secure), net.JoinHostPort(c.base.Address(), strconv.Itoa(c.config.Start.InternalTLSPort)))
}

// working returns the parts, nil as long as the database is not open.
func (c *Controller) working() *parts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parts
}

func (c *Controller) ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting
}

// waitFor sets why the controller is not ready, nil: it is. known reports whether
// it was the reason before.
func (c *Controller) waitFor(reason error) (known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known = c.waiting != nil && reason != nil && c.waiting.Error() == reason.Error()
	c.waiting = reason
	return known
}

// drain withdraws the API's route, finishes requests, stagings too, and returns
// when nothing is served any more. What the health manager asks for goes to
// another controller.
func (c *Controller) drain(ctx context.Context) error {
	c.mu.Lock()
	c.gone = true
	public, others := c.public, []*component.Server{c.internal, c.secure}
	for _, sub := range c.requests {
		_ = sub.Unsubscribe() // fails only with the connection, and then nothing comes
	}
	c.mu.Unlock()
	err := c.registrar.Close(ctx)
	if p := c.working(); p != nil {
		p.updates.Leave()
	}
	if public == nil {
		return err
	}
	err = errors.Join(err, public.Drain(ctx))
	// Stagings in progress, which users wait for, need the internal ones.
	for _, server := range others {
		if server != nil {
			err = errors.Join(err, server.Drain(ctx))
		}
	}
	return err
}

// reload takes what may change while requests are served.
func (c *Controller) reload() error {
	cfg, _, err := config.Load(c.file)
	if err != nil {
		return err
	}
	c.config.Set(cfg)
	return nil
}

func (c *Controller) varz() map[string]any {
	doc := map[string]any{}
	if p := c.working(); p != nil {
		doc = p.frame.Varz(time.Now())
		doc["deas"] = p.placer.Known()
		for key, value := range p.staging.Varz() {
			doc[key] = value
		}
	}
	return doc
}

// shown is the configuration for varz. The base leaves passwords out; these are
// secrets by other names.
func shown(raw map[string]any) map[string]any {
	doc := map[string]any{}
	for key, value := range raw {
		if key != "admin_password" && key != "builtin_services" && key != "uaa" {
			doc[key] = value
		}
	}
	return doc
}
