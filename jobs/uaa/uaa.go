// Package uaa is the user component: it keeps accounts, and gives programs tokens for
// them by OAuth 2 and OpenID Connect. public.go answers browsers and clients, login.go
// is the page for passwords, internal.go answers the cloud controllers; storage.go is
// what the OpenID library asks of us.
package uaa

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"
	"golang.org/x/sync/errgroup"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/passwords"
	"github.com/clusterworks/deploy/jobs/uaa/internal/keyring"
	"github.com/clusterworks/deploy/jobs/uaa/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// UAA is a running user component.
type UAA struct {
	file    string
	start   Config // as it was at the start; most keys need a restart
	now     atomic.Pointer[Config]
	base    *component.Component
	routes  *component.Registrar
	guard   passwords.Guard
	renewed chan struct{} // the rules for keys may have changed

	mu       sync.Mutex
	public   *component.Server // nil: does not listen yet
	internal *component.Server
	waiting  error // why it cannot serve yet, nil: it can
	gone     bool  // drained before it listened
}

// parts describes what answers requests, once the database is open.
type parts struct {
	log      *slog.Logger
	start    Config
	settings func() *Config
	store    *store.Store
	keys     *keyring.Ring
	guard    passwords.Guard
	requests sealer
	provider *op.Provider
}

// New reads the configuration and opens what the component needs, except its database
// and ports. Run must follow, which gives all of it back.
func New(p component.Process) (*UAA, error) {
	cfg, raw, err := load(p.ConfigFile)
	if err != nil {
		return nil, err
	}
	u := &UAA{
		file: p.ConfigFile, start: cfg, renewed: make(chan struct{}, 1),
		guard:   passwords.Guard{Hasher: passwords.NewHasher(passwords.ConcurrentHashes, passwords.Recommended), Logins: passwords.NewLimiter(passwords.LoginInterval)},
		waiting: errors.New("waiting for the database"),
	}
	u.now.Store(&cfg)
	u.base, err = component.Open(component.Options{
		Type: "UAA", Process: p, Config: cfg.Config, Raw: raw, Ready: u.ready, Drain: u.drain, Reload: u.reload,
	})
	if err != nil {
		return nil, err
	}
	u.routes = u.base.NewRegistrar()
	return u, nil
}

// Run serves until ctx ends, then drains quickly.
func (u *UAA) Run(ctx context.Context) error {
	defer u.base.Close()
	return u.base.Run(ctx, u.routes.Run, u.serve)
}

func (u *UAA) settings() *Config { return u.now.Load() }

// serve opens the database, waiting for it if it must, and then takes requests.
func (u *UAA) serve(ctx context.Context) error {
	opened := u.openStore(ctx)
	if opened == nil {
		return nil
	}
	defer opened.Close()
	p := &parts{
		log: u.base.Log(), start: u.start, settings: u.settings, store: opened, guard: u.guard,
		keys:     keyring.New(opened, u.base.Log(), func() keyring.Rules { return u.settings().keyRules() }, u.start.Secret),
		requests: newSealer(u.start.derive("logins in progress")),
	}
	var err error
	if p.provider, err = newProvider(p); err != nil {
		return err
	}
	if !u.until(ctx, func() error { return p.keys.Refresh(ctx) }) {
		return nil
	}
	var background sync.WaitGroup
	defer background.Wait()
	background.Go(func() { u.keepInOrder(ctx, p) })
	return u.listen(ctx, p)
}

// openStore tries until the database is there. It returns nil if ctx ends first.
func (u *UAA) openStore(ctx context.Context) (opened *store.Store) {
	u.until(ctx, func() (err error) {
		attempt, cancel := context.WithTimeout(ctx, 3*time.Minute)
		defer cancel()
		opened, err = store.Open(attempt, func() (string, error) { return u.settings().Database.URI() }, u.base.Dialer())
		return err
	})
	return opened
}

// until tries until something is done, and reports whether it is: ctx may end first.
func (u *UAA) until(ctx context.Context, do func() error) bool {
	for told := ""; ; {
		err := do()
		if err == nil {
			return true
		}
		u.waitFor(err)
		if err.Error() != told && ctx.Err() == nil {
			told = err.Error()
			u.base.Log().Warn("cannot use the database; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// keepEvery is the interval at which keys are looked at: another instance may have made one.
const keepEvery = 20 * time.Second

// keepInOrder changes keys when it is time, and removes what has expired.
func (u *UAA) keepInOrder(ctx context.Context, p *parts) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.renewed:
		case <-tick.C:
		}
		if err := errors.Join(p.keys.Refresh(ctx), p.store.DropOld(ctx)); err != nil && ctx.Err() == nil {
			p.log.Warn("cannot keep the database in order; trying again", "error", err)
		}
	}
}

// listen serves users and, on a port of its own, the cloud controllers, and registers
// the component with the routers.
func (u *UAA) listen(ctx context.Context, p *parts) error {
	public, err := u.server(u.start.Port, p.routes())
	if err != nil {
		return err
	}
	internal, err := u.server(u.start.InternalPort, p.internal())
	if err != nil {
		return errors.Join(err, public.Close())
	}
	if u.start.Secure() {
		internal.TLS = u.start.ServerTLS()
	}
	fail := func(err error) error { return errors.Join(err, public.Close(), internal.Close()) }
	u.mu.Lock()
	if u.gone {
		u.mu.Unlock()
		return fail(nil)
	}
	u.public, u.internal, u.waiting = public, internal, nil
	u.mu.Unlock()
	if err := u.routes.Register(wire.Registration{
		Host: u.base.Address(), Port: public.Addr().(*net.TCPAddr).Port, URIs: []string{u.start.host()},
		Tags: wire.Tags{"component": "UAA"}, FrontKey: u.start.frontKey(),
	}); err != nil {
		return fail(err)
	}
	u.base.Log().Info("serving", "address", public.Addr().String(), "internal", internal.Addr().String(), "url", u.start.URL)
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return public.Serve(ctx) })
	all.Go(func() error { return internal.Serve(ctx) })
	return all.Wait()
}

func (u *UAA) server(port int, h http.Handler) (*component.Server, error) {
	s, err := component.Listen(net.JoinHostPort(u.base.Address(), strconv.Itoa(port)), h, u.base.Log())
	if err != nil {
		return nil, err
	}
	s.PeerKeepalive, s.DrainTimeout = u.start.PeerKeepalive, u.start.DrainTimeout
	return s, nil
}

func (u *UAA) ready() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.waiting
}

func (u *UAA) waitFor(reason error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.waiting = reason
}

// drain withdraws the route and finishes requests: users' first, since the controllers'
// are part of them.
func (u *UAA) drain(ctx context.Context) error {
	u.mu.Lock()
	u.gone = true
	servers := []*component.Server{u.public, u.internal}
	u.mu.Unlock()
	err := u.routes.Close(ctx)
	for _, s := range servers {
		if s != nil {
			err = errors.Join(err, s.Drain(ctx))
		}
	}
	return err
}

// reload takes clients, lives and rules for keys.
func (u *UAA) reload() error {
	cfg, _, err := load(u.file)
	if err != nil {
		return err
	}
	u.now.Store(&cfg)
	select {
	case u.renewed <- struct{}{}:
	default:
	}
	return nil
}
