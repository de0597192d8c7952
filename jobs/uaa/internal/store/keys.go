package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

// Key is a signing key.
type Key struct {
	Generation int64
	ID         string
	Sealed     string
	Epoch      int64
	Created    time.Time
}

// Keys returns all signing keys, the oldest first.
func (s *Store) Keys(ctx context.Context) ([]Key, error) {
	keys, err := sqldb.Collect(ctx, s.db, func(rows *sql.Rows) (k Key, err error) {
		var created int64
		err = rows.Scan(&k.Generation, &k.ID, &k.Sealed, &k.Epoch, &created)
		k.Created = time.Unix(created, 0)
		return k, err
	}, `SELECT generation, id, sealed, epoch, created_at FROM uaa_keys ORDER BY generation`)
	if err != nil {
		return nil, fmt.Errorf("cannot read the signing keys: %w", err)
	}
	return keys, nil
}

// AddKey keeps a key; ErrExists if another instance has made one of that generation.
func (s *Store) AddKey(ctx context.Context, k Key) error {
	_, err := s.db.ExecContext(ctx, `INSERT INTO uaa_keys (generation, id, sealed, epoch, created_at) VALUES ($1, $2, $3, $4, $5)`,
		k.Generation, k.ID, k.Sealed, k.Epoch, k.Created.Unix())
	if sqldb.IsDuplicate(err) {
		return ErrExists
	}
	if err != nil {
		return fmt.Errorf("cannot keep a signing key: %w", err)
	}
	return nil
}

// DropKey removes a key.
func (s *Store) DropKey(ctx context.Context, generation int64) error {
	if _, err := s.db.ExecContext(ctx, `DELETE FROM uaa_keys WHERE generation = $1`, generation); err != nil {
		return fmt.Errorf("cannot remove a signing key: %w", err)
	}
	return nil
}
