package store

import (
	"context"
	"fmt"
	"time"
)

const (
	countStarts = `INSERT INTO starts (owner_id, counted_until) VALUES ($1, $3) ON CONFLICT (owner_id) DO UPDATE
		SET counted_until = CASE WHEN starts.counted_until > $2 THEN starts.counted_until + $4 ELSE $3 END
		WHERE starts.counted_until <= $5`
	selectStarts = `SELECT counted_until FROM starts WHERE owner_id = $1`
)

// CountStarts counts n instances that an account is about to start, at all controllers
// together. If with them it would start more than perMinute in a minute, they are not
// counted, and it returns how long to wait. An account that has started nothing for a
// while may start any number.
func (s *UserStore) CountStarts(ctx context.Context, userID int64, n, perMinute int) (wait time.Duration, err error) {
	now := s.now().UnixMilli()
	cost := time.Minute.Milliseconds() * int64(n) / int64(perMinute)
	latest := now + max(0, time.Minute.Milliseconds()-cost) // counted_until of who may start them
	result, err := s.db.ExecContext(ctx, countStarts, userID, now, now+cost, cost, latest)
	if err == nil {
		var counted int64
		if counted, err = result.RowsAffected(); err == nil && counted > 0 {
			return 0, nil
		}
	}
	var until int64
	if err == nil {
		err = s.db.QueryRowContext(ctx, selectStarts, userID).Scan(&until)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot count the account's starts: %w", err)
	}
	return max(time.Millisecond, time.Duration(until-latest)*time.Millisecond), nil
}
