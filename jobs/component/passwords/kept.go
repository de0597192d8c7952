package passwords

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kept keeps failed logins in a table of a database, which has the columns email, a
// TEXT and the key, and forgotten_at, a BIGINT with the Unix seconds at which the last
// of the failures no longer counts.
type Kept struct {
	DB    *sql.DB
	Table string
	Now   func() time.Time
}

const (
	selectFailedLogins = `SELECT forgotten_at FROM failed_logins WHERE email = $1`
	addFailedLogin     = `INSERT INTO failed_logins (email, forgotten_at) VALUES ($1, $3) ON CONFLICT (email) DO UPDATE
		SET forgotten_at = CASE WHEN failed_logins.forgotten_at > $2 THEN failed_logins.forgotten_at + $4 ELSE $3 END`
	deleteFailedLogins    = `DELETE FROM failed_logins WHERE email = $1`
	deleteOldFailedLogins = `DELETE FROM failed_logins WHERE forgotten_at <= $1`
)

func (k Kept) query(text string) string { return strings.ReplaceAll(text, "failed_logins", k.Table) }

// FailedLogins is when the logins that failed for an email no longer count; zero:
// none has failed.
func (k Kept) FailedLogins(ctx context.Context, email string) (forgotten time.Time, err error) {
	var at int64
	switch err := k.DB.QueryRowContext(ctx, k.query(selectFailedLogins), email).Scan(&at); {
	case errors.Is(err, sql.ErrNoRows):
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, fmt.Errorf("cannot read which logins have failed: %w", err)
	}
	return time.Unix(at, 0), nil
}

// LoginFailed counts one more: it puts off by an interval, of whole seconds, when
// all are forgotten.
func (k Kept) LoginFailed(ctx context.Context, email string, interval time.Duration) error {
	now, seconds := k.Now().Unix(), int64(interval/time.Second)
	if _, err := k.DB.ExecContext(ctx, k.query(addFailedLogin), email, now, now+seconds, seconds); err != nil {
		return fmt.Errorf("cannot count a failed login: %w", err)
	}
	return nil
}

// LoginSucceeded forgets what failed before.
func (k Kept) LoginSucceeded(ctx context.Context, email string) error {
	if _, err := k.DB.ExecContext(ctx, k.query(deleteFailedLogins), email); err != nil {
		return fmt.Errorf("cannot forget failed logins: %w", err)
	}
	return nil
}

// DropFailedLogins removes those that no longer count.
func (k Kept) DropFailedLogins(ctx context.Context) error {
	if _, err := k.DB.ExecContext(ctx, k.query(deleteOldFailedLogins), k.Now().Unix()); err != nil {
		return fmt.Errorf("cannot remove what is kept of failed logins: %w", err)
	}
	return nil
}
