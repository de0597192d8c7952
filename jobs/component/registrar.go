package component

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Registrar keeps routes known to the routers: it registers each when it is
// added, whenever a router starts or the bus comes back, and again and again in
// the interval that the routers ask for. Its Run is a part of Component.Run.
type Registrar struct {
	component *Component
	greet     chan struct{} // a router's interval is to be asked for

	mu       sync.Mutex
	routes   map[string]wire.Registration // by host:port
	interval time.Duration
	closed   bool
}

// NewRegistrar returns a Registrar without routes.
func (c *Component) NewRegistrar() *Registrar {
	return &Registrar{
		component: c,
		greet:     make(chan struct{}, 1),
		routes:    map[string]wire.Registration{},
		interval:  wire.RegisterInterval,
	}
}

// Register adds a route, or replaces the one with the same host and port, and
// tells the routers.
func (r *Registrar) Register(route wire.Registration) error {
	if err := route.Validate(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return fmt.Errorf("cannot register %s: draining", routeKey(route))
	}
	r.routes[routeKey(route)] = route
	r.send(wire.SubjectRouterRegister, route)
	return nil
}

// Unregister removes a route and tells the routers.
func (r *Registrar) Unregister(route wire.Registration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.routes, routeKey(route))
	r.send(wire.SubjectRouterUnregister, route)
}

// Close removes all routes for good and returns when the bus has the word. A bus
// that is away is no error: routers drop the routes by themselves.
func (r *Registrar) Close(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	for _, route := range r.routes {
		r.send(wire.SubjectRouterUnregister, route)
	}
	clear(r.routes)
	r.mu.Unlock()
	if !r.component.Connected() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := r.component.Bus().FlushWithContext(ctx); err != nil {
		return fmt.Errorf("cannot tell the routers that this instance stops: %w", err)
	}
	return nil
}

// Run keeps the routes registered until ctx ends.
func (r *Registrar) Run(ctx context.Context) error {
	bus := r.component.Bus()
	sub, err := bus.Subscribe(wire.SubjectRouterStart, func(m *nats.Msg) {
		r.heard(m.Data)
		r.sendAll()
	})
	if err != nil {
		return fmt.Errorf("cannot subscribe %s: %w", wire.SubjectRouterStart, err)
	}
	// Fails only with the connection, and then there is nothing to undo.
	defer func() { _ = sub.Unsubscribe() }()
	r.component.OnConnect(func() {
		r.sendAll()
		select {
		case r.greet <- struct{}{}:
		default:
		}
	})
	timer := time.NewTimer(r.every())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.greet:
			ask, cancel := context.WithTimeout(ctx, 2*time.Second)
			// v1 routers do not answer, and there may be none yet.
			if m, err := bus.RequestWithContext(ask, wire.SubjectRouterGreet, nil); err == nil {
				r.heard(m.Data)
			}
			cancel()
		case <-timer.C:
			r.sendAll()
		}
		timer.Reset(r.every())
	}
}

// heard takes the interval that a router asks for.
func (r *Registrar) heard(data []byte) {
	start, err := wire.ParseRouterStart(data)
	if err != nil {
		r.component.log.Warn("ignoring a router's message", "error", err)
		return
	}
	r.mu.Lock()
	r.interval = start.Interval()
	r.mu.Unlock()
}

func (r *Registrar) every() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.interval
}

func (r *Registrar) sendAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, route := range r.routes {
		r.send(wire.SubjectRouterRegister, route)
	}
}

// send publishes with the lock held, so that a registration never follows the
// word that the route is gone. While the bus is away nothing is sent: it is
// when it comes back.
func (r *Registrar) send(subject string, route wire.Registration) {
	if !r.component.Connected() {
		return
	}
	data, err := json.Marshal(route)
	if err == nil {
		err = r.component.Bus().Publish(subject, data)
	}
	if err != nil {
		r.component.log.Warn("cannot tell the routers", "subject", subject, "error", err)
	}
}

func routeKey(route wire.Registration) string {
	return net.JoinHostPort(route.Host, strconv.Itoa(route.Port))
}
