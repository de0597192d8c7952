// Package store keeps what the cloud controllers know, in PostgreSQL or, for a
// single controller, in SQLite. Queries are plain SQL that both understand, one
// file per aggregate; the schema is in migrations.
package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// What callers tell apart.
var (
	ErrNotFound = errors.New("not found")
	// ErrStale: someone else changed the row after it was read.
	ErrStale = errors.New("changed by someone else meanwhile")
	// ErrExists: another row has the name.
	ErrExists = errors.New("exists already")
)

//go:embed migrations
var migrations embed.FS

// Store is a connection to the database. It may be used by several goroutines.
type Store struct {
	*database
	UserStore
	AppStore
	ServiceStore
	UpdateStore
	EventStore
}

// database is what the stores share.
type database struct {
	db       *sql.DB
	postgres bool
	now      func() time.Time
	// domain returns what a host name is claimed in: names below it that overlap
	// belong to one account. The host itself: nothing overlaps with it.
	domain func(host string) string
}

func newStore(db *sql.DB, postgres bool) *Store {
	d := &database{db: db, postgres: postgres, now: time.Now, domain: func(host string) string { return host }}
	return &Store{d, UserStore{d}, AppStore{d}, ServiceStore{d}, UpdateStore{d}, EventStore{d}}
}

// ClaimWithin sets what a host name is claimed in: no two accounts have names of
// which one is below the other, if both are claimed in the same domain. Without it
// only the same name is refused. Call it before the store is used.
func (s *Store) ClaimWithin(domain func(host string) string) { s.database.domain = domain }

// Dialer makes the connections to PostgreSQL.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Open connects to postgres://user:password@host:port/database or
// sqlite:///path/to/file, and brings the schema up to date. Of several
// controllers one does, under an advisory lock, and the others wait; migrations
// only ever add, so that controllers of the previous version go on working.
// The URI is asked for again for each connection to PostgreSQL, so that another
// password is taken.
func Open(ctx context.Context, uri func() (string, error), dialer Dialer) (*Store, error) {
	s, err := connect(uri, dialer)
	if err != nil {
		return nil, err
	}
	if err := s.migrate(ctx, 0); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func connect(where func() (string, error), dialer Dialer) (*Store, error) {
	uri, err := where()
	if err != nil {
		return nil, err
	}
	switch scheme, rest, _ := strings.Cut(uri, "://"); scheme {
	case "postgres", "postgresql":
		config, err := parsePostgres(uri)
		if err != nil {
			return nil, err
		}
		if dialer != nil && !strings.HasPrefix(config.Host, "/") {
			config.DialFunc = dialer.DialContext
		}
		db := stdlib.OpenDB(*config, stdlib.OptionBeforeConnect(func(_ context.Context, next *pgx.ConnConfig) error {
			uri, err := where()
			if err != nil {
				return err
			}
			now, err := parsePostgres(uri)
			if err != nil {
				return err
			}
			next.Host, next.Port, next.Database, next.User, next.Password = now.Host, now.Port, now.Database, now.User, now.Password
			next.TLSConfig, next.Fallbacks = now.TLSConfig, now.Fallbacks
			return nil
		}))
		db.SetMaxOpenConns(16)
		db.SetMaxIdleConns(8)
		db.SetConnMaxIdleTime(5 * time.Minute)
		return newStore(db, true), nil
	case "sqlite":
		if !strings.HasPrefix(rest, "/") {
			return nil, errors.New("cannot use the database's URI: want sqlite:///path/to/file")
		}
		// FULL: what was acknowledged is on the disk.
		options := url.Values{"_pragma": {"foreign_keys(1)", "journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(10000)"}, "_txlock": {"immediate"}}
		db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: rest}).EscapedPath()+"?"+options.Encode())
		if err != nil {
			return nil, fmt.Errorf("cannot open the database: %w", err)
		}
		// One writer is all that SQLite has; one connection never waits for another.
		db.SetMaxOpenConns(1)
		return newStore(db, false), nil
	}
	return nil, errors.New("cannot use the database's URI: want postgres://user:password@host:port/database or sqlite:///path/to/file")
}

func parsePostgres(uri string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(uri)
	if err != nil {
		// pgx's own error leaves the password out.
		return nil, fmt.Errorf("cannot use the database's URI: %w", err)
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 10 * time.Second
	}
	return config, nil
}

// migrate brings the schema to a version; 0: the newest.
func (s *database) migrate(ctx context.Context, version int64) error {
	steps, err := s.steps()
	if err != nil {
		return fmt.Errorf("cannot read the database's schema: %w", err)
	}
	// A schema that a newer version has extended serves this one too.
	options := []goose.ProviderOption{goose.WithGoMigrations(steps...), goose.WithAllowOutofOrder(true)}
	dialect := goose.DialectSQLite3
	if s.postgres {
		dialect = goose.DialectPostgres
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 120))
		if err != nil {
			return fmt.Errorf("cannot lock the database's schema: %w", err)
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	provider, err := goose.NewProvider(dialect, s.db, nil, options...)
	if err != nil {
		return fmt.Errorf("cannot read the database's schema: %w", err)
	}
	if version == 0 {
		_, err = provider.Up(ctx)
	} else {
		_, err = provider.UpTo(ctx, version)
	}
	if err != nil {
		return fmt.Errorf("cannot update the database's schema: %w", err)
	}
	return nil
}

// inSQLite says in SQLite's words what the migrations say in PostgreSQL's.
var inSQLite = strings.NewReplacer("BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY", "INTEGER PRIMARY KEY AUTOINCREMENT")

// steps are the migrations, by their files' numbers.
func (s *database) steps() ([]*goose.Migration, error) {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	var steps []*goose.Migration
	for _, file := range files {
		version, err := goose.NumericComponent(file)
		if err != nil {
			return nil, err
		}
		data, err := migrations.ReadFile(file)
		if err != nil {
			return nil, err
		}
		statements := string(data)
		if !s.postgres {
			statements = inSQLite.Replace(statements)
		}
		steps = append(steps, goose.NewGoMigration(version, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, statements)
			return err
		}}, nil))
	}
	return steps, nil
}

// Close ends the connections.
func (s *database) Close() { s.db.Close() }

// Ping says whether the database answers.
func (s *database) Ping(ctx context.Context) error { return s.db.PingContext(ctx) }

// querier is a connection or a transaction.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// transact runs f in a transaction.
func (s *database) transact(ctx context.Context, f func(querier) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("cannot begin a transaction: %w", err)
	}
	if err := f(tx); err != nil {
		_ = tx.Rollback() // the connection is dropped when this fails
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("cannot commit: %w", err)
	}
	return nil
}

// collect reads all rows of a query.
func collect[T any](ctx context.Context, q querier, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		item, err := scan(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, item)
	}
	return list, rows.Err()
}

// changed turns "no row was concerned" into the error given.
func changed(result sql.Result, err, none error) error {
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err == nil && n == 0 {
		return none
	}
	return err
}

// isDuplicate says whether a row was refused because another has its key.
func isDuplicate(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code == "23505" // unique_violation
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		return lite.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || lite.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
	}
	return false
}

// IsFailure reports whether an error is the database's own.
func IsFailure(err error) bool {
	var pg *pgconn.PgError
	var lite *sqlite.Error
	return errors.As(err, &pg) || errors.As(err, &lite) || IsAway(err)
}

// IsAway reports whether an error says that the database cannot be reached, or
// takes no work now.
func IsAway(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		// Connection exception, too many connections, shut down or starting.
		return slices.Contains([]string{"08", "53", "57"}, pg.Code[:min(2, len(pg.Code))])
	}
	var connect *pgconn.ConnectError
	var network *net.OpError
	return errors.As(err, &connect) || errors.As(err, &network) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone)
}

func notFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}
