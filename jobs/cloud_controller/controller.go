package cloudcontroller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/auth"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/blob"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/wire"
)

// healthWorkers is how many of the health manager's requests are answered at
// once, and hmQueue how many may wait.
const (
	healthWorkers = 8
	hmQueue       = 1024
)

// Controller is a running cloud controller.
type Controller struct {
	config   Config
	settings atomic.Pointer[Config] // what a reload may change
	file     string
	base     *component.Component
	catalog  catalog
	store    *store.Store // set before requests are taken
	blobs    *blob.Store
	hasher   *auth.Hasher
	logins   *auth.Limiter
	client   *http.Client // to DEAs' file servers and peers
	metrics  metrics
	stagings stagings
	pool     pool

	registrar  *component.Registrar
	hmRequests chan wire.HealthManagerRequest
	hmSubs     []*nats.Subscription // guarded by mu

	mu        sync.Mutex
	work      context.Context   // ends with the controller
	server    *component.Server // nil: does not listen yet
	listening string
	waiting   error // why it cannot serve yet, nil: it can
	gone      bool  // drained before it listened
}

// New reads the configuration and opens what the controller needs, except its
// database and port. Run must follow, which gives all of it back.
func New(p component.Process) (*Controller, error) {
	cfg, raw, err := load(p.ConfigFile)
	if err != nil {
		return nil, err
	}
	catalog, err := newCatalog(cfg.RuntimesFile, cfg.Directories.StagingManifests)
	if err != nil {
		return nil, err
	}
	blobs, err := blob.Open(cfg.Directories.Droplets, cfg.Directories.Resources, cfg.Directories.Tmpdir)
	if err != nil {
		return nil, err
	}
	c := &Controller{
		config: cfg, file: p.ConfigFile, catalog: catalog, blobs: blobs,
		hasher: auth.NewHasher(concurrentHashes, auth.Recommended), logins: auth.NewLimiter(loginBurst, loginInterval),
		hmRequests: make(chan wire.HealthManagerRequest, hmQueue),
		waiting:    errors.New("waiting for the database"),
		work:       context.Background(),
	}
	c.settings.Store(&cfg)
	c.base, err = component.Open(component.Options{
		Type: "CloudController", Process: p, Config: cfg.Config, Raw: shown(raw),
		Varz: c.varz, Ready: c.ready, Drain: c.drain, Reload: c.reload,
	})
	if err != nil {
		return nil, err
	}
	c.registrar = c.base.NewRegistrar()
	c.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			return c.base.Dialer().DialContext(ctx, network, address)
		},
		ResponseHeaderTimeout: 30 * time.Second,
		MaxIdleConnsPerHost:   4,
		IdleConnTimeout:       10 * time.Second,
	}}
	return c, nil
}

// Run serves until ctx ends, then drains quickly.
func (c *Controller) Run(ctx context.Context) error {
	defer c.base.Close()
	defer c.client.CloseIdleConnections()
	defer func() {
		if c.store != nil {
			c.store.Close()
		}
	}()
	return c.base.Run(ctx, c.registrar.Run, c.serve)
}

// serve opens the database, waiting for it if it must, and then takes requests,
// the bus's first.
func (c *Controller) serve(ctx context.Context) error {
	c.mu.Lock()
	c.work = ctx
	c.mu.Unlock()
	if err := c.openStore(ctx); err != nil || c.store == nil {
		return err
	}
	c.waitFor(errors.New("fetching what the other controllers have"))
	if err := c.addAdmins(ctx); err != nil {
		return err
	}
	if err := c.subscribe(); err != nil {
		return err
	}
	var background sync.WaitGroup
	defer background.Wait()
	for range healthWorkers {
		background.Go(func() { c.serveHealthManager(ctx) })
	}
	background.Go(func() { c.keepInStep(ctx) })
	return c.listen(ctx)
}

// openStore tries until the database is there, or ctx ends.
func (c *Controller) openStore(ctx context.Context) error {
	uri := func() (string, error) { return c.settings.Load().databaseURI() }
	for {
		attempt, cancel := context.WithTimeout(ctx, 3*time.Minute)
		opened, err := store.Open(attempt, uri, c.base.Dialer())
		cancel()
		if err == nil {
			c.store = opened
			return nil
		}
		if known := c.waitFor(err); !known {
			c.base.Log().Warn("cannot use the database, trying again and again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// subscribe takes the bus's messages.
func (c *Controller) subscribe() error {
	bus := c.base.Bus()
	for _, subject := range []string{wire.SubjectHealthManagerRequests, wire.PartitionSubject(wire.SubjectHealthManagerRequests, c.config.CCPartition)} {
		sub, err := bus.QueueSubscribe(subject, wire.QueueCloudController, c.hmRequest)
		if err != nil {
			return fmt.Errorf("cannot subscribe %s: %w", subject, err)
		}
		c.mu.Lock()
		c.hmSubs = append(c.hmSubs, sub)
		c.mu.Unlock()
	}
	handlers := map[string]nats.MsgHandler{
		wire.SubjectBulkCredentials: c.bulkCredentials,
		wire.PartitionSubject(wire.SubjectBulkCredentials, c.config.CCPartition): c.bulkCredentials,
		wire.SubjectDEAAdvertise: func(m *nats.Msg) {
			a, err := wire.ParseDEAAdvertise(m.Data)
			if err != nil {
				c.base.Log().Warn("ignoring a message", "subject", m.Subject, "error", err)
				return
			}
			c.pool.heard(a, time.Now())
		},
		wire.SubjectDEAShutdown: func(m *nats.Msg) {
			if s, err := wire.ParseDEAShutdown(m.Data); err == nil {
				c.pool.left(s.ID)
			}
		},
	}
	for subject, handle := range handlers {
		if _, err := bus.Subscribe(subject, handle); err != nil {
			return fmt.Errorf("cannot subscribe %s: %w", subject, err)
		}
	}
	c.base.OnConnect(func() {
		if err := bus.Publish(wire.SubjectDEALocate, nil); err != nil {
			c.base.Log().Warn("cannot publish", "subject", wire.SubjectDEALocate, "error", err)
		}
	})
	return nil
}

// listen serves the API and registers it with the routers.
func (c *Controller) listen(ctx context.Context) error {
	inet := c.config.Inet
	if inet == "" {
		inet = c.base.Address()
	}
	server, err := component.Listen(net.JoinHostPort(inet, strconv.Itoa(c.config.ExternalPort)), c.routes(), c.base.Log())
	if err != nil {
		return err
	}
	server.PeerKeepalive, server.DrainTimeout = c.config.PeerKeepalive, c.config.DrainTimeout
	_, port, err := net.SplitHostPort(server.Addr().String())
	if err != nil {
		return errors.Join(err, server.Close())
	}
	c.mu.Lock()
	if c.gone {
		c.mu.Unlock()
		return server.Close()
	}
	c.server, c.listening = server, net.JoinHostPort(c.base.Address(), port)
	c.mu.Unlock()
	if err := c.registrar.Register(c.route()); err != nil {
		return errors.Join(err, server.Close())
	}
	c.base.Log().Info("serving", "address", server.Addr().String(), "name", c.config.ExternalURI)
	return server.Serve(ctx)
}

func (c *Controller) route() wire.Registration {
	host, port, _ := net.SplitHostPort(c.address())
	n, _ := strconv.Atoi(port)
	return wire.Registration{Host: host, Port: n, URIs: []string{c.config.ExternalURI}, Tags: wire.Tags{"component": "CloudController"}}
}

// Address is where requests come in, "" as long as the controller does not listen.
func (c *Controller) Address() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.listening
}

func (c *Controller) working() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.work
}

func (c *Controller) ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting
}

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
	server := c.server
	for _, sub := range c.hmSubs {
		_ = sub.Unsubscribe() // fails only with the connection, and then nothing comes
	}
	c.mu.Unlock()
	err := c.registrar.Close(ctx)
	if server == nil {
		return err
	}
	return errors.Join(err, server.Drain(ctx))
}

// reload takes what may change while requests are served.
func (c *Controller) reload() error {
	cfg, _, err := load(c.file)
	if err != nil {
		return err
	}
	c.settings.Store(&cfg)
	return nil
}

func (c *Controller) varz() map[string]any {
	doc := c.metrics.varz(time.Now())
	for key, value := range c.stagings.varz() {
		doc[key] = value
	}
	return doc
}

// shown is the configuration for varz. The base leaves passwords out; these are
// secrets by other names.
func shown(raw map[string]any) map[string]any {
	doc := map[string]any{}
	for key, value := range raw {
		if key != "admin_password" && key != "builtin_services" {
			doc[key] = value
		}
	}
	return doc
}
