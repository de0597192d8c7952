package dea

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/confine/warden"
	"github.com/clusterworks/deploy/jobs/dea/internal/bits"
	"github.com/clusterworks/deploy/jobs/dea/internal/core"
	"github.com/clusterworks/deploy/jobs/runtimes"
	"github.com/clusterworks/deploy/jobs/wire"
)

// New reads the configuration, finds out what the machine offers, and opens what
// the DEA needs. Run must follow, which gives all of it back.
func New(p component.Process) (_ *DEA, err error) {
	cfg, raw, err := load(p.ConfigFile)
	if err != nil {
		return nil, err
	}
	if err := makeFolders(cfg.BaseDir); err != nil {
		return nil, err
	}
	d := &DEA{
		config:        cfg,
		finder:        &runtimes.Finder{},
		allotted:      allotted{newUsers(cfg.Index), newPorts(portLocks(), cfg.Ports)},
		connections:   newConnections(),
		wardenCommand: []string{cfg.Warden},
		inbox:         make(chan func(*core.Machine) []core.Action, 256),
		ended:         make(chan struct{}),
		drained:       make(chan struct{}),
		attended:      map[string]*attendant{},
	}
	if d.saved, err = readRecords(d.database()); err != nil {
		return nil, err
	}
	if d.machine, err = survey(context.Background(), cfg, warden.CgroupName("dea", cfg.BaseDir)); err != nil {
		return nil, err
	}
	d.base, err = component.Open(component.Options{
		Type:    "DEA",
		Process: p,
		Config:  cfg.Config,
		Raw:     raw,
		Varz:    d.varz,
		Facts:   func() map[string]string { return map[string]string{"isolation": d.machine.Level()} },
		Drain:   d.drain,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.base.Close()
		}
	}()
	d.routes = d.base.NewRegistrar()
	transport := &http.Transport{
		DialContext: d.base.Dialer().DialContext, ResponseHeaderTimeout: 30 * time.Second,
		IdleConnTimeout: 30 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
	}
	if cfg.Secure() {
		transport.DialTLSContext = cfg.DialTLS(d.base.Dialer().DialContext)
	}
	d.cache = &bits.Cache{
		Dir:        filepath.Join(cfg.BaseDir, "staged"),
		Timeout:    cfg.Intervals.DownloadTimeout.Duration(),
		Client:     &http.Client{Transport: transport},
		MaxDroplet: cfg.MaxDropletMB << 20, MaxTotal: cfg.CacheMB << 20,
		OnlyHTTP: cfg.ForceHTTPSharing,
	}
	if err := d.cache.Clean(); err != nil {
		return nil, err
	}
	d.served.files = &fileServer{folder: filepath.Join(cfg.BaseDir, "apps"), credentials: [2]string{component.RandomHex(), component.RandomHex()}, log: d.base.Log()}
	d.served.files.listener, err = net.Listen("tcp", net.JoinHostPort(d.base.Address(), strconv.Itoa(cfg.FilerPort)))
	if err != nil {
		return nil, fmt.Errorf("cannot serve files: %w", err)
	}
	if cfg.Secure() {
		d.served.sessions = newSessionServer(cfg.Sessions, cfg.ServerTLS(), d.served.files.credentials, d.base.Log())
		d.served.sessions.running, d.served.sessions.records = d.runs, d.records
		d.served.sessions.runtime = func(ctx context.Context, info wire.RuntimeInfo) (string, error) {
			found, err := d.finder.Find(ctx, info)
			return found.Path, err
		}
		d.served.sessions.listener, err = net.Listen("tcp", net.JoinHostPort(d.base.Address(), strconv.Itoa(cfg.Sessions.Port)))
		if err != nil {
			d.served.files.listener.Close()
			return nil, fmt.Errorf("cannot serve sessions: %w", err)
		}
	}
	d.base.Log().Info("isolation of apps", "level", d.machine.Level(), "lacks", d.machine.Lacks)
	return d, nil
}

// Run runs instances until ctx ends. Those that run when it ends by an error, or
// by being killed, run on, and the next DEA with the same folder has them.
func (d *DEA) Run(ctx context.Context) error {
	defer d.base.Close()
	defer d.served.files.listener.Close()
	defer d.machine.Close()
	parts := []func(context.Context) error{d.served.files.serve, d.routes.Run, d.monitor, d.ticks}
	sessionPort := 0
	if d.served.sessions != nil {
		defer d.served.sessions.listener.Close()
		parts = append(parts, d.served.sessions.serve)
		sessionPort = d.served.sessions.listener.Addr().(*net.TCPAddr).Port
	}
	d.leaving = ctx.Done()
	m := core.New(core.Config{
		DEA: d.base.UUID(), IP: d.base.Address(), FilePort: d.served.files.listener.Addr().(*net.TCPAddr).Port, SessionPort: sessionPort, Credentials: d.served.files.credentials,
		Cores: runtime.NumCPU(), MaxMemory: d.config.MaxMemory, MaxClients: d.config.clients(), Prod: d.config.Prod, Isolation: d.machine.Level(), Zone: d.config.Zone,
		Runtimes: d.config.Runtimes.names(), Partition: d.config.Partition, CrashedFor: d.config.Intervals.CrashLifetime.Duration(),
	}, d.saved)
	parts = append(parts, func(ctx context.Context) error { return d.loop(ctx, m) })
	return d.base.Run(ctx, parts...)
}

// loop owns the machine: it alone steps it, saves it and carries its actions
// out.
func (d *DEA) loop(ctx context.Context, m *core.Machine) error {
	// What runs, runs on: the attendants only let go of it.
	work, leave := context.WithCancel(ctx)
	defer close(d.ended)
	defer func() {
		leave()
		d.mu.Lock()
		d.closing = true
		d.mu.Unlock()
		d.aside.Wait()
	}()
	d.carryOut(work, d.recover(work, m))
	if err := d.subscribe(work); err != nil {
		return err
	}
	drained := d.drained
	for {
		var actions []core.Action
		select {
		case <-ctx.Done():
			return nil
		case do := <-d.inbox:
			actions = do(m)
		}
		for more := true; more; {
			select {
			case do := <-d.inbox:
				actions = append(actions, do(m)...)
			default:
				more = false
			}
		}
		// What is on the disk is never older than what is done.
		if m.Changed() {
			if err := writeRecords(d.database(), m.Instances()); err != nil {
				d.base.Log().Error("this DEA would lose its instances if it were killed now", "error", err)
			}
		}
		d.carryOut(work, actions)
		if drained != nil && m.Drained() {
			close(drained)
			drained = nil
		}
	}
}
