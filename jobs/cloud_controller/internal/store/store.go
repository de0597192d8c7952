// Package store keeps what the cloud controllers know, in PostgreSQL or, for a
// single controller, in SQLite. Queries are plain SQL that both understand, one
// file per aggregate; the schema is in migrations.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"time"

	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

// What callers tell apart.
var (
	ErrNotFound = errors.New("not found")
	// ErrStale: someone else changed the row after it was read.
	ErrStale = errors.New("changed by someone else meanwhile")
	// ErrExists: another row has the name.
	ErrExists = errors.New("exists already")
	// ErrTooMany: there are as many as there may be.
	ErrTooMany = errors.New("there are too many")
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

// database describes what the stores share.
type database struct {
	db  *sqldb.DB
	now func() time.Time
	// domain returns what a host name is claimed in: names below it that overlap
	// belong to one account. The host itself: nothing overlaps with it.
	domain func(host string) string
}

func newStore(db *sqldb.DB) *Store {
	d := &database{db: db, now: time.Now, domain: func(host string) string { return host }}
	return &Store{d, UserStore{d}, AppStore{d}, ServiceStore{d}, UpdateStore{d}, EventStore{d}}
}

// ClaimWithin sets what a host name is claimed in: no two accounts have names of
// which one is below the other, if both are claimed in the same domain. Without it
// only the same name is refused. Call it before the store is used.
func (s *Store) ClaimWithin(domain func(host string) string) { s.database.domain = domain }

// Open opens the database at a URI, see sqldb.Open.
func Open(ctx context.Context, uri func() (string, error), dialer sqldb.Dialer) (*Store, error) {
	db, err := sqldb.Open(ctx, uri, dialer, sqldb.Schema{Migrations: migrations, Versions: "goose_db_version"})
	if err != nil {
		return nil, err
	}
	return newStore(db), nil
}

// Close ends the connections.
func (s *database) Close() { s.db.Close() }

// Ping says whether the database answers.
func (s *database) Ping(ctx context.Context) error { return s.db.PingContext(ctx) }

func notFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}
