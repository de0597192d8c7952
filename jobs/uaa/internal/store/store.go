// Package store keeps what instances of the user component share, in PostgreSQL or, for a
// single one, in SQLite: accounts (accounts.go), what was handed out for logins
// (tokens.go), and signing keys (keys.go). Codes and tokens are kept as hashes.
package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/clusterworks/deploy/jobs/component/passwords"
	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

// What callers tell apart.
var (
	ErrNotFound = errors.New("not found")
	// ErrExists: another row has the name.
	ErrExists = errors.New("exists already")
	// ErrReused: a code or token was used before; what followed from it is revoked.
	ErrReused = errors.New("used before")
)

//go:embed migrations
var migrations embed.FS

// Store is a connection to the database. It may be used by several goroutines.
type Store struct {
	db  *sqldb.DB
	now func() time.Time
}

// Open opens the database at a URI, see sqldb.Open.
func Open(ctx context.Context, uri func() (string, error), dialer sqldb.Dialer) (*Store, error) {
	db, err := sqldb.Open(ctx, uri, dialer, sqldb.Schema{Migrations: migrations, Versions: "uaa_db_version"})
	if err != nil {
		return nil, err
	}
	return &Store{db: db, now: time.Now}, nil
}

// Close ends the connections.
func (s *Store) Close() { s.db.Close() }

// Ping returns an error if the database does not answer.
func (s *Store) Ping(ctx context.Context) error { return s.db.PingContext(ctx) }

// Logins returns what is kept of failed logins.
func (s *Store) Logins() passwords.Kept {
	return passwords.Kept{DB: s.db.DB, Table: "uaa_failed_logins", Now: s.now}
}

// DropOld removes what no longer counts.
func (s *Store) DropOld(ctx context.Context) error {
	for _, table := range []string{"uaa_codes", "uaa_refresh_tokens", "uaa_revoked"} {
		if _, err := s.db.ExecContext(ctx, `DELETE FROM `+table+` WHERE expires_at <= $1`, s.now().Unix()); err != nil {
			return fmt.Errorf("cannot remove what has expired: %w", err)
		}
	}
	return s.Logins().DropFailedLogins(ctx)
}

// digest returns what is kept of a code or token.
func digest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func notFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}
