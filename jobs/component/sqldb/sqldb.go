// Package sqldb opens the database of a component: PostgreSQL or, for a single
// instance, SQLite. Queries are plain SQL that both understand. config.go reads which
// database it is.
package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
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

// Schema describes a component's tables.
type Schema struct {
	// Migrations has files migrations/NUMBER_name.sql, in PostgreSQL's words.
	Migrations fs.FS
	// Versions is the table that says which of them were made. Components that share
	// a database have one each.
	Versions string
}

// DB is a database. It may be used by several goroutines.
type DB struct {
	*sql.DB
	Postgres bool
}

// Dialer makes the connections to PostgreSQL.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Open connects to postgres://user:password@host:port/database or
// sqlite:///path/to/file, and brings the schema up to date. Of several instances of
// a component one does, under an advisory lock, and the others wait; migrations only
// ever add, so that instances of the previous version go on working.
// The URI is asked for again for each connection to PostgreSQL, so that another
// password is taken.
func Open(ctx context.Context, uri func() (string, error), dialer Dialer, schema Schema) (*DB, error) {
	s, err := connect(uri, dialer)
	if err != nil {
		return nil, err
	}
	if err := s.migrate(ctx, schema); err != nil {
		s.Close()
		return nil, damagedFile(uri, err)
	}
	return s, nil
}

// damagedFile says of an error about a damaged file of SQLite which it is, and what
// to do; other errors stay as they are.
func damagedFile(uri func() (string, error), err error) error {
	var lite *sqlite.Error
	if !errors.As(err, &lite) || lite.Code()&0xff != sqlite3.SQLITE_NOTADB && lite.Code()&0xff != sqlite3.SQLITE_CORRUPT {
		return err
	}
	file, _ := uri() // it has just been opened
	return fmt.Errorf("the database %s is damaged: %w; stop the instance (deploy stop), put a copy of the file back, or move it away to begin with an empty one, and start the instance", strings.TrimPrefix(file, "sqlite://"), err)
}

func connect(where func() (string, error), dialer Dialer) (*DB, error) {
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
		return &DB{db, true}, nil
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
		return &DB{db, false}, nil
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

// migrate brings the schema up to date.
func (s *DB) migrate(ctx context.Context, schema Schema) error {
	steps, err := s.steps(schema)
	if err != nil {
		return fmt.Errorf("cannot read the database's schema: %w", err)
	}
	// A schema that a newer version has extended serves this one too.
	options := []goose.ProviderOption{goose.WithGoMigrations(steps...), goose.WithAllowOutofOrder(true), goose.WithTableName(schema.Versions)}
	dialect := goose.DialectSQLite3
	if s.Postgres {
		dialect = goose.DialectPostgres
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 120))
		if err != nil {
			return fmt.Errorf("cannot lock the database's schema: %w", err)
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	provider, err := goose.NewProvider(dialect, s.DB, nil, options...)
	if err != nil {
		return fmt.Errorf("cannot read the database's schema: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("cannot update the database's schema: %w", err)
	}
	return nil
}

// inSQLite says in SQLite's words what the migrations say in PostgreSQL's.
var inSQLite = strings.NewReplacer("BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY", "INTEGER PRIMARY KEY AUTOINCREMENT")

// steps are the migrations, by their files' numbers.
func (s *DB) steps(schema Schema) ([]*goose.Migration, error) {
	files, err := fs.Glob(schema.Migrations, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	var steps []*goose.Migration
	for _, file := range files {
		version, err := goose.NumericComponent(file)
		if err != nil {
			return nil, err
		}
		data, err := fs.ReadFile(schema.Migrations, file)
		if err != nil {
			return nil, err
		}
		statements := string(data)
		if !s.Postgres {
			statements = inSQLite.Replace(statements)
		}
		steps = append(steps, goose.NewGoMigration(version, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, statements)
			return err
		}}, nil))
	}
	return steps, nil
}

// Querier is a database or a transaction.
type Querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Transact runs f in a transaction.
func (s *DB) Transact(ctx context.Context, f func(Querier) error) error {
	tx, err := s.BeginTx(ctx, nil)
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

// Collect reads all rows of a query.
func Collect[T any](ctx context.Context, q Querier, scan func(*sql.Rows) (T, error), query string, args ...any) ([]T, error) {
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

// Changed turns "no row was concerned" into the error given.
func Changed(result sql.Result, err, none error) error {
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err == nil && n == 0 {
		return none
	}
	return err
}

// IsDuplicate reports whether a row was refused because another has its key.
func IsDuplicate(err error) bool {
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
