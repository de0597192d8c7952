package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

// User is an account.
type User struct {
	ID           int64
	Email        string // lower case
	PasswordHash string
}

// UserStore keeps accounts.
type UserStore struct{ *database }

// Usage describes what an account takes.
type Usage struct {
	Memory    int // MB, of all instances of started apps
	Instances int // of started apps
	Apps      int
	Services  int
}

const (
	insertUser      = `INSERT INTO users (email, password_hash, created_at, updated_at) VALUES ($1, $2, $3, $3) RETURNING id`
	selectUser      = `SELECT id, email, password_hash FROM users WHERE email = $1`
	selectUserByID  = `SELECT id, email, password_hash FROM users WHERE id = $1`
	selectUsers     = `SELECT id, email, password_hash FROM users ORDER BY email`
	updatePassword  = `UPDATE users SET password_hash = $2, updated_at = $3 WHERE id = $1`
	deleteUser      = `DELETE FROM users WHERE id = $1`
	countUsers      = `SELECT count(*) FROM users`
	selectAppsUsage = `SELECT count(*), CAST(coalesce(sum(CASE WHEN state = 'STARTED' THEN memory * instances ELSE 0 END), 0) AS BIGINT),
		CAST(coalesce(sum(CASE WHEN state = 'STARTED' THEN instances ELSE 0 END), 0) AS BIGINT) FROM apps WHERE owner_id = $1`
)

// CreateUser adds an account; ErrExists if there is one with that email, ErrMoved if
// passwordHash does not belong where the passwords are.
func (s *UserStore) CreateUser(ctx context.Context, email, passwordHash string) (User, error) {
	u := User{Email: strings.ToLower(email), PasswordHash: passwordHash}
	err := s.db.Transact(ctx, func(q sqldb.Querier) error {
		if err := s.fits(ctx, q, passwordHash); err != nil {
			return err
		}
		return q.QueryRowContext(ctx, insertUser, u.Email, passwordHash, s.now().Unix()).Scan(&u.ID)
	})
	if sqldb.IsDuplicate(err) {
		return User{}, ErrExists
	}
	if err != nil {
		return User{}, fmt.Errorf("cannot add the user: %w", err)
	}
	return u, nil
}

// User finds an account by its email; ErrNotFound if there is none.
func (s *UserStore) User(ctx context.Context, email string) (User, error) {
	return s.user(s.db.QueryRowContext(ctx, selectUser, strings.ToLower(email)))
}

// UserByID finds an account; ErrNotFound if there is none.
func (s *UserStore) UserByID(ctx context.Context, id int64) (User, error) {
	return s.user(s.db.QueryRowContext(ctx, selectUserByID, id))
}

func (s *UserStore) user(row *sql.Row) (User, error) {
	var u User
	if err := notFound(row.Scan(&u.ID, &u.Email, &u.PasswordHash)); err != nil {
		return User{}, fmt.Errorf("cannot read the user: %w", err)
	}
	return u, nil
}

func scanUser(rows *sql.Rows) (u User, err error) {
	err = rows.Scan(&u.ID, &u.Email, &u.PasswordHash)
	return u, err
}

// Users are all accounts, by email.
func (s *UserStore) Users(ctx context.Context) ([]User, error) {
	users, err := sqldb.Collect(ctx, s.db, scanUser, selectUsers)
	if err != nil {
		return nil, fmt.Errorf("cannot list the users: %w", err)
	}
	return users, nil
}

// SetPassword replaces a user's password hash; ErrMoved if it does not belong where the
// passwords are.
func (s *UserStore) SetPassword(ctx context.Context, userID int64, passwordHash string) error {
	err := s.db.Transact(ctx, func(q sqldb.Querier) error {
		if err := s.fits(ctx, q, passwordHash); err != nil {
			return err
		}
		result, err := q.ExecContext(ctx, updatePassword, userID, passwordHash, s.now().Unix())
		return sqldb.Changed(result, err, ErrNotFound)
	})
	if err != nil {
		return fmt.Errorf("cannot set the password: %w", err)
	}
	return nil
}

// DeleteUser removes an account with everything that it owns.
func (s *UserStore) DeleteUser(ctx context.Context, userID int64) error {
	result, err := s.db.ExecContext(ctx, deleteUser, userID)
	if err := sqldb.Changed(result, err, ErrNotFound); err != nil {
		return fmt.Errorf("cannot delete the user: %w", err)
	}
	return nil
}

// CountUsers returns the number of accounts.
func (s *UserStore) CountUsers(ctx context.Context) (n int, err error) {
	if err := s.db.QueryRowContext(ctx, countUsers).Scan(&n); err != nil {
		return 0, fmt.Errorf("cannot count the users: %w", err)
	}
	return n, nil
}

// Usage returns what an account takes now.
func (s *UserStore) Usage(ctx context.Context, userID int64) (Usage, error) {
	return s.usage(ctx, s.db, userID)
}

func (s *database) usage(ctx context.Context, q sqldb.Querier, userID int64) (u Usage, err error) {
	if err := q.QueryRowContext(ctx, selectAppsUsage, userID).Scan(&u.Apps, &u.Memory, &u.Instances); err != nil {
		return Usage{}, fmt.Errorf("cannot compute the account's usage: %w", err)
	}
	if err := q.QueryRowContext(ctx, countInstances, userID).Scan(&u.Services); err != nil {
		return Usage{}, fmt.Errorf("cannot compute the account's usage: %w", err)
	}
	return u, nil
}

// lockUser makes transactions that change what a user owns take turns, so that
// two of them cannot exceed a limit together. SQLite's take turns anyway.
func (s *database) lockUser(ctx context.Context, q sqldb.Querier, userID int64) error {
	query := selectUserByID
	if s.db.Postgres {
		query += ` FOR UPDATE`
	}
	var u User
	if err := notFound(q.QueryRowContext(ctx, query, userID).Scan(&u.ID, &u.Email, &u.PasswordHash)); err != nil {
		return fmt.Errorf("cannot find the owner: %w", err)
	}
	return nil
}
