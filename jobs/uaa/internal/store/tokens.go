package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

// Code describes what a client exchanges for tokens, once.
type Code struct {
	Family    string
	AccountID string
	Request   string // JSON
	Expires   time.Time
}

// SaveCode keeps a code.
func (s *Store) SaveCode(ctx context.Context, code string, c Code) error {
	_, err := s.db.ExecContext(ctx, `INSERT INTO uaa_codes (hash, family, account_id, request, expires_at) VALUES ($1, $2, $3, $4, $5)`,
		digest(code), c.Family, c.AccountID, c.Request, c.Expires.Unix())
	if err != nil {
		return fmt.Errorf("cannot keep a code: %w", err)
	}
	return nil
}

// UseCode returns what a code was made for: the first time only. ErrReused: it was
// used before, and the family is revoked. ErrNotFound: there is none, or it is too old.
func (s *Store) UseCode(ctx context.Context, code string) (Code, error) {
	var c Code
	var expires int64
	now := s.now()
	err := s.db.QueryRowContext(ctx, `UPDATE uaa_codes SET used_at = $2 WHERE hash = $1 AND used_at = 0 AND expires_at > $2 RETURNING family, account_id, request, expires_at`,
		digest(code), now.Unix()).Scan(&c.Family, &c.AccountID, &c.Request, &expires)
	if err == nil {
		c.Expires = time.Unix(expires, 0)
		return c, nil
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return Code{}, fmt.Errorf("cannot use a code: %w", err)
	}
	var used int64
	err = s.db.QueryRowContext(ctx, `SELECT family, used_at FROM uaa_codes WHERE hash = $1`, digest(code)).Scan(&c.Family, &used)
	if err := notFound(err); err != nil {
		return Code{}, fmt.Errorf("cannot use a code: %w", err)
	}
	if used == 0 {
		return Code{}, ErrNotFound
	}
	return Code{}, errors.Join(ErrReused, s.RevokeFamily(ctx, c.Family))
}

// Refresh is a refresh token's row.
type Refresh struct {
	Family        string
	AccountID     string
	ClientID      string
	Scopes        string // with spaces between
	Authenticated time.Time
	Expires       time.Time
}

const insertRefresh = `INSERT INTO uaa_refresh_tokens (hash, family, account_id, client_id, scopes, authenticated_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`

// AddRefresh keeps the first refresh token of a family; ErrReused if the family is
// revoked.
func (s *Store) AddRefresh(ctx context.Context, token string, r Refresh) error {
	return s.db.Transact(ctx, func(q sqldb.Querier) error { return s.addRefresh(ctx, q, token, r) })
}

func (s *Store) addRefresh(ctx context.Context, q sqldb.Querier, token string, r Refresh) error {
	if err := s.lockFamily(ctx, q, r.Family); err != nil {
		return err
	}
	if _, err := q.ExecContext(ctx, insertRefresh, digest(token), r.Family, r.AccountID, r.ClientID, r.Scopes, r.Authenticated.Unix(), r.Expires.Unix()); err != nil {
		return fmt.Errorf("cannot keep a refresh token: %w", err)
	}
	if revoked, err := s.revoked(ctx, q, r.Family); err != nil || revoked {
		return errors.Join(ErrReused, err)
	}
	return nil
}

// Refresh finds a refresh token that may be used. ErrReused: it was used before, and the
// family is revoked. ErrNotFound: there is none, or it is too old.
func (s *Store) Refresh(ctx context.Context, token string) (Refresh, error) {
	var r Refresh
	var authenticated, expires, used int64
	err := s.db.QueryRowContext(ctx, `SELECT family, account_id, client_id, scopes, authenticated_at, expires_at, used_at FROM uaa_refresh_tokens WHERE hash = $1`, digest(token)).
		Scan(&r.Family, &r.AccountID, &r.ClientID, &r.Scopes, &authenticated, &expires, &used)
	if err := notFound(err); err != nil {
		return Refresh{}, fmt.Errorf("cannot read a refresh token: %w", err)
	}
	r.Authenticated, r.Expires = time.Unix(authenticated, 0), time.Unix(expires, 0)
	switch {
	case used != 0:
		return Refresh{}, errors.Join(ErrReused, s.RevokeFamily(ctx, r.Family))
	case expires <= s.now().Unix():
		return Refresh{}, ErrNotFound
	}
	return r, nil
}

// Rotate replaces a refresh token by the next of its family. Of two that do so at the
// same time one has ErrReused, and the family is revoked: one of them is a thief.
func (s *Store) Rotate(ctx context.Context, token, next string, r Refresh) error {
	err := s.db.Transact(ctx, func(q sqldb.Querier) error {
		// In the order of those who set a password, and of those who revoke the family.
		if err := s.lockAccount(ctx, q, r.AccountID, ` FOR KEY SHARE`); err != nil {
			return err
		}
		if err := s.lockFamily(ctx, q, r.Family); err != nil {
			return err
		}
		result, err := q.ExecContext(ctx, `UPDATE uaa_refresh_tokens SET used_at = $2 WHERE hash = $1 AND used_at = 0`, digest(token), s.now().Unix())
		if err := sqldb.Changed(result, err, ErrReused); err != nil {
			return fmt.Errorf("cannot use a refresh token: %w", err)
		}
		return s.addRefresh(ctx, q, next, r)
	})
	if errors.Is(err, ErrReused) {
		return errors.Join(err, s.RevokeFamily(ctx, r.Family))
	}
	return err
}

// lockFamily makes those who add to a family and those who revoke it take turns.
// SQLite's transactions take turns anyway.
func (s *Store) lockFamily(ctx context.Context, q sqldb.Querier, family string) error {
	if !s.db.Postgres {
		return nil
	}
	if _, err := q.ExecContext(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, family); err != nil {
		return fmt.Errorf("cannot wait for another use of the login: %w", err)
	}
	return nil
}

// lockAccount makes those who add to an account's logins and those who end them all take
// turns: what is added is seen by whoever ends it. An account that is gone is no error.
func (s *Store) lockAccount(ctx context.Context, q sqldb.Querier, id, lock string) error {
	if !s.db.Postgres {
		return nil
	}
	if _, err := q.ExecContext(ctx, `SELECT id FROM uaa_accounts WHERE id = $1`+lock, id); err != nil {
		return fmt.Errorf("cannot wait for another use of the account: %w", err)
	}
	return nil
}

// familyMemory is the time that a family is known to be revoked: longer than a request that
// adds to it is under way.
const familyMemory = time.Hour

// RevokeFamily ends what followed from one login: its refresh tokens, those too that are
// being made.
func (s *Store) RevokeFamily(ctx context.Context, family string) error {
	return s.db.Transact(ctx, func(q sqldb.Querier) error {
		if err := s.lockFamily(ctx, q, family); err != nil {
			return err
		}
		if err := s.revoke(ctx, q, family, s.now().Add(familyMemory)); err != nil {
			return err
		}
		if _, err := q.ExecContext(ctx, `DELETE FROM uaa_refresh_tokens WHERE family = $1`, family); err != nil {
			return fmt.Errorf("cannot revoke refresh tokens: %w", err)
		}
		return nil
	})
}

// RevokeAccess ends an access token, which would be valid until a time.
func (s *Store) RevokeAccess(ctx context.Context, id string, expires time.Time) error {
	return s.revoke(ctx, s.db, id, expires)
}

func (s *Store) revoke(ctx context.Context, q sqldb.Querier, id string, expires time.Time) error {
	_, err := q.ExecContext(ctx, `INSERT INTO uaa_revoked (id, expires_at) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET expires_at = $2`, id, expires.Unix())
	if err != nil {
		return fmt.Errorf("cannot revoke a token: %w", err)
	}
	return nil
}

// Revoked reports whether an access token was revoked.
func (s *Store) Revoked(ctx context.Context, id string) (bool, error) {
	return s.revoked(ctx, s.db, id)
}

func (s *Store) revoked(ctx context.Context, q sqldb.Querier, id string) (bool, error) {
	var one int
	err := q.QueryRowContext(ctx, `SELECT 1 FROM uaa_revoked WHERE id = $1`, id).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot read whether a token is revoked: %w", err)
	}
	return true, nil
}
