// Package mysqlnode is the node of the service mysql: one MariaDB server, with a
// database for each instance and a user for each binding. server.go finds, makes and
// runs the server, database.go what is in it, limits.go keeps its users within their
// plan.
package mysqlnode

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/clusterworks/deploy/agent/host/sockets"
	"github.com/clusterworks/deploy/jobs/component"
	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/component/node/limits"
	"github.com/clusterworks/deploy/jobs/component/node/servers"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Settings are the service's keys of the configuration file.
type Settings struct {
	MySQL struct {
		Program      string `yaml:"program"`
		RunAs        string `yaml:"run_as"`
		Port         int    `yaml:"port"`
		BufferPoolMB int    `yaml:"buffer_pool_mb"`
		// What an instance may have, and do.
		MaxDatabaseMB  int               `yaml:"max_db_size_mb"`
		MaxConnections int               `yaml:"max_user_conns"`
		MaxQuery       component.Seconds `yaml:"max_long_query"`
		MaxTransaction component.Seconds `yaml:"max_long_tx"`
	} `yaml:"mysql"`
}

// Definition says how the node begins.
func Definition() node.Definition {
	s := &Settings{}
	return node.Definition{
		Name: "mysql", Settings: s,
		Open: func(ctx context.Context, h node.Host) (node.Service, error) { return open(h, *s) },
	}
}

func (s *Settings) defaults() error {
	m := &s.MySQL
	for at, otherwise := range map[*int]int{&m.Port: 3306, &m.BufferPoolMB: 64, &m.MaxDatabaseMB: 256, &m.MaxConnections: 20} {
		if *at == 0 {
			*at = otherwise
		}
	}
	for at, otherwise := range map[*component.Seconds]component.Seconds{&m.MaxQuery: 60, &m.MaxTransaction: 300} {
		if *at == 0 {
			*at = otherwise
		}
	}
	if m.RunAs == "" {
		m.RunAs = "mysql"
	}
	if m.Program == "" {
		m.Program = "/usr/sbin/mariadbd"
	}
	switch {
	case m.Port < 1 || m.Port > 65535:
		return errors.New("mysql.port is not within 1 and 65535")
	case m.MaxDatabaseMB < 1:
		return errors.New("mysql.max_db_size_mb must be at least 1")
	case m.MaxConnections < 1 || m.MaxConnections > 1000:
		return errors.New("mysql.max_user_conns is not within 1 and 1000")
	case m.BufferPoolMB < 8:
		return errors.New("mysql.buffer_pool_mb must be at least 8")
	case m.MaxQuery < 0 || m.MaxTransaction < 0:
		return errors.New("mysql.max_long_query and max_long_tx must be above 0")
	}
	return nil
}

// held is the number of connections of its own that the node keeps, so that they are there when
// users have taken all others.
const held = 6

// service is MariaDB as a node.Service.
type service struct {
	settings Settings
	host     node.Host
	server   *server
	db       *sql.DB // as the administrator

	servers.Readiness
}

func open(h node.Host, settings Settings) (*service, error) {
	if err := settings.defaults(); err != nil {
		return nil, err
	}
	found, err := findServer(filepath.Join(h.Config.BaseDir, "mysql"), settings, h)
	if err != nil {
		return nil, err
	}
	s := &service{settings: settings, host: h, server: found}
	s.SetReady(errors.New("the server is starting"))
	c := mysql.NewConfig()
	c.User, c.Net, c.Addr = found.administrator, "unix", "server"
	c.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) { return sockets.Dial(ctx, found.socket()) }
	c.Timeout, c.AllowNativePasswords = 5*time.Second, true
	c.Logger = quiet{}
	// The limits of users are not the node's.
	c.Params = map[string]string{"max_statement_time": "0", "idle_transaction_timeout": "0", "lock_wait_timeout": "4", "innodb_lock_wait_timeout": "4", "sql_mode": "'STRICT_TRANS_TABLES'"}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, fmt.Errorf("cannot prepare connections to the server: %w", err)
	}
	s.db = sql.OpenDB(connector)
	s.db.SetMaxOpenConns(held)
	s.db.SetMaxIdleConns(held)
	return s, nil
}

// quiet logs nothing: errors are returned as well.
type quiet struct{}

func (quiet) Print(...any) {}

// Version is that of the server.
func (s *service) Version() string { return s.server.version }

// Run keeps the server running and its users within their plan until ctx ends.
func (s *service) Run(ctx context.Context) error {
	running := servers.New(s.server.account, s.host.Log)
	defer running.Close()
	defer s.db.Close()
	defer s.SetReady(errors.New("the node ends"))
	if err := s.server.prepare(ctx); err != nil {
		return err
	}
	if err := running.Start(ctx, "server", s.server.folder, s.server.command()); err != nil {
		return err
	}
	limits.Keeper{Begin: s.compare, Watch: s.watch, CheckSizes: s.checkSizes, SetReady: s.SetReady}.Run(ctx)
	return nil
}

// Provision makes an instance's database and its owner.
func (s *service) Provision(ctx context.Context, i node.Instance) (wire.Credentials, error) {
	if err := errors.Join(validName(i.Name), validName(i.User)); err != nil {
		return nil, err
	}
	if err := s.makeDatabase(ctx, i); err != nil {
		return nil, err
	}
	return s.credentials(i.User, i.Password), nil
}

func (s *service) credentials(user, password string) wire.Credentials {
	return wire.Credentials{
		"hostname": s.host.Address, "host": s.host.Address, "port": s.settings.MySQL.Port, "user": user, "username": user, "password": password,
	}
}

// Unprovision removes an instance's database and its users, and ends their sessions.
func (s *service) Unprovision(ctx context.Context, i node.Instance) error {
	users, err := s.usersOf(ctx, i)
	if err != nil {
		return err
	}
	for _, user := range users {
		if err := s.removeUser(ctx, user); err != nil {
			return err
		}
	}
	return errors.Join(s.do(ctx, "DROP DATABASE IF EXISTS "+name(i.Name)), s.do(ctx, "DROP DATABASE IF EXISTS "+name(i.Name+loadingEnding)))
}

// Bind makes a user that may do in the database what its owner may.
func (s *service) Bind(ctx context.Context, i node.Instance, b node.Binding) (wire.Credentials, error) {
	if err := validName(b.User); err != nil {
		return nil, err
	}
	writes, err := s.mayWrite(ctx, i)
	if err != nil {
		return nil, err
	}
	if err := s.makeUser(ctx, i, b.User, b.Password, writes); err != nil {
		return nil, err
	}
	return s.credentials(b.User, b.Password), nil
}

// Unbind ends a user. What acts in its name, as a view does, is still there.
func (s *service) Unbind(ctx context.Context, i node.Instance, b node.Binding) error {
	return s.retireUser(ctx, i, b.User)
}

// do does a statement. What has a password in it is quoted in no error.
func (s *service) do(ctx context.Context, statement string) error {
	_, err := s.db.ExecContext(ctx, statement)
	var failed *mysql.MySQLError
	if errors.As(err, &failed) {
		return fmt.Errorf("the server refuses %.12q: error %d", statement, failed.Number)
	}
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	return nil
}

// number reports whether a failure of the server has this number.
func number(err error, n uint16) bool {
	var failed *mysql.MySQLError
	return errors.As(err, &failed) && failed.Number == n
}

// name quotes an identifier.
func name(n string) string { return "`" + strings.ReplaceAll(n, "`", "``") + "`" }

// text quotes a string.
func text(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`, "\x00", `\0`).Replace(s) + "'"
}
