package component

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/clusterworks/deploy/agent/host/sockets"
	"github.com/clusterworks/deploy/jobs/wire"
)

// QuickDrain is the time that a component that is told to leave (SIGTERM, SIGINT)
// without having been drained takes for it at most.
const QuickDrain = 4 * time.Second

// Process describes what the operating system and the agent tell a component.
type Process struct {
	ConfigFile string
	// Control is the path of the control socket; "": none.
	Control string
	// Address is the instance's own; "": nobody has told.
	Address string
	// Hangup delivers SIGHUP: the configuration is read again. May be nil.
	Hangup <-chan os.Signal
	// Output is the place where the log goes unless the configuration names a file.
	Output io.Writer
}

// Options describe what a component adds to the base. The functions may be nil; they
// are called from several goroutines.
type Options struct {
	Type    string // as announced: "Router"
	Process Process
	// Config and Raw are what Load returned.
	Config Config
	Raw    map[string]any

	// Varz are the component's own fields of /varz.
	Varz func() map[string]any
	// Ready says why the component cannot serve yet, or nil.
	Ready func() error
	// Facts hold what agents report of the component by name, such as "isolation";
	// README.md says what may be in them.
	Facts func() map[string]string
	// Drain withdraws the component and returns when nothing is served any more.
	// It is called once. When its context ends, what is still served is cut.
	Drain func(context.Context) error
	// Reload takes what changed in the configuration file, after the base did.
	Reload func() error
}

// Component is the running base.
type Component struct {
	options     Options
	log         *slog.Logger
	level       *slog.LevelVar
	ip          net.IP
	dialer      *net.Dialer
	uuid        string
	credentials [2]string
	started     time.Time
	status      net.Listener
	control     net.Listener // nil: none
	bus         *bus
	cleanup     []func() // in reverse order

	reload sync.Mutex // one reload at a time
	mu     sync.Mutex // guards raw
	raw    map[string]any

	draining   chan struct{} // closed when draining begins
	beginDrain func()
	drained    chan struct{} // closed when drainErr is set
	drainErr   error
}

// Open makes everything that can fail for lack of an address, a port or a file,
// and starts connecting to the bus. Whoever opened it calls Close.
func Open(o Options) (_ *Component, err error) {
	if err := o.Config.validate(); err != nil {
		return nil, err
	}
	c := &Component{
		options:  o,
		raw:      o.Raw,
		level:    &slog.LevelVar{},
		started:  time.Now(),
		draining: make(chan struct{}),
		drained:  make(chan struct{}),
	}
	c.beginDrain = sync.OnceFunc(func() { close(c.draining) })
	defer func() {
		if err != nil {
			c.Close()
		}
	}()

	level, err := o.Config.Logging.level()
	if err != nil {
		return nil, err
	}
	c.level.Set(level)
	output := o.Process.Output
	if file := o.Config.Logging.File; file != "" {
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return nil, fmt.Errorf("cannot open the log file: %w", err)
		}
		c.cleanup = append(c.cleanup, func() { f.Close() })
		output = f
	}
	if output == nil {
		output = os.Stderr
	}
	c.log = slog.New(slog.NewTextHandler(output, &slog.HandlerOptions{Level: c.level}))

	if file := o.Config.pidFile(); file != "" {
		closePID, err := writePID(file)
		if err != nil {
			return nil, err
		}
		c.cleanup = append(c.cleanup, closePID)
	}
	ip, fixed, err := ownAddress(o.Config.route(o.Process.Address))
	if err != nil {
		return nil, err
	}
	c.ip, c.dialer = ip, dialer(ip, fixed)
	c.uuid = RandomHex()
	if o.Config.Index != nil {
		c.uuid = strconv.Itoa(*o.Config.Index) + "-" + c.uuid
	}
	c.credentials = [2]string{o.Config.Status.User, o.Config.Status.Password}
	for i := range c.credentials {
		if c.credentials[i] == "" {
			c.credentials[i] = RandomHex()
		}
	}
	c.status, err = net.Listen("tcp", net.JoinHostPort(ip.String(), strconv.Itoa(o.Config.Status.Port)))
	if err != nil {
		return nil, fmt.Errorf("cannot serve the status: %w", err)
	}
	c.cleanup = append(c.cleanup, func() { c.status.Close() })
	if o.Process.Control != "" {
		c.control, err = sockets.Listen(o.Process.Control)
		if err != nil {
			return nil, err
		}
		c.cleanup = append(c.cleanup, func() { c.control.Close() })
	}
	c.bus, err = connect(o.Type+" "+c.uuid, o.Config, c.dialer, c.log)
	if err != nil {
		return nil, err
	}
	c.cleanup = append(c.cleanup, c.bus.close)
	return c, nil
}

// Close leaves the bus and frees what Open took. It is called after Run.
func (c *Component) Close() {
	for i := len(c.cleanup) - 1; i >= 0; i-- {
		c.cleanup[i]()
	}
	c.cleanup = nil
}

// Bus is the connection. It may not be connected at the moment: publishing then
// fails, subscribing does not.
func (c *Component) Bus() *nats.Conn { return c.bus.conn }

// Connected says whether the bus can be reached now.
func (c *Component) Connected() bool { return c.bus.isConnected() }

// OnConnect calls f each time the bus was reached, and at once if it is. f must
// not block for long.
func (c *Component) OnConnect(f func()) { c.bus.whenConnected(f) }

// Log is the component's logger.
func (c *Component) Log() *slog.Logger { return c.log }

// UUID identifies this run of the component.
func (c *Component) UUID() string { return c.uuid }

// Address returns where others reach the component.
func (c *Component) Address() string { return c.ip.String() }

// Dialer makes connections that leave from Address.
func (c *Component) Dialer() *net.Dialer { return c.dialer }

// StatusAddress is the host:port of the status HTTP server.
func (c *Component) StatusAddress() string { return c.status.Addr().String() }

// Ready says why the component cannot serve, or nil. Once it was reached, the
// bus may be away: what is known goes on being served.
func (c *Component) Ready() error {
	select {
	case <-c.draining:
		return errors.New("draining")
	default:
	}
	if err := c.bus.reached(); err != nil {
		return err
	}
	if c.options.Ready != nil {
		return c.options.Ready()
	}
	return nil
}

// Drain begins draining if it has not begun and returns when nothing is served
// any more, or with ctx. Draining goes on when ctx ends, and there is no way
// back from it: a drained process is to be stopped.
func (c *Component) Drain(ctx context.Context) error {
	c.beginDrain()
	select {
	case <-c.drained:
		return c.drainErr
	case <-ctx.Done():
		return fmt.Errorf("cannot wait for the drain any longer: %w", context.Cause(ctx))
	}
}

// Reload reads the configuration file again: log level, bus servers, and what
// the component's own Reload takes. On an error everything stays as it was.
func (c *Component) Reload() error {
	c.reload.Lock()
	defer c.reload.Unlock()
	if c.options.Process.ConfigFile == "" {
		return errors.New("cannot reload: there is no configuration file")
	}
	var cfg Config
	raw, err := Load(c.options.Process.ConfigFile, &cfg)
	if err != nil {
		return err
	}
	if err := cfg.validate(); err != nil {
		return err
	}
	level, err := cfg.Logging.level()
	if err != nil {
		return err
	}
	if c.options.Reload != nil {
		if err := c.options.Reload(); err != nil {
			return err
		}
	}
	if err := c.bus.use(cfg.servers()); err != nil {
		return err
	}
	c.level.Set(level)
	c.mu.Lock()
	c.raw = raw
	c.mu.Unlock()
	c.log.Info("configuration reloaded", "file", c.options.Process.ConfigFile)
	return nil
}

// Run serves status and control, announces the component and runs the parts
// until ctx ends: then it drains quickly, ends the parts' context and waits for
// them. A part that fails ends all the others; one that returns nil does not.
func (c *Component) Run(ctx context.Context, parts ...func(context.Context) error) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, work := errgroup.WithContext(work)
	serve := func(l net.Listener, h http.Handler) {
		server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(c.log.Handler(), slog.LevelDebug)}
		g.Go(func() error {
			defer context.AfterFunc(work, func() { server.Close() })()
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("cannot go on serving %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	serve(c.status, c.statusHandler())
	if c.control != nil {
		serve(c.control, c.controlHandler())
	}
	g.Go(func() error { return c.hangups(work) })
	g.Go(func() error { return c.drainWhenAsked(work) })
	for _, part := range parts {
		g.Go(func() error { return part(work) })
	}
	if err := c.announce(); err != nil {
		stop()
		return errors.Join(err, g.Wait())
	}

	select {
	case <-ctx.Done():
		c.log.Info("leaving")
		quick, cancel := context.WithTimeout(work, QuickDrain)
		if err := c.Drain(quick); err != nil {
			c.log.Warn("left before everything was served", "error", err)
		}
		cancel()
	case <-work.Done():
	}
	stop()
	return g.Wait()
}

// announce answers discover requests and then announces the component, each
// time the bus was reached. The status server is up before.
func (c *Component) announce() error {
	_, err := c.Bus().Subscribe(wire.SubjectDiscover, func(m *nats.Msg) {
		if m.Reply != "" {
			c.publish(m.Reply, c.describe(true))
		}
	})
	if err != nil {
		return fmt.Errorf("cannot subscribe %s: %w", wire.SubjectDiscover, err)
	}
	c.OnConnect(func() { c.publish(wire.SubjectAnnounce, c.describe(false)) })
	return nil
}

// publish sends a message that nobody must receive.
func (c *Component) publish(subject string, message any) {
	data, err := json.Marshal(message)
	if err == nil {
		err = c.Bus().Publish(subject, data)
	}
	if err != nil {
		c.log.Warn("cannot publish", "subject", subject, "error", err)
	}
}

func (c *Component) hangups(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.options.Process.Hangup:
			if err := c.Reload(); err != nil {
				c.log.Error("configuration stays as it was", "error", err)
			}
		}
	}
}

func (c *Component) drainWhenAsked(ctx context.Context) error {
	select {
	case <-ctx.Done():
		c.drainErr = errors.New("cannot drain: the component has ended")
	case <-c.draining:
		c.log.Info("draining")
		if c.options.Drain != nil {
			c.drainErr = c.options.Drain(ctx)
		}
		c.log.Info("drained", "error", c.drainErr)
	}
	close(c.drained)
	return nil
}

// RandomHex returns 16 random bytes in hexadecimal, as the identities and passwords
// of the original are.
func RandomHex() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
