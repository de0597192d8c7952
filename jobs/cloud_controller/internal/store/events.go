package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

// keptEvents is the number of events of an app that are kept, and maxEventText how long the
// text of one may be, in bytes.
const (
	keptEvents   = 200
	maxEventText = 500
)

// Event is something that was done to an app.
type Event struct {
	At    int64  // Unix seconds
	Actor string // e-mail address
	Text  string
}

// EventStore keeps what was done to apps.
type EventStore struct{ *database }

const (
	insertEvent     = `INSERT INTO events (app_id, at, actor, text) VALUES ($1, $2, $3, $4)`
	deleteOldEvents = `DELETE FROM events WHERE app_id = $1 AND id NOT IN (SELECT id FROM events WHERE app_id = $1 ORDER BY id DESC LIMIT $2)`
	selectEvents    = `SELECT at, actor, text FROM events WHERE app_id = $1 ORDER BY id`
)

// NoteEvent adds an event of an app, and forgets its oldest ones.
func (s *EventStore) NoteEvent(ctx context.Context, appID int64, actor, text string) error {
	text = strings.ToValidUTF8(text[:min(len(text), maxEventText)], "") // PostgreSQL takes no half letter
	err := s.db.Transact(ctx, func(q sqldb.Querier) error {
		if _, err := q.ExecContext(ctx, insertEvent, appID, s.now().Unix(), actor, text); err != nil {
			return err
		}
		_, err := q.ExecContext(ctx, deleteOldEvents, appID, keptEvents)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot note what was done to the app: %w", err)
	}
	return nil
}

// Events returns what was done to an app, the latest last.
func (s *EventStore) Events(ctx context.Context, appID int64) ([]Event, error) {
	list, err := sqldb.Collect(ctx, s.db, func(rows *sql.Rows) (e Event, err error) {
		err = rows.Scan(&e.At, &e.Actor, &e.Text)
		return e, err
	}, selectEvents, appID)
	if err != nil {
		return nil, fmt.Errorf("cannot list what was done to the app: %w", err)
	}
	return list, nil
}
