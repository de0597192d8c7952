package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

// Account is a user's.
type Account struct {
	ID           string
	Email        string // lower case
	PasswordHash string
}

// Stamp returns a text that changes with the password and does not help to guess it:
// the hash has a salt that the stamp does not tell.
func (a Account) Stamp() string {
	sum := sha256.Sum256([]byte("stamp of an account\x00" + a.PasswordHash))
	return hex.EncodeToString(sum[:16])
}

const (
	accountColumns = `id, email, password_hash`
	insertAccount  = `INSERT INTO uaa_accounts (id, email, password_hash, created_at, updated_at) VALUES ($1, $2, $3, $4, $4)`
	upsertAccount  = insertAccount + ` ON CONFLICT (email) DO UPDATE SET password_hash = $3, updated_at = $4`
)

func scanAccount(row interface{ Scan(into ...any) error }) (a Account, err error) {
	err = row.Scan(&a.ID, &a.Email, &a.PasswordHash)
	return a, err
}

// Account finds an account by its email; ErrNotFound if there is none.
func (s *Store) Account(ctx context.Context, email string) (Account, error) {
	a, err := scanAccount(s.db.QueryRowContext(ctx, `SELECT `+accountColumns+` FROM uaa_accounts WHERE email = $1`, strings.ToLower(email)))
	if err := notFound(err); err != nil {
		return Account{}, fmt.Errorf("cannot read the account: %w", err)
	}
	return a, nil
}

// AccountByID finds an account; ErrNotFound if there is none.
func (s *Store) AccountByID(ctx context.Context, id string) (Account, error) {
	a, err := scanAccount(s.db.QueryRowContext(ctx, `SELECT `+accountColumns+` FROM uaa_accounts WHERE id = $1`, id))
	if err := notFound(err); err != nil {
		return Account{}, fmt.Errorf("cannot read the account: %w", err)
	}
	return a, nil
}

// Accounts returns up to limit accounts whose emails follow one, in their order.
func (s *Store) Accounts(ctx context.Context, after string, limit int) ([]Account, error) {
	list, err := sqldb.Collect(ctx, s.db, func(rows *sql.Rows) (Account, error) { return scanAccount(rows) },
		`SELECT `+accountColumns+` FROM uaa_accounts WHERE email > $1 ORDER BY email LIMIT $2`, after, limit)
	if err != nil {
		return nil, fmt.Errorf("cannot list the accounts: %w", err)
	}
	return list, nil
}

// CreateAccount adds an account; ErrExists if there is one with that email.
func (s *Store) CreateAccount(ctx context.Context, email, hash string) (Account, error) {
	a := Account{ID: rand.Text(), Email: strings.ToLower(email), PasswordHash: hash}
	_, err := s.db.ExecContext(ctx, insertAccount, a.ID, a.Email, hash, s.now().Unix())
	if sqldb.IsDuplicate(err) {
		return Account{}, ErrExists
	}
	if err != nil {
		return Account{}, fmt.Errorf("cannot add the account: %w", err)
	}
	return a, nil
}

// SetPasswords gives accounts the hashes that they come with, and makes those that are
// missing: all of them or none. Whoever gets another hash is logged out everywhere.
func (s *Store) SetPasswords(ctx context.Context, accounts []Account) error {
	return s.db.Transact(ctx, func(q sqldb.Querier) error {
		for _, a := range accounts {
			email := strings.ToLower(a.Email)
			var id, hash string
			err := q.QueryRowContext(ctx, `SELECT id, password_hash FROM uaa_accounts WHERE email = $1`, email).Scan(&id, &hash)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return fmt.Errorf("cannot read an account: %w", err)
			}
			if err == nil && hash == a.PasswordHash {
				continue
			}
			if err := s.lockAccount(ctx, q, id, ` FOR UPDATE`); err != nil {
				return err
			}
			if _, err := q.ExecContext(ctx, upsertAccount, rand.Text(), email, a.PasswordHash, s.now().Unix()); err != nil {
				return fmt.Errorf("cannot set a password: %w", err)
			}
			for _, table := range []string{"uaa_codes", "uaa_refresh_tokens"} {
				if _, err := q.ExecContext(ctx, `DELETE FROM `+table+` WHERE account_id = $1`, id); err != nil {
					return fmt.Errorf("cannot end the logins of an account: %w", err)
				}
			}
		}
		return nil
	})
}

// DeleteAccount removes an account with its logins; ErrNotFound if there is none.
func (s *Store) DeleteAccount(ctx context.Context, email string) error {
	result, err := s.db.ExecContext(ctx, `DELETE FROM uaa_accounts WHERE email = $1`, strings.ToLower(email))
	if err := sqldb.Changed(result, err, ErrNotFound); err != nil {
		return fmt.Errorf("cannot delete the account: %w", err)
	}
	return nil
}
