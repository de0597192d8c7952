package component

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// bus is the connection to the message bus. It never gives up: while no server
// answers, publishing fails at once (nothing is kept to be sent late, because
// whatever matters is sent again on connecting) and subscriptions wait.
type bus struct {
	conn *nats.Conn
	log  *slog.Logger
	done chan struct{} // closed when conn is and calls nothing any more

	mu        sync.Mutex
	connected bool
	ever      bool            // was connected at least once
	failure   error           // of the last attempt to connect; nil: connected
	said      map[string]bool // failures of this time without a connection
	closing   bool
	servers   []string
	onConnect []func()
}

// connect starts connecting and returns at the latest when each server was
// tried once; it fails for settings that cannot work only.
func connect(name string, cfg Config, dial *net.Dialer, log *slog.Logger) (*bus, error) {
	b := &bus{log: log, done: make(chan struct{}), servers: slices.Clone(cfg.servers()), said: map[string]bool{}}
	options := []nats.Option{
		nats.Name(name),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, 250*time.Millisecond),
		nats.ReconnectBufSize(-1),
		nats.Timeout(connectTimeout),
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.SetCustomDialer(dial),
		// The file says where the bus is; what servers tell of each other may be
		// addresses that only they can reach.
		nats.IgnoreDiscoveredServers(),
		// A password may be rotated on the server before this file is.
		nats.IgnoreAuthErrorAbort(),
		nats.ConnectHandler(b.connectedTo),
		nats.ReconnectHandler(b.connectedTo),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			b.mu.Lock()
			b.connected = false
			closing := b.closing
			b.mu.Unlock()
			if !closing {
				log.Warn("bus does not answer", "error", err)
			}
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { b.failed(err) }),
		nats.ClosedHandler(func(*nats.Conn) { close(b.done) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			log.Warn("bus reports an error", "subject", subject, "error", err)
		}),
	}
	if user := cfg.busUser(); user != "" {
		// Answers come on subjects that only this user may hear.
		options = append(options, nats.CustomInboxPrefix("_INBOX_component."+user))
	}
	if cfg.CA != "" {
		options = append(options, nats.RootCAs(cfg.CA))
	}
	conn, err := nats.Connect(strings.Join(cfg.servers(), ","), options...)
	if err != nil {
		return nil, fmt.Errorf("cannot use the bus settings: %w", err)
	}
	b.conn = conn
	return b, nil
}

func (b *bus) connectedTo(conn *nats.Conn) {
	b.mu.Lock()
	b.connected, b.ever, b.failure = true, true, nil
	clear(b.said)
	calls := slices.Clone(b.onConnect)
	b.mu.Unlock()
	b.log.Info("connected to the bus", "server", conn.ConnectedAddr())
	for _, call := range calls {
		call()
	}
}

// failed notes why the bus cannot be reached; each of its servers is tried
// several times a second, so what is said already is not said again.
func (b *bus) failed(err error) {
	b.mu.Lock()
	known := b.said[err.Error()]
	b.said[err.Error()] = true
	b.failure = err
	b.mu.Unlock()
	if !known {
		b.log.Warn("cannot reach the bus; trying again", "error", err)
	}
}

// whenConnected calls f on every connect from now on, and now if connected:
// exactly once for each connection.
func (b *bus) whenConnected(f func()) {
	b.mu.Lock()
	b.onConnect = append(b.onConnect, f)
	now := b.connected
	b.mu.Unlock()
	if now {
		f()
	}
}

func (b *bus) isConnected() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.connected
}

// reached says why the bus was never reached, nil if it was.
func (b *bus) reached() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ever {
		return nil
	}
	if b.failure != nil {
		return fmt.Errorf("waiting for the bus: %w", b.failure)
	}
	return errors.New("waiting for the bus")
}

// use takes another list of servers. A connection to a server that stays in
// the list is kept.
func (b *bus) use(servers []string) error {
	b.mu.Lock()
	same := slices.Equal(b.servers, servers)
	b.mu.Unlock()
	if same {
		return nil
	}
	addr := b.conn.ConnectedAddr()
	if err := b.conn.SetServerPool(servers); err != nil {
		return fmt.Errorf("cannot use the new list of bus servers: %w", err)
	}
	b.mu.Lock()
	b.servers = slices.Clone(servers)
	b.mu.Unlock()
	if addr != "" && slices.ContainsFunc(servers, func(s string) bool { return address(s) == addr }) {
		return nil
	}
	b.log.Info("moving to another bus server", "from", addr)
	return b.conn.ForceReconnect()
}

// close gives what was published last a second to leave.
func (b *bus) close() {
	if b.isConnected() {
		_ = b.conn.FlushTimeout(time.Second)
	}
	b.mu.Lock()
	b.closing = true
	b.mu.Unlock()
	b.conn.Close()
	<-b.done
}

// address is the host:port of a server's URI.
func address(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = "4222"
	}
	return net.JoinHostPort(u.Hostname(), port)
}
