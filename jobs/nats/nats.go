// Package nats is the deployment's message bus: nats-server as a library, with
// JetStream, TLS, and an admission of its own. Agents and deployers come with a
// client certificate of the deployment's CA that says who they are, components
// with user and password; each has an account that sees nothing of the other.
// A new VM therefore changes nothing here.
package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// Server is one NATS server.
type Server struct {
	cfg       Config
	log       *slog.Logger
	admission *admission
	server    *natsserver.Server
	logger    *serverLog
	ready     chan struct{}
}

// New checks the configuration and reads the credentials. Nothing listens
// before Run.
func New(cfg Config, log *slog.Logger) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	loaded, err := loadCredentials(cfg)
	if err != nil {
		return nil, err
	}
	admission := &admission{deploymentID: cfg.DeploymentID, user: cfg.User, shared: cfg.SharedUser, log: log}
	admission.credentials.Store(loaded)

	options, err := serverOptions(cfg, admission)
	if err != nil {
		return nil, err
	}
	server, err := natsserver.NewServer(options)
	if err != nil {
		return nil, fmt.Errorf("cannot set up the NATS server: %w", err)
	}
	if admission.agents, err = server.LookupAccount(accountAgents); err != nil {
		return nil, fmt.Errorf("cannot find account %s: %w", accountAgents, err)
	}
	if admission.components, err = server.LookupAccount(accountComponents); err != nil {
		return nil, fmt.Errorf("cannot find account %s: %w", accountComponents, err)
	}
	admission.system = server.SystemAccount
	logger := &serverLog{log: log, fatal: make(chan error, 1)}
	server.SetLoggerV2(logger, false, false, false)
	return &Server{
		cfg:       cfg,
		log:       log,
		admission: admission,
		server:    server,
		logger:    logger,
		ready:     make(chan struct{}),
	}, nil
}

// serverOptions turns the job's settings into nats-server's.
func serverOptions(cfg Config, admission *admission) (*natsserver.Options, error) {
	options := &natsserver.Options{}
	// An account's JetStream limits can be given only as configuration text.
	maxStore := cfg.MaxStoreMB << 20
	// Heartbeats alone cross over, to the components whose job's bus block names them
	// (the name server): nothing that could be answered, and nothing back.
	accounts := fmt.Sprintf(`accounts {
		%[1]s { jetstream { max_memory: 0, max_store: %[2]d }, exports [ { stream: "%[4]s", accounts: [%[3]s] } ] }
		%[3]s { imports [ { stream: { account: %[1]s, subject: "%[4]s" } } ] }
	}`, accountAgents, maxStore, accountComponents, heartbeatWildcard)
	if err := options.ProcessConfigString(accounts); err != nil {
		return nil, fmt.Errorf("cannot set up the accounts: %w", err)
	}
	options.ServerName = cfg.Name
	options.Host = cfg.Address
	options.Port = cfg.Port
	options.NoSigs = true
	options.MaxPayload = cfg.MaxPayload
	options.PingInterval = pingInterval
	options.MaxPingsOut = maxPings
	options.TLSTimeout = tlsTimeout.Seconds()
	options.AuthTimeout = tlsTimeout.Seconds() + 1
	options.TLSConfig = admission.tlsConfig()
	options.AllowNonTLS = cfg.AllowPlaintext
	options.CustomClientAuthentication = admission
	options.JetStream = true
	store, err := clearOtherStore(cfg)
	if err != nil {
		return nil, err
	}
	options.StoreDir = store
	options.JetStreamMaxStore = maxStore
	options.JetStreamMaxMemory = 1 // the least: nothing is kept in memory
	if cfg.MonitorPort != 0 {
		options.HTTPHost = cfg.Address
		options.HTTPPort = cfg.MonitorPort
	}
	if cfg.Cluster != nil {
		if err := cfg.Cluster.join(options, cfg, admission); err != nil {
			return nil, err
		}
	}
	if cfg.Bridge != nil {
		if err := cfg.Bridge.listen(options, cfg, admission); err != nil {
			return nil, err
		}
	}
	return options, nil
}

// Run serves until ctx ends, then closes all connections and JetStream's files.
// It is called once.
func (s *Server) Run(ctx context.Context) error {
	begin := time.Now()
	started := make(chan struct{})
	go func() {
		defer close(started)
		s.server.Start()
	}()
	defer func() {
		<-started
		s.server.Shutdown()
		s.server.WaitForShutdown()
	}()

	select {
	case <-started:
	case <-ctx.Done():
		return nil
	}
	// Start reports what it could not do only as a fatal message, before it returns.
	select {
	case err := <-s.logger.fatal:
		return err
	default:
	}
	if !s.server.ReadyForConnections(startTimeout) {
		return errors.New("NATS server is not ready for connections after " + startTimeout.String())
	}
	s.logger.started.Store(true)
	close(s.ready)
	s.log.Info("serving", "address", s.server.Addr().String(), "after", time.Since(begin),
		"certificate_ends", s.admission.credentials.Load().ends())

	select {
	case err := <-s.logger.fatal:
		return err
	case <-ctx.Done():
		return nil
	}
}

// Ready is closed once clients can connect.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Address returns where clients connect, host:port; valid once Ready.
func (s *Server) Address() string { return s.server.Addr().String() }

// Reload reads password and certificates again; when one of them is not usable
// all stay as they were. Existing connections are kept: a new password, or a CA
// that is gone, matters to the next connect.
func (s *Server) Reload() error {
	loaded, err := loadCredentials(s.cfg)
	if err != nil {
		return fmt.Errorf("cannot reload, the previous credentials stay in use: %w", err)
	}
	s.admission.credentials.Store(loaded)
	s.log.Info("credentials reloaded", "certificate_ends", loaded.ends())
	return nil
}

// serverLog is nats-server's logger.
type serverLog struct {
	log   *slog.Logger
	fatal chan error // the first fatal error; the server returns after it
	// started: until then notices are banners and settings, not events.
	started atomic.Bool
}

func (l *serverLog) Noticef(format string, v ...any) {
	level := slog.LevelInfo
	if !l.started.Load() {
		level = slog.LevelDebug
	}
	l.log.Log(context.Background(), level, fmt.Sprintf(format, v...))
}

// Warnf logs a warning, but for one that is not true: peers are verified by
// peerConfig, which nats-server cannot see.
func (l *serverLog) Warnf(format string, v ...any) {
	for _, untrue := range []string{"routes", "leafnodes"} {
		if strings.HasPrefix(format, "TLS certificate chain and hostname of solicited "+untrue+" will not be verified") {
			return
		}
	}
	l.log.Warn(fmt.Sprintf(format, v...))
}

// Errorf logs an error, but for a peer that left before it said anything: that
// is a health check which only connects, once a second and for ever.
func (l *serverLog) Errorf(format string, v ...any) {
	message := fmt.Sprintf(format, v...)
	level := slog.LevelError
	if strings.Contains(message, "TLS handshake error") &&
		(strings.HasSuffix(message, "EOF") || strings.HasSuffix(message, "connection reset by peer")) {
		level = slog.LevelDebug
	}
	l.log.Log(context.Background(), level, message)
}

func (l *serverLog) Debugf(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *serverLog) Tracef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }

func (l *serverLog) Fatalf(format string, v ...any) {
	select {
	case l.fatal <- fmt.Errorf("NATS server cannot go on: "+format, v...):
	default:
	}
}
