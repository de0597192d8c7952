// Package bus is the deployer's side of the deployment's message bus: it asks
// agents, hears their heartbeats, and keeps packages in the object store that
// agents read from. What the agents' side does is in agent/internal/bus; who
// may do what is decided by the job nats.
package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/client"
)

const (
	// connectTimeout bounds one attempt to reach one server.
	connectTimeout = 5 * time.Second
	reconnectWait  = 250 * time.Millisecond
)

// Settings say where the bus is and who connects.
type Settings struct {
	URLs []string // tls://address:port
	// CA, Certificate and Key are PEM; the certificate's identity is
	// api.DeployerIdentity.
	CA, Certificate, Key []byte
	// Dial replaces the net package's, for tunnels. It ends with its context.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Log hears what no caller does; nil discards it.
	Log *slog.Logger
}

// Bus is a connection that comes back by itself as long as it is not closed.
type Bus struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	log  *slog.Logger
	stop context.CancelFunc // of the dialer

	servers int // of the bus

	publishing sync.Mutex // one package at a time, see Publish
}

// Connect returns when a server has admitted us, or with the reason why none
// has; ctx bounds only this.
func Connect(ctx context.Context, s Settings) (*Bus, error) {
	b, err := connect(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to the bus at %s: %w", strings.Join(s.URLs, ", "), err)
	}
	return b, nil
}

func connect(ctx context.Context, s Settings) (*Bus, error) {
	if len(s.URLs) == 0 {
		return nil, errors.New("no URL is known")
	}
	for _, url := range s.URLs {
		if !strings.HasPrefix(url, "tls://") {
			return nil, fmt.Errorf("%q is not a tls:// URL", url)
		}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(s.CA) {
		return nil, errors.New("the settings hold no CA certificate")
	}
	certificate, err := tls.X509KeyPair(s.Certificate, s.Key)
	if err != nil {
		return nil, fmt.Errorf("cannot use the deployer's certificate: %w", err)
	}
	log := s.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}

	// A server that is silent leaves time for the others.
	timeout := connectTimeout
	if end, bounded := ctx.Deadline(); bounded {
		timeout = max(time.Millisecond, min(timeout, time.Until(end)/time.Duration(len(s.URLs))))
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	dialer := &dialer{life: life, dial: s.Dial, timeout: timeout}
	if dialer.dial == nil {
		dialer.dial = new(net.Dialer).DialContext
	}
	// nats.Connect knows no context: its connections are closed when ours ends.
	abandon := context.AfterFunc(ctx, stop)
	nc, err := nats.Connect(strings.Join(s.URLs, ","),
		nats.Name("deployer"),
		nats.Secure(&tls.Config{
			MinVersion:   tls.VersionTLS12,
			RootCAs:      roots,
			Certificates: []tls.Certificate{certificate},
		}),
		nats.SetCustomDialer(dialer),
		nats.Timeout(timeout),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Warn("bus", "error", err) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("bus connection lost", "error", err)
			}
		}),
	)
	if !abandon() && err == nil { // ctx ended between the two
		nc.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		stop()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		stop()
		return nil, err
	}
	return &Bus{nc: nc, js: js, log: log, stop: stop, servers: len(s.URLs)}, nil
}

// Close ends the connection; what waits on it returns an error.
func (b *Bus) Close() {
	b.nc.Close()
	b.stop()
}

// Agent speaks to the agent of an instance.
func (b *Bus) Agent(instance string) *client.Client { return client.NATS(b.nc, instance) }

// Result describes what an agent answered, or why there is no answer.
type Result struct {
	Inventory *api.Inventory // nil if Err is not
	Err       error
}

// Inventories asks the agents of all these instances side by side and answers
// for each. Who has not answered when nobody has for the time of wait is silent;
// many answers at once take longer than that to come in and be read. An agent
// that is not connected is known at once.
func (b *Bus) Inventories(ctx context.Context, instances []string, wait time.Duration) map[string]Result {
	waiting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(wait, func() { cancel(context.DeadlineExceeded) })
	defer silence.Stop()
	results := make([]Result, len(instances))
	var asking sync.WaitGroup
	for i, instance := range instances {
		asking.Go(func() {
			inventory, err := b.Agent(instance).Inventory(waiting)
			switch {
			case err == nil:
				silence.Reset(wait)
				results[i].Inventory = &inventory
			case errors.Is(err, nats.ErrNoResponders):
				results[i].Err = fmt.Errorf("the agent of %s is not connected to the bus: %w", instance, err)
			case waiting.Err() != nil && ctx.Err() == nil:
				results[i].Err = fmt.Errorf("the agent of %s did not answer within %v: %w", instance, wait, err)
			default:
				results[i].Err = err
			}
		})
	}
	asking.Wait()
	answers := make(map[string]Result, len(instances))
	for i, instance := range instances {
		answers[instance] = results[i]
	}
	return answers
}

// Heartbeats calls f for each heartbeat, one at a time, until ctx ends; the
// error is nil then.
func (b *Bus) Heartbeats(ctx context.Context, f func(api.Heartbeat)) error {
	subscription, err := b.nc.SubscribeSync(api.HeartbeatWildcard)
	if err != nil {
		return fmt.Errorf("cannot subscribe to heartbeats: %w", err)
	}
	// Fails only when the connection is gone, and the subscription with it.
	defer func() { _ = subscription.Unsubscribe() }()
	for {
		message, err := subscription.NextMsgWithContext(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, nats.ErrSlowConsumer):
			b.log.Warn("heartbeats were lost: they arrived faster than they were processed")
			continue
		case err != nil:
			return fmt.Errorf("cannot hear heartbeats any more: %w", err)
		}
		var heartbeat api.Heartbeat
		if err := json.Unmarshal(message.Data, &heartbeat); err != nil {
			b.log.Warn("heartbeat is not readable", "subject", message.Subject, "error", err)
			continue
		}
		// The bus vouches for the subject only.
		if api.HeartbeatSubject(heartbeat.Instance) != message.Subject {
			b.log.Warn("heartbeat speaks for another instance", "subject", message.Subject, "instance", heartbeat.Instance)
			continue
		}
		f(heartbeat)
	}
}

// dialer gives nats.go connections that end with life.
type dialer struct {
	timeout time.Duration // of one attempt
	life    context.Context
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
}

// Dial implements nats.CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(d.life, d.timeout)
	defer cancel()
	conn, err := d.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	// A tunnel's connection may know no deadline; closing it always works.
	return &boundConn{conn, context.AfterFunc(d.life, func() { conn.Close() })}, nil
}

type boundConn struct {
	net.Conn
	unbind func() bool
}

func (c *boundConn) Close() error {
	c.unbind()
	return c.Conn.Close()
}
