// Package bus is an agent's connection to the deployment's NATS servers: it
// serves the API there, publishes heartbeats and reads packages. It reconnects
// for ever.
package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/internal/server"
)

const (
	// Reconnecting begins quickly and slows down, jittered, so that a restarted
	// bus is not stormed.
	minReconnect = 100 * time.Millisecond
	maxReconnect = 5 * time.Second
	dialTimeout  = 5 * time.Second
	// A dead peer is noticed after two pings.
	pingInterval = 20 * time.Second
	drainTimeout = 2 * time.Second
)

// Config says where the bus is and who connects.
type Config struct {
	Settings api.Bus
	KeyPEM   []byte // of the certificate in Settings
	Identity server.Identity
	Handlers map[api.Method]server.Handler
	// Connected is called after each (re)connection, from a goroutine of the
	// connection's own; it must not block.
	Connected func()
	Log       *slog.Logger
}

// Bus is a connection that comes back by itself.
type Bus struct {
	config  Config
	nc      *nats.Conn
	service *server.Service
	ends    time.Time // of the certificate
	closed  chan struct{}

	mu   sync.Mutex
	last error         // why there is no connection
	lost chan struct{} // closed when the connection breaks
}

// Open returns at once and connects as soon as it can.
func Open(c Config) (*Bus, error) { return open(c, nats.RetryOnFailedConnect(true)) }

// Connect returns when the bus has answered, or with the reason why it has not
// until the context ended.
func Connect(ctx context.Context, c Config) (*Bus, error) {
	for attempt := 0; ; attempt++ {
		b, err := open(c)
		if err == nil {
			return b, nil
		}
		if errors.Is(err, errSettings) {
			return nil, err
		}
		select {
		case <-time.After(reconnectDelay(attempt)):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// errSettings marks settings that no repetition repairs.
var errSettings = errors.New("cannot use the bus settings")

func open(c Config, more ...nats.Option) (*Bus, error) {
	config, ends, err := tlsConfig(c.Settings, c.KeyPEM)
	if err != nil {
		return nil, err
	}
	b := &Bus{config: c, ends: ends, closed: make(chan struct{}), lost: make(chan struct{})}
	urls := strings.Join(c.Settings.URLs, ",")
	options := append([]nats.Option{
		nats.Name("agent " + c.Identity.Instance),
		nats.Secure(config),
		nats.CustomInboxPrefix(api.InboxPrefix(c.Identity.Instance)),
		nats.Timeout(dialTimeout),
		nats.PingInterval(pingInterval),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // a renewed CA or a repaired server may admit us later
		nats.CustomReconnectDelay(reconnectDelay),
		nats.ReconnectJitter(0, 0),
		nats.DrainTimeout(drainTimeout),
		nats.ConnectHandler(func(*nats.Conn) { b.connected() }),
		nats.ReconnectHandler(func(*nats.Conn) { b.connected() }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { b.disconnected(); b.failed(err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { b.failed(err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { c.Log.Warn("bus", "err", err) }),
		nats.ClosedHandler(func(*nats.Conn) { close(b.closed) }),
	}, more...)
	if b.nc, err = nats.Connect(urls, options...); err != nil {
		return nil, fmt.Errorf("cannot connect to the bus at %s: %w", urls, err)
	}
	if b.service, err = server.NATS(b.nc, c.Identity, c.Handlers, c.Log); err != nil {
		b.nc.Close()
		<-b.closed
		return nil, err
	}
	return b, nil
}

// reconnectDelay is asked after each round over all servers.
func reconnectDelay(attempts int) time.Duration {
	delay := min(maxReconnect, minReconnect<<min(attempts, 6))
	return delay/2 + rand.N(delay/2+1)
}

func tlsConfig(s api.Bus, keyPEM []byte) (*tls.Config, time.Time, error) {
	if len(s.URLs) == 0 {
		return nil, time.Time{}, fmt.Errorf("%w: no URLs", errSettings)
	}
	for _, u := range s.URLs {
		if !strings.HasPrefix(u, "tls://") {
			return nil, time.Time{}, fmt.Errorf("%w: %q is not a tls:// URL", errSettings, u)
		}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(s.CA) {
		return nil, time.Time{}, fmt.Errorf("%w: they have no CA certificate", errSettings)
	}
	own, err := tls.X509KeyPair(s.Certificate, keyPEM)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("%w: the certificate is not for this agent's key: %w", errSettings, err)
	}
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12}, own.Leaf.NotAfter, nil
}

func (b *Bus) connected() {
	b.mu.Lock()
	b.last = nil
	b.mu.Unlock()
	b.config.Connected()
}

// disconnected ends requests whose replies can no longer come.
func (b *Bus) disconnected() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.lost)
	b.lost = make(chan struct{})
}

func (b *Bus) failed(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.last = err
	}
}

// Status is the inventory's view of the connection.
func (b *Bus) Status() api.BusStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := api.BusStatus{
		URLs: b.config.Settings.URLs, Digest: b.config.Settings.Digest, CertificateEnds: &b.ends,
		Connected: b.nc.IsConnected(),
	}
	if !s.Connected && b.last != nil {
		s.Error = b.last.Error()
	}
	return s
}

// Publish sends a message if the bus is there now; an old heartbeat is worth
// nothing.
func (b *Bus) Publish(subject string, data []byte) error {
	if !b.nc.IsConnected() {
		return nats.ErrDisconnected
	}
	return b.nc.Publish(subject, data)
}

// Close answers what was asked, flushes and ends the connection.
func (b *Bus) Close() {
	b.service.Close()
	if b.nc.IsConnected() {
		_ = b.nc.FlushTimeout(drainTimeout) // a bus that does not take the last bytes is left
	}
	b.nc.Close()
	<-b.closed
}
