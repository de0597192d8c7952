// Package postgresqlnode is the node of the service postgresql: one PostgreSQL server,
// with a database and an owner role for each instance, and a role for each binding.
// cluster.go finds, makes and runs the server, database.go what is in it, limits.go
// keeps its users within their plan.
package postgresqlnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/clusterworks/deploy/agent/host/sockets"
	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/component/node/limits"
	"github.com/clusterworks/deploy/jobs/component/node/servers"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Settings are the service's keys of the configuration file.
type Settings struct {
	PostgreSQL struct {
		// Programs is the folder of the server's programs; "": the newest version of
		// Debian's, or the one that the data is from.
		Programs        string `yaml:"programs"`
		RunAs           string `yaml:"run_as"`
		Port            int    `yaml:"port"`
		SharedBuffersMB int    `yaml:"shared_buffers_mb"`
		// What an instance may have, and do.
		MaxDatabaseMB      int               `yaml:"max_db_size_mb"`
		MaxConnections     int               `yaml:"max_db_conns"`
		MaxQuery           component.Seconds `yaml:"max_long_query"`
		MaxTransaction     component.Seconds `yaml:"max_long_tx"`
		TemporaryFileLimit int               `yaml:"temp_file_limit_mb"`
	} `yaml:"postgresql"`
}

// Definition says how the node begins.
func Definition() node.Definition {
	s := &Settings{}
	return node.Definition{
		Name: "postgresql", Settings: s,
		Open: func(ctx context.Context, h node.Host) (node.Service, error) { return open(h, *s) },
	}
}

// defaults fills in what is not set.
func (s *Settings) defaults() error {
	p := &s.PostgreSQL
	for at, otherwise := range map[*int]int{
		&p.Port: 5432, &p.SharedBuffersMB: 64, &p.MaxDatabaseMB: 256, &p.MaxConnections: 20, &p.TemporaryFileLimit: 256,
	} {
		if *at == 0 {
			*at = otherwise
		}
	}
	for at, otherwise := range map[*component.Seconds]component.Seconds{&p.MaxQuery: 60, &p.MaxTransaction: 300} {
		if *at == 0 {
			*at = otherwise
		}
	}
	if p.RunAs == "" {
		p.RunAs = "postgres"
	}
	switch {
	case p.Port < 1 || p.Port > 65535:
		return errors.New("postgresql.port is not within 1 and 65535")
	case p.MaxDatabaseMB < 10:
		return errors.New("postgresql.max_db_size_mb must be at least 10: an empty database has 8 MB")
	case p.MaxConnections < 1 || p.MaxConnections > 1000:
		return errors.New("postgresql.max_db_conns is not within 1 and 1000")
	case p.MaxQuery < 0 || p.MaxTransaction < 0:
		return errors.New("postgresql.max_long_query and max_long_tx must be above 0")
	}
	return nil
}

// administrator is the server's superuser. Only the node's own user can be it, through
// the socket in the server's folder.
const administrator = "postgres"

// held is the number of connections of its own that the node keeps, so that they are there when
// users have taken all others; reserved is how many the server keeps for it.
const (
	held     = 6
	reserved = 2 * held
)

// service is PostgreSQL as a node.Service.
type service struct {
	settings Settings
	host     node.Host
	cluster  *cluster
	pool     *pgxpool.Pool

	servers.Readiness
}

func open(h node.Host, settings Settings) (*service, error) {
	if err := settings.defaults(); err != nil {
		return nil, err
	}
	c, err := findCluster(filepath.Join(h.Config.BaseDir, "postgresql"), settings, h)
	if err != nil {
		return nil, err
	}
	s := &service{settings: settings, host: h, cluster: c}
	s.SetReady(errors.New("the server is starting"))
	poolConfig, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, fmt.Errorf("cannot prepare connections to the server: %w", err)
	}
	poolConfig.ConnConfig = s.as(administrator, "", "postgres")
	poolConfig.MaxConns, poolConfig.MinConns = held, held
	poolConfig.MaxConnIdleTime, poolConfig.MaxConnLifetime = 1<<62, 1<<62
	poolConfig.HealthCheckPeriod = time.Second
	if s.pool, err = pgxpool.NewWithConfig(context.Background(), poolConfig); err != nil {
		return nil, fmt.Errorf("cannot prepare connections to the server: %w", err)
	}
	return s, nil
}

// as returns how to connect to a database through the server's socket. Nothing is taken from
// the environment.
func (s *service) as(role, password, database string) *pgx.ConnConfig {
	c, err := pgx.ParseConfig("host=/nowhere port=1 user=nobody dbname=none sslmode=disable passfile=/dev/null servicefile=/dev/null")
	if err != nil {
		panic("a constant cannot be parsed: " + err.Error())
	}
	c.User, c.Password, c.Database = role, password, database
	c.ConnectTimeout = 5 * time.Second
	c.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) { return sockets.Dial(ctx, s.cluster.socket()) }
	c.RuntimeParams = map[string]string{"application_name": "service node"}
	if role == administrator {
		// Users' objects are never found by their names alone, and the plan's limits are
		// not the node's.
		for name, value := range map[string]string{
			"search_path": "pg_catalog", "statement_timeout": "0", "idle_in_transaction_session_timeout": "0", "lock_timeout": "4s",
		} {
			c.RuntimeParams[name] = value
		}
	}
	return c
}

// Version is that of the server.
func (s *service) Version() string { return s.cluster.version }

// Run keeps the server running and its users within their plan until ctx ends.
func (s *service) Run(ctx context.Context) error {
	running := servers.New(s.cluster.account, s.host.Log)
	defer running.Close()
	defer s.pool.Close()
	defer s.SetReady(errors.New("the node ends"))
	if err := s.cluster.prepare(ctx); err != nil {
		return err
	}
	if err := running.Start(ctx, "server", s.cluster.folder, s.cluster.command()); err != nil {
		return err
	}
	limits.Keeper{Begin: s.begin, Watch: s.watch, CheckSizes: s.checkSizes, SetReady: s.SetReady}.Run(ctx)
	return nil
}

// Provision makes an instance's roles and its database.
func (s *service) Provision(ctx context.Context, i node.Instance) (wire.Credentials, error) {
	if err := validNames(i); err != nil {
		return nil, err
	}
	if err := s.makeDatabase(ctx, i); err != nil {
		return nil, err
	}
	return s.credentials(i, i.User, i.Password), nil
}

func (s *service) credentials(i node.Instance, user, password string) wire.Credentials {
	return wire.Credentials{
		"hostname": s.host.Address, "host": s.host.Address, "port": s.settings.PostgreSQL.Port, "user": user, "username": user, "password": password,
	}
}

// Unprovision removes an instance's database and its roles, and ends their sessions.
func (s *service) Unprovision(ctx context.Context, i node.Instance) error {
	statements := append(dropBeside(i), "DROP DATABASE IF EXISTS "+name(i.Name)+" WITH (FORCE)")
	for _, role := range append(usersOf(i), keeper(i)) {
		statements = append(statements, "DROP ROLE IF EXISTS "+name(role))
	}
	return s.administer(ctx, statements...)
}

// Bind makes a role that has what the owner has, and whose objects are the owner's.
func (s *service) Bind(ctx context.Context, i node.Instance, b node.Binding) (wire.Credentials, error) {
	if err := validRole(b.User); err != nil {
		return nil, err
	}
	if err := s.makeRole(ctx, i, b); err != nil {
		return nil, err
	}
	return s.credentials(i, b.User, b.Password), nil
}

// Unbind removes a role, and gives what it owns to the owner.
func (s *service) Unbind(ctx context.Context, i node.Instance, b node.Binding) error {
	return s.removeRole(ctx, i, b.User)
}

// within connects to a database as its administrator. A server whose connections are
// all taken is asked again until ctx ends: those of strangers end by themselves.
func (s *service) within(ctx context.Context, database string, work func(*pgx.Conn) error) error {
	for {
		conn, err := pgx.ConnectConfig(ctx, s.as(administrator, "", database))
		if err == nil {
			defer conn.Close(context.WithoutCancel(ctx))
			return work(conn)
		}
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || refused.Code != "53300" {
			return fmt.Errorf("cannot connect to the database %s: %w", database, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot connect to the database %s: %w", database, errors.Join(context.Cause(ctx), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// administer does statements one after the other, each for itself.
func (s *service) administer(ctx context.Context, statements ...string) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	defer conn.Release()
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return withoutStatement(err)
		}
	}
	return nil
}

// withoutStatement is an error of the server that quotes nothing of a statement, in
// which there may be a password.
func withoutStatement(err error) error {
	var failed *pgconn.PgError
	if errors.As(err, &failed) {
		return errors.New("the server answers: " + failed.Message + " (" + failed.Code + ")")
	}
	return err
}

// name quotes an identifier.
func name(n string) string { return pgx.Identifier{n}.Sanitize() }

func megabytes(n int) string { return strconv.Itoa(n) + "MB" }
