package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

const (
	selectFailedLogins = `SELECT forgotten_at FROM failed_logins WHERE email = $1`
	addFailedLogin     = `INSERT INTO failed_logins (email, forgotten_at) VALUES ($1, $3) ON CONFLICT (email) DO UPDATE
		SET forgotten_at = CASE WHEN failed_logins.forgotten_at > $2 THEN failed_logins.forgotten_at + $4 ELSE $3 END`
	deleteFailedLogins    = `DELETE FROM failed_logins WHERE email = $1`
	deleteOldFailedLogins = `DELETE FROM failed_logins WHERE forgotten_at <= $1`
)

// FailedLogins is when the logins that failed for an email no longer count; zero:
// none has failed.
func (s *UserStore) FailedLogins(ctx context.Context, email string) (forgotten time.Time, err error) {
	var at int64
	switch err := s.db.QueryRowContext(ctx, selectFailedLogins, email).Scan(&at); {
	case errors.Is(err, sql.ErrNoRows):
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, fmt.Errorf("cannot read which logins have failed: %w", err)
	}
	return time.Unix(at, 0), nil
}

// LoginFailed counts one more: it puts off by an interval, of whole seconds, when
// all are forgotten.
func (s *UserStore) LoginFailed(ctx context.Context, email string, interval time.Duration) error {
	now, seconds := s.now().Unix(), int64(interval/time.Second)
	if _, err := s.db.ExecContext(ctx, addFailedLogin, email, now, now+seconds, seconds); err != nil {
		return fmt.Errorf("cannot count a failed login: %w", err)
	}
	return nil
}

// LoginSucceeded forgets what failed before.
func (s *UserStore) LoginSucceeded(ctx context.Context, email string) error {
	if _, err := s.db.ExecContext(ctx, deleteFailedLogins, email); err != nil {
		return fmt.Errorf("cannot forget failed logins: %w", err)
	}
	return nil
}

// DropFailedLogins removes those that no longer count.
func (s *UserStore) DropFailedLogins(ctx context.Context) error {
	if _, err := s.db.ExecContext(ctx, deleteOldFailedLogins, s.now().Unix()); err != nil {
		return fmt.Errorf("cannot remove what is kept of failed logins: %w", err)
	}
	return nil
}
