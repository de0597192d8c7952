// Package routes keeps the routes of an instance's processes known to the
// deployment's routers, over the components' account of the bus. A route is
// registered while its process is healthy, again and again, since routers forget
// what they do not hear of; and unregistered before the process is drained.
// wanted.go decides which, Registrar sends.
package routes

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// The subjects of the components' protocol (docs/protocol.md).
const (
	subjectRegister   = "router.register"
	subjectUnregister = "router.unregister"
	subjectStart      = "router.start"
)

const (
	// every is the time between two registrations of a route that no router asked
	// for more often; routers forget after 120 s.
	every   = 20 * time.Second
	longest = 40 * time.Second

	dialTimeout  = 5 * time.Second
	pingInterval = 20 * time.Second
	minReconnect = 100 * time.Millisecond
	maxReconnect = 5 * time.Second
	// flushTime bounds the wait for a bus that takes no bytes.
	flushTime = 2 * time.Second
)

// Registrar keeps routes registered. Its zero value is not usable; see New.
type Registrar struct {
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu        sync.Mutex
	servers   Servers
	links     map[login]*link // by who is admitted
	have      set             // what the routers were told last
	now       Now             // what it follows from
	withdrawn map[process]bool
	interval  time.Duration
	closed    bool
}

// Servers says where the bus is.
type Servers struct {
	URLs []string // tls://host:port
	CA   []byte   // PEM
}

func (s Servers) equal(t Servers) bool {
	return slices.Equal(s.URLs, t.URLs) && string(s.CA) == string(t.CA)
}

// login is the user of the bus that registers a job's routes.
type login struct{ user, password string }

// link is a connection for the routes of a job. It comes back by itself.
type link struct{ nc *nats.Conn }

// New returns a Registrar without routes.
func New(log *slog.Logger) *Registrar {
	r := &Registrar{log: log, links: map[login]*link{}, have: set{}, withdrawn: map[process]bool{}, interval: every}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.work.Go(r.repeat)
	return r
}

// Update takes what is now: routes that are wanted and were not are registered,
// others unregistered.
func (r *Registrar) Update(servers Servers, now Now) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	if !servers.equal(r.servers) {
		r.hangUp(nil)
		r.servers = servers
	}
	r.now = now
	r.settle()
}

// settle makes the routers know what is wanted. r.mu is held.
func (r *Registrar) settle() {
	forget(r.withdrawn, r.now.Statuses)
	want := r.now.wanted(r.withdrawn)
	needed := map[login]bool{}
	for _, job := range r.now.Spec.Jobs {
		for _, p := range job.Processes {
			for _, t := range p.Routes {
				needed[login{t.User, t.Password}] = true
			}
		}
	}
	for k, route := range r.have {
		if _, still := want[k]; !still {
			r.send(subjectUnregister, k, route)
		}
	}
	r.hangUp(needed) // what goes with its job was unregistered on its connection
	for l := range needed {
		r.dial(l)
	}
	was := r.have
	r.have = want
	for k, route := range want {
		if old, known := was[k]; !known || old.message != route.message || old.login != route.login {
			r.send(subjectRegister, k, route)
		}
	}
}

// Withdraw takes a process off the routers until it was stopped, or Rejoin: also one
// that ends by itself meanwhile and is started again, since it is about to be stopped.
// It returns how long to wait before that, 0 if it has no route now.
func (r *Registrar) Withdraw(job, name string) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, drain := process{job, name}, time.Duration(0)
	for k, route := range r.have {
		if k.process == p {
			drain = max(drain, route.drain)
		}
	}
	r.withdrawn[p] = true
	r.settle()
	if drain > 0 {
		for _, l := range r.links {
			if l.nc.IsConnected() {
				_ = l.nc.FlushTimeout(flushTime) // a bus that does not take it: routers find out by themselves
			}
		}
	}
	return drain
}

// Rejoin has the next Update register a process that runs on after all, and reports
// whether it was withdrawn. What was last known of it is old by now.
func (r *Registrar) Rejoin(job, name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.withdrawn[process{job, name}]
	delete(r.withdrawn, process{job, name})
	return was
}

// Close ends the connections. The routes stay: the processes run on, and the next
// agent registers them again.
func (r *Registrar) Close() {
	r.mu.Lock()
	r.closed = true
	r.hangUp(nil)
	r.mu.Unlock()
	r.cancel()
	r.work.Wait()
}

// repeat registers what is known again and again.
func (r *Registrar) repeat() {
	for {
		r.mu.Lock()
		wait := r.interval
		r.mu.Unlock()
		timer := time.NewTimer(wait*9/10 + rand.N(wait/5))
		select {
		case <-r.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		r.sendAll(login{})
	}
}

// sendAll registers what is known, of one login or of all.
func (r *Registrar) sendAll(of login) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, route := range r.have {
		if of == (login{}) || route.login == of {
			r.send(subjectRegister, k, route)
		}
	}
}

// send publishes with the lock held, so that no registration follows the word that
// the route goes. While the bus is away nothing is sent: all is when it comes back.
func (r *Registrar) send(subject string, k key, route route) {
	l := r.links[route.login]
	if l == nil || !l.nc.IsConnected() {
		return
	}
	if err := l.nc.Publish(subject, []byte(route.message)); err != nil {
		r.log.Warn("cannot tell the routers", "subject", subject, "host", k.host, "err", err)
	}
}

// hangUp ends all connections but these. r.mu is held.
func (r *Registrar) hangUp(but map[login]bool) {
	for who, l := range r.links {
		if but[who] {
			continue
		}
		if l.nc.IsConnected() {
			_ = l.nc.FlushTimeout(flushTime) // as above
		}
		l.nc.Close()
		delete(r.links, who)
	}
}

// dial connects in the background, if there is no connection. r.mu is held.
func (r *Registrar) dial(who login) {
	if r.links[who] != nil || len(r.servers.URLs) == 0 {
		return
	}
	nc, err := r.connect(who)
	if err != nil {
		r.log.Error("cannot register routes", "user", who.user, "err", err)
		return
	}
	r.links[who] = &link{nc}
}

func (r *Registrar) connect(who login) (*nats.Conn, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(r.servers.CA) {
		return nil, errors.New("the bus settings have no CA certificate")
	}
	up := func(*nats.Conn) { r.sendAll(who) }
	nc, err := nats.Connect(strings.Join(r.servers.URLs, ","),
		nats.Name("agent for the routes of "+who.user),
		nats.UserInfo(who.user, who.password),
		nats.Secure(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(),
		nats.Timeout(dialTimeout), nats.PingInterval(pingInterval),
		nats.CustomReconnectDelay(func(attempts int) time.Duration {
			delay := min(maxReconnect, minReconnect<<min(attempts, 6))
			return delay/2 + rand.N(delay/2+1)
		}), nats.ReconnectJitter(0, 0),
		nats.ReconnectBufSize(-1), // what is old when it arrives is not sent
		nats.ConnectHandler(up), nats.ReconnectHandler(up),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { r.log.Warn("bus of routes", "err", err) }),
	)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to the bus: %w", err)
	}
	if _, err := nc.Subscribe(subjectStart, func(m *nats.Msg) { r.started(who, m.Data) }); err != nil {
		nc.Close()
		return nil, fmt.Errorf("cannot hear routers start: %w", err)
	}
	return nc, nil
}

// started answers a router that has started, and takes the interval that it asks for.
func (r *Registrar) started(who login, data []byte) {
	r.mu.Lock()
	r.interval = intervalOf(data)
	r.mu.Unlock()
	r.sendAll(who)
}

// intervalOf returns how often the router wants a registration again, within bounds
// in which no router's word lets routes go stale or floods the bus.
func intervalOf(data []byte) time.Duration {
	var start struct {
		Seconds int `json:"minimumRegisterIntervalInSeconds"`
	}
	if err := json.Unmarshal(data, &start); err != nil || start.Seconds <= 0 {
		return every
	}
	if start.Seconds > int(longest/time.Second) {
		return longest
	}
	return time.Duration(start.Seconds) * time.Second
}

// Hosts returns the hosts that are registered now, sorted, for tests and logs.
func (r *Registrar) Hosts() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	hosts := map[string]bool{}
	for k := range r.have {
		hosts[k.host] = true
	}
	return slices.Sorted(maps.Keys(hosts))
}
