// Package agent is what runs on a VM: it installs jobs, supervises their
// processes and reports their health. Agent wires the parts: internal/install
// (packages, generations, the order of an update), internal/supervise and
// internal/shim (processes), internal/server (the API's transports),
// internal/bus (NATS). Package api has the types, client speaks the API,
// agenttest starts an agent inside a test.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/host/proc"
	"github.com/clusterworks/deploy/agent/host/sockets"
	"github.com/clusterworks/deploy/agent/internal/bus"
	"github.com/clusterworks/deploy/agent/internal/install"
	"github.com/clusterworks/deploy/agent/internal/routes"
	"github.com/clusterworks/deploy/agent/internal/server"
	"github.com/clusterworks/deploy/agent/internal/shim"
	"github.com/clusterworks/deploy/agent/internal/supervise"
)

// Config says where an agent lives and what it starts processes with.
type Config struct {
	Dir     string // its folder: everything it knows is there
	Version string
	Digest  string // sha256 of the executable, hex
	// Shim is the command that starts a shim, without the --dir of a process.
	Shim []string
	// Env is the environment that processes and hooks get before their own.
	Env []string
	// ManagePackages lets the agent call the VM's package manager.
	ManagePackages bool
	// Root is the folder that holds the machine's /etc; "" means /.
	Root string
	// Parts are the agent's own files in its folder, besides those that it writes:
	// an inventory tells when they are not what they were.
	Parts []Part
	Log   *slog.Logger
}

// Agent is a running agent. There is at most one a folder.
type Agent struct {
	config  Config
	started time.Time
	parent  int // who started this process
	bootID  string
	key     *key

	ctx    context.Context
	cancel context.CancelCauseFunc
	work   sync.WaitGroup // operations, heartbeat, server

	lock       *os.File
	supervisor *supervise.Supervisor
	installer  *install.Installer
	handlers   map[api.Method]server.Handler
	http       *http.Server
	beat       chan struct{} // asks for a heartbeat now
	routing    routing
	firewall   *firewallKeeper

	mu       sync.Mutex
	identity identity
	outward
	ops *operations
}

// outward holds the services that an agent offers beside its socket: the bus and
// metrics, as configured.
type outward struct {
	bus       *bus.Bus       // nil as long as there is none
	busError  string         // why there is none although there are settings
	metrics   *metricsServer // nil if there is none
	forwarder *forwarder     // nil if there is none
}

// errClosing is the cause of what Close ends.
var errClosing = errors.New("the agent is ending")

// lockPoll is the interval at which a standby looks whether the agent's folder is free.
const lockPoll = 50 * time.Millisecond

// Open waits until no other agent holds the folder, takes up what it finds
// there and serves the API on run/agent.sock. The context bounds the start,
// not the agent's life, which Close ends.
func Open(ctx context.Context, c Config) (*Agent, error) {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot find the agent's folder %s: %w", c.Dir, err)
	}
	c.Dir = dir
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	for _, name := range []string{"run", "ops"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return nil, fmt.Errorf("cannot make the agent's folder: %w", err)
		}
	}
	a := &Agent{config: c, started: time.Now().UTC(), parent: os.Getppid(), beat: make(chan struct{}, 1)}
	a.routing.registrar, a.routing.changed = routes.New(c.Log), make(chan struct{}, 1)
	a.ctx, a.cancel = context.WithCancelCause(context.Background())
	if err := a.open(ctx); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

func (a *Agent) open(ctx context.Context) error {
	c := a.config
	var err error
	if a.lock, err = lockFolder(ctx, filepath.Join(c.Dir, "agent.lock")); err != nil {
		return err
	}
	if a.bootID, err = proc.BootID(); err != nil {
		return err
	}
	var set []string // aside
	note := func(text string) {
		c.Log.Error("a file of the agent was damaged", "what", text)
		set = append(set, text)
	}
	if a.key, err = takeKey(filepath.Join(c.Dir, "key.pem"), note); err != nil {
		return err
	}
	if a.identity, err = takeIdentity(filepath.Join(c.Dir, "agent.json"), note); err != nil {
		return err
	}
	if err := shim.EndLost(ctx, c.Dir, c.Log); err != nil {
		return fmt.Errorf("cannot end the processes of an agent whose folder was removed: %w", err)
	}
	if a.ops, err = loadOperations(filepath.Join(c.Dir, "ops"), c.Log); err != nil {
		return err
	}
	a.firewall = newFirewallKeeper(c.Dir, c.Log, func() []string {
		a.mu.Lock()
		defer a.mu.Unlock()
		return peersOf(a.identity.Names)
	})
	a.supervisor, err = supervise.Open(ctx, supervise.Config{Dir: c.Dir, Shim: c.Shim, Env: c.Env, Log: c.Log, Changed: a.changedHealth, Damaged: note})
	if err != nil {
		return fmt.Errorf("cannot adopt the running processes: %w", err)
	}
	a.installer, err = install.Open(install.Config{
		Dir: c.Dir, Supervisor: a.supervisor, Withdraw: a.withdraw, Rejoin: a.rejoin, Fetch: a.fetch, Guard: a.firewall.guard, Env: c.Env, ManagePackages: c.ManagePackages, Log: c.Log, Damaged: note,
	})
	if err != nil {
		return err
	}
	a.identity.damaged = set
	a.firewall.resume(ctx, a.installer)
	if err := a.installer.Resume(ctx); err != nil {
		// The API must answer all the same, or nobody could repair it.
		c.Log.Error("cannot restore the processes that should run", "err", err)
	}
	a.handlers = server.Handlers(a)
	socket := filepath.Join(c.Dir, "run", "agent.sock")
	listener, err := sockets.Listen(socket)
	if err != nil {
		return err
	}
	if err := os.Chmod(socket, 0o600); err != nil { // its owner's only
		return errors.Join(err, listener.Close())
	}
	if address := metricsAddress(a.identity); address != "" {
		a.metrics = a.serveMetrics(address, nil)
	}
	a.configureSyslog()
	if a.identity.Names != nil {
		if err := a.identity.nameHosts(c.Root); err != nil { // the next apply says it
			c.Log.Error("cannot name the hosts of the deployment", "err", err)
		}
	}
	instance := a.identity.Instance
	a.serve(listener) // from here on operations may come, and change the identity
	a.resumeBus()
	a.work.Go(a.heartbeats)
	a.work.Go(a.keepRoutes)
	a.work.Go(func() { a.firewall.keep(a.ctx) })
	a.rerouteSoon()
	c.Log.Info("agent is up", "dir", c.Dir, "version", c.Version, "instance", instance)
	return nil
}

func (a *Agent) serve(listener net.Listener) {
	a.http = &http.Server{
		Handler: server.HTTP(a.handlers),
		// Long polls end with the agent.
		BaseContext:       func(net.Listener) context.Context { return a.ctx },
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(a.config.Log.Handler(), slog.LevelWarn),
	}
	a.work.Go(func() {
		if err := a.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			a.config.Log.Error("stopped serving the API", "err", err)
		}
	})
}

// Close ends operations, transports and supervision and leaves the processes
// running. An operation in progress fails with CodeInterrupted.
func (a *Agent) Close() error {
	a.mu.Lock() // no operation begins from here on: the bus may still bring some
	a.cancel(errClosing)
	a.mu.Unlock()
	var problems []error
	if a.http != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		if err := a.http.Shutdown(ctx); err != nil {
			problems = append(problems, a.http.Close())
		}
		cancel()
	}
	a.work.Wait()
	a.routing.registrar.Close()
	a.mu.Lock()
	b, metrics, forwarder := a.bus, a.metrics, a.forwarder
	a.bus, a.metrics, a.forwarder = nil, nil, nil
	a.mu.Unlock()
	metrics.close()
	forwarder.close()
	if b != nil {
		b.Close()
	}
	if a.supervisor != nil {
		problems = append(problems, a.supervisor.Close())
	}
	if a.lock != nil {
		problems = append(problems, a.lock.Close())
	}
	return errors.Join(problems...)
}

// Socket is the path of the API's socket.
func (a *Agent) Socket() string { return filepath.Join(a.config.Dir, "run", "agent.sock") }

// lockFolder waits for the lock. It is the kernel's, so it ends with its
// holder, however that ends.
func lockFolder(ctx context.Context, name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the agent's folder: %w", err)
	}
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("cannot lock the agent's folder %s: %w", filepath.Dir(name), err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("cannot lock the agent's folder %s: another agent holds it: %w", filepath.Dir(name), context.Cause(ctx))
		case <-ticker.C:
		}
	}
}
