package store

import (
	"context"
	"fmt"

	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

// Turn counts how often an app's instances were spread over the DEAs anew. Of several
// controllers that have read the same Turn one gets to do it.
type Turn struct {
	Number int
	AppID  int64 // whose instances were the last; 0: nobody's yet
}

const (
	selectTurn = `SELECT turn, app_id FROM rebalances`
	takeTurn   = `UPDATE rebalances SET turn = turn + 1, app_id = $2 WHERE turn = $1`
)

// Turn returns the present turn.
func (s *UpdateStore) Turn(ctx context.Context) (t Turn, err error) {
	if err := s.db.QueryRowContext(ctx, selectTurn).Scan(&t.Number, &t.AppID); err != nil {
		return Turn{}, fmt.Errorf("cannot read which app was rebalanced last: %w", err)
	}
	return t, nil
}

// takeTurn takes the turn after t for an app. ErrStale if it was taken already, the
// app runs another version than was looked at, or an update of it is under way or
// watched.
func (s *UpdateStore) takeTurn(ctx context.Context, q sqldb.Querier, t Turn, looked, now App) error {
	if now.RunCount != looked.RunCount || now.DropletHash != looked.DropletHash {
		return ErrStale
	}
	list, err := s.updates(ctx, q, selectUpdates, now.ID)
	if err != nil {
		return err
	}
	for _, u := range list {
		if u.Status == Updating || u.Watching != 0 {
			return ErrStale
		}
	}
	result, err := q.ExecContext(ctx, takeTurn, t.Number, now.ID)
	return sqldb.Changed(result, err, ErrStale)
}
