package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"

	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

// What became of an update.
const (
	Updating   = "running"
	Updated    = "done"
	Undone     = "undone"     // the previous version runs on
	Superseded = "superseded" // a later update has taken its place
	Cancelled  = "cancelled"  // the app was stopped, or started anew
)

// keptUpdates is of how many updates of an app is told what became of them.
const keptUpdates = 20

// Update describes how an app gets from one version to the next.
type Update struct {
	AppID    int64
	RunCount int // of the release that it brings in; the update's name
	Previous int // RunCount of the release that it replaces
	Status   string
	Reason   string // why Status is none that was wished for
	State    string // JSON, of whoever carries it out
	Hold     int    // at how many instances it waits to be promoted; 0: it does not
	// Watching says that the update is done, and that its version is watched for a
	// while: it is taken back if it crashes. 0: it is not.
	Watching int
	// Holder is the controller that carries it out. Claim counts the holders, Beat
	// what they have saved: who sees both unchanged for long may claim it.
	Holder string
	Claim  int
	Beat   int
	// CreatedAt and UpdatedAt are Unix seconds.
	CreatedAt, UpdatedAt int64
}

const (
	updateColumns   = `app_id, run_count, previous, status, reason, state, hold, watching, holder, claim, beat, created_at, updated_at`
	selectUpdate    = `SELECT ` + updateColumns + ` FROM updates WHERE app_id = $1 AND run_count = $2`
	selectUpdates   = `SELECT ` + updateColumns + ` FROM updates WHERE app_id = $1 ORDER BY run_count DESC`
	selectUpdating  = `SELECT ` + updateColumns + ` FROM updates WHERE status = 'running' ORDER BY app_id, run_count`
	selectDriven    = `SELECT ` + updateColumns + ` FROM updates WHERE status = 'running' OR watching = 1 ORDER BY app_id, run_count`
	selectUpdatingA = `SELECT ` + updateColumns + ` FROM updates WHERE app_id = $1 AND status = 'running' ORDER BY run_count DESC LIMIT 1`
	insertUpdate    = `INSERT INTO updates (app_id, run_count, previous, status, state, hold, holder, created_at, updated_at) VALUES ($1, $2, $3, 'running', $4, $5, $6, $7, $7)`
	endUpdates      = `UPDATE updates SET status = $2, reason = $3, updated_at = $4 WHERE app_id = $1 AND status = 'running'`
	saveUpdate      = `UPDATE updates SET state = $4, beat = beat + 1, updated_at = $5 WHERE app_id = $1 AND run_count = $2 AND claim = $3 AND (status = 'running' OR watching = 1)`
	claimUpdate     = `UPDATE updates SET holder = $5, claim = claim + 1, beat = beat + 1 WHERE app_id = $1 AND run_count = $2 AND claim = $3 AND beat = $4 AND (status = 'running' OR watching = 1)`
	releaseUpdate   = `UPDATE updates SET holder = '', beat = beat + 1 WHERE app_id = $1 AND run_count = $2 AND claim = $3 AND (status = 'running' OR watching = 1)`
	finishUpdate    = `UPDATE updates SET status = $4, reason = $5, state = $6, updated_at = $7, watching = $8 WHERE app_id = $1 AND run_count = $2 AND claim = $3 AND status = 'running'`
	endWatch        = `UPDATE updates SET watching = 0 WHERE app_id = $1 AND run_count = $2 AND claim = $3 AND watching = 1`
	endWatches      = `UPDATE updates SET watching = 0 WHERE app_id = $1 AND watching = 1`
	takeBack        = `UPDATE updates SET watching = 0, status = 'undone', reason = $4, state = $5, updated_at = $6 WHERE app_id = $1 AND run_count = $2 AND claim = $3 AND watching = 1`
	promoteUpdate   = `UPDATE updates SET hold = 0 WHERE app_id = $1 AND run_count = $2 AND status = 'running'`
	deleteUpdate    = `DELETE FROM updates WHERE app_id = $1 AND run_count = $2`
	takeRelease     = `UPDATE apps SET droplet_hash = $2, run_count = $3, package_state = CASE WHEN package_hash = $4 THEN 'STAGED' ELSE package_state END,
		updated_at = $5, lock_version = lock_version + 1 WHERE id = $1`
)

func scanUpdate(scan func(...any) error) (u Update, err error) {
	err = scan(&u.AppID, &u.RunCount, &u.Previous, &u.Status, &u.Reason, &u.State, &u.Hold, &u.Watching, &u.Holder, &u.Claim, &u.Beat, &u.CreatedAt, &u.UpdatedAt)
	return u, err
}

func (s *UpdateStore) update(ctx context.Context, q sqldb.Querier, query string, args ...any) (Update, error) {
	u, err := scanUpdate(q.QueryRowContext(ctx, query, args...).Scan)
	if err := notFound(err); err != nil {
		return Update{}, fmt.Errorf("cannot read an update of the app: %w", err)
	}
	return u, nil
}

// Update finds an update by its RunCount; ErrNotFound if there is none.
func (s *UpdateStore) Update(ctx context.Context, appID int64, runCount int) (Update, error) {
	return s.update(ctx, s.db, selectUpdate, appID, runCount)
}

// Updating finds the update of an app that is under way; ErrNotFound if none is.
func (s *UpdateStore) Updating(ctx context.Context, appID int64) (Update, error) {
	return s.update(ctx, s.db, selectUpdatingA, appID)
}

// AllUpdating returns the updates of all apps that are under way.
func (s *UpdateStore) AllUpdating(ctx context.Context) ([]Update, error) {
	return s.updates(ctx, s.db, selectUpdating)
}

// AllDriven returns the updates of all apps that are under way or watched.
func (s *UpdateStore) AllDriven(ctx context.Context) ([]Update, error) {
	return s.updates(ctx, s.db, selectDriven)
}

// Updates returns what is known of an app's updates, the newest first.
func (s *UpdateStore) Updates(ctx context.Context, appID int64) ([]Update, error) {
	return s.updates(ctx, s.db, selectUpdates, appID)
}

func (s *UpdateStore) updates(ctx context.Context, q sqldb.Querier, query string, args ...any) ([]Update, error) {
	list, err := sqldb.Collect(ctx, q, func(rows *sql.Rows) (Update, error) { return scanUpdate(rows.Scan) }, query, args...)
	if err != nil {
		return nil, fmt.Errorf("cannot list updates: %w", err)
	}
	return list, nil
}

// Beginning is an update that is to begin.
type Beginning struct {
	Cause       string
	DropletHash string
	// PackageHash holds what the droplet was made of. ErrStale if the app has other files
	// by now.
	PackageHash string
	// Back is the release that is brought in again, nil for the app's present files
	// and settings.
	Back   *Release
	Hold   int
	Holder string
	// TakesBack is the update, done and watched, whose version Back takes away again:
	// it is Undone then, with its Reason and State. ErrStale if it is watched no more.
	// nil: none.
	TakesBack *Update
	// Rebalance is the last turn: the release that runs is brought in again, whatever
	// files and settings have come since, see takeTurn. nil: another kind of update.
	Rebalance *Turn
	// State writes the update's first state. others are the updates under way whose
	// place it takes.
	State func(a App, previous, next Release, others []Update) (string, error)
}

// Begin begins an update of a started app and ends those under way, of which it
// is told by the status Superseded. It returns the app as it is now. ErrNotFound
// if the app is not started any more.
func (s *UpdateStore) Begin(ctx context.Context, a App, b Beginning, limits Limits) (App, Update, error) {
	var u Update
	apps := &AppStore{s.database}
	err := s.change(ctx, a.OwnerID, limits, func(q sqldb.Querier) error {
		now, err := apps.app(ctx, q, selectAppByID, a.ID)
		if err != nil {
			return err
		}
		if now.State != Started {
			return ErrNotFound
		}
		if t := b.TakesBack; t != nil {
			result, err := q.ExecContext(ctx, takeBack, a.ID, t.RunCount, t.Claim, t.Reason, t.State, s.now().Unix())
			if err := sqldb.Changed(result, err, ErrStale); err != nil {
				return err
			}
		}
		previous, err := present(ctx, q, now)
		if err != nil {
			return err
		}
		next := now
		switch {
		case b.Rebalance != nil:
			if err := s.takeTurn(ctx, q, *b.Rebalance, a, now); err != nil {
				return err
			}
			next = previous.Of(now)
		case b.Back != nil:
			// What is on record is what the user wants: the older release.
			next = b.Back.Of(now)
			next.RunCount, next.DropletHash, next.PackageState = now.RunCount, now.DropletHash, Pending
			if b.TakesBack != nil && now.PackageHash != previous.PackageHash {
				next.PackageHash = now.PackageHash // files on their way, which nobody has tried
			}
			if err := apps.save(ctx, q, &next); err != nil {
				return err
			}
			now, next = next, b.Back.Of(next)
		case now.PackageHash != b.PackageHash:
			return ErrStale
		default:
			next.DropletHash = b.DropletHash
		}
		if previous.Number == 0 { // started by a former version
			if previous, err = s.adopt(ctx, q, now, previous); err != nil {
				return err
			}
		}
		next.RunCount = now.RunCount
		others, err := s.updates(ctx, q, selectUpdates, a.ID)
		if err != nil {
			return err
		}
		var running []Update
		for n, other := range others {
			switch {
			case other.Status == Updating:
				running = append(running, other)
			case n >= keptUpdates:
				if _, err := q.ExecContext(ctx, deleteUpdate, a.ID, other.RunCount); err != nil {
					return err
				}
			}
		}
		if err := s.end(ctx, q, a.ID, Superseded, "a later update has taken its place"); err != nil {
			return err
		}
		r, err := s.add(ctx, q, next, b.Cause)
		if err != nil {
			return err
		}
		state, err := b.State(now, previous, r, running)
		if err != nil {
			return err
		}
		if _, err := q.ExecContext(ctx, insertUpdate, a.ID, r.RunCount, previous.RunCount, state, b.Hold, b.Holder, s.now().Unix()); err != nil {
			return err
		}
		a = now
		u, err = s.update(ctx, q, selectUpdate, a.ID, r.RunCount)
		return err
	})
	if err != nil {
		return a, u, fmt.Errorf("cannot begin an update: %w", err)
	}
	return a, u, nil
}

// adopt puts on record what a former version has started.
func (s *UpdateStore) adopt(ctx context.Context, q sqldb.Querier, a App, r Release) (Release, error) {
	spec, err := specText(r.Spec)
	if err != nil {
		return r, err
	}
	list, err := releases(ctx, q, a.ID)
	if err != nil {
		return r, err
	}
	r.Number, r.Cause, r.CreatedAt = 1, "start", s.now().Unix()
	for _, other := range list {
		r.Number = max(r.Number, other.Number+1)
		if other.RunCount == r.RunCount { // of another droplet: the former version counts anew
			if _, err := q.ExecContext(ctx, deleteRelease, a.ID, r.RunCount); err != nil {
				return r, err
			}
		}
	}
	_, err = q.ExecContext(ctx, insertRelease, r.AppID, r.RunCount, r.Number, r.DropletHash, r.PackageHash, spec, r.Cause, r.CreatedAt)
	return r, err
}

// end ends the updates of an app that are under way. What they were to bring in is
// no release.
func (s *UpdateStore) end(ctx context.Context, q sqldb.Querier, appID int64, status, reason string) error {
	list, err := s.updates(ctx, q, selectUpdates, appID)
	if err != nil {
		return err
	}
	if _, err := q.ExecContext(ctx, endUpdates, appID, status, reason, s.now().Unix()); err != nil {
		return err
	}
	if _, err := q.ExecContext(ctx, endWatches, appID); err != nil {
		return err
	}
	for _, u := range list {
		if u.Status != Updating {
			continue
		}
		if _, err := q.ExecContext(ctx, deleteRelease, appID, u.RunCount); err != nil {
			return err
		}
	}
	return nil
}

// CancelUpdates ends the updates of an app that are under way. A canary that nobody has
// promoted leaves nothing: the app has the files and settings of what ran beside it.
func (s *UpdateStore) CancelUpdates(ctx context.Context, appID int64, reason string) error {
	err := s.db.Transact(ctx, func(q sqldb.Querier) error {
		canary, err := s.update(ctx, q, selectUpdatingA, appID)
		if err == nil && canary.Hold > 0 {
			err = takeAway(ctx, q, &AppStore{s.database}, canary)
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		return s.end(ctx, q, appID, Cancelled, reason)
	})
	if err != nil {
		return fmt.Errorf("cannot cancel the app's update: %w", err)
	}
	return nil
}

// takeAway gives an app the settings and files back that it had before an update.
func takeAway(ctx context.Context, q sqldb.Querier, apps *AppStore, u Update) error {
	a, err := apps.app(ctx, q, selectAppByID, u.AppID)
	if err != nil {
		return err
	}
	next, err := release(ctx, q, selectRelease, u.AppID, u.RunCount)
	if err != nil {
		return err
	}
	previous, err := release(ctx, q, selectRelease, u.AppID, u.Previous)
	if err != nil { // ErrNotFound: the app was started anew by a former version
		return err
	}
	restore(&a, previous, next)
	return apps.save(ctx, q, &a)
}

// SaveUpdate saves an update's State, which is a sign of life as well. ErrStale
// if it is over, or another controller's.
func (s *UpdateStore) SaveUpdate(ctx context.Context, u Update) error {
	result, err := s.db.ExecContext(ctx, saveUpdate, u.AppID, u.RunCount, u.Claim, u.State, s.now().Unix())
	if err := sqldb.Changed(result, err, ErrStale); err != nil {
		return fmt.Errorf("cannot save an update: %w", err)
	}
	return nil
}

// ClaimUpdate makes a controller the holder of an update whose Claim and Beat have
// not changed since they were read. ErrStale if they have.
func (s *UpdateStore) ClaimUpdate(ctx context.Context, u *Update, holder string) error {
	result, err := s.db.ExecContext(ctx, claimUpdate, u.AppID, u.RunCount, u.Claim, u.Beat, holder)
	if err := sqldb.Changed(result, err, ErrStale); err != nil {
		return fmt.Errorf("cannot claim an update: %w", err)
	}
	u.Holder, u.Claim, u.Beat = holder, u.Claim+1, u.Beat+1
	return nil
}

// ReleaseUpdate gives an update up, so that another controller can go on with it
// at once.
func (s *UpdateStore) ReleaseUpdate(ctx context.Context, u Update) error {
	if _, err := s.db.ExecContext(ctx, releaseUpdate, u.AppID, u.RunCount, u.Claim); err != nil {
		return fmt.Errorf("cannot give an update up: %w", err)
	}
	return nil
}

// EndWatch ends the watch over a version that has held. ErrStale if it is over, or
// another controller's.
func (s *UpdateStore) EndWatch(ctx context.Context, u Update) error {
	result, err := s.db.ExecContext(ctx, endWatch, u.AppID, u.RunCount, u.Claim)
	if err := sqldb.Changed(result, err, ErrStale); err != nil {
		return fmt.Errorf("cannot end the watch over an update: %w", err)
	}
	return nil
}

// PromoteUpdate ends the hold of an update. ErrStale if it is over.
func (s *UpdateStore) PromoteUpdate(ctx context.Context, u Update) error {
	result, err := s.db.ExecContext(ctx, promoteUpdate, u.AppID, u.RunCount)
	if err := sqldb.Changed(result, err, ErrStale); err != nil {
		return fmt.Errorf("cannot promote an update: %w", err)
	}
	return nil
}

// FinishUpdate ends an update with its Status, Reason, State and Watching, and returns the
// app as it is now. If it is Updated, the app's record names the new version from
// now on. If it is Undone, the record goes on to name the previous one, and the
// settings that came with the new version are the previous one's again. ErrStale
// if the update is over already, or another controller's.
func (s *UpdateStore) FinishUpdate(ctx context.Context, u Update) (a App, err error) {
	apps := &AppStore{s.database}
	if a, err = apps.AppByID(ctx, u.AppID); err != nil {
		return App{}, err
	}
	err = s.change(ctx, a.OwnerID, nil, func(q sqldb.Querier) error {
		if a, err = apps.app(ctx, q, selectAppByID, u.AppID); err != nil {
			return err
		}
		result, err := q.ExecContext(ctx, finishUpdate, u.AppID, u.RunCount, u.Claim, u.Status, u.Reason, u.State, s.now().Unix(), u.Watching)
		if err := sqldb.Changed(result, err, ErrStale); err != nil {
			return err
		}
		next, err := release(ctx, q, selectRelease, u.AppID, u.RunCount)
		if err != nil {
			return err
		}
		if u.Status == Updated {
			if _, err := q.ExecContext(ctx, takeRelease, u.AppID, next.DropletHash, next.RunCount, next.PackageHash, s.now().Unix()); err != nil {
				return err
			}
			if a, err = apps.app(ctx, q, selectAppByID, u.AppID); err != nil {
				return err
			}
			return prune(ctx, q, u.AppID, u.RunCount)
		}
		if err := takeAway(ctx, q, apps, u); errors.Is(err, ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
		if a, err = apps.app(ctx, q, selectAppByID, u.AppID); err != nil {
			return err
		}
		_, err = q.ExecContext(ctx, deleteRelease, u.AppID, u.RunCount)
		return err
	})
	if err != nil {
		return App{}, fmt.Errorf("cannot end an update: %w", err)
	}
	return a, nil
}

// restore gives an app the previous release's settings back, one by one where they
// are still what the next one came with: what was changed since stays.
func restore(a *App, previous, next Release) {
	spec, was, came := reflect.ValueOf(&a.Spec).Elem(), reflect.ValueOf(previous.Spec), reflect.ValueOf(next.Spec)
	for i := range spec.NumField() {
		switch spec.Type().Field(i).Name {
		case "Instances", "URIs":
			continue
		}
		empty := spec.Field(i).Kind() == reflect.Slice && spec.Field(i).Len() == 0 && came.Field(i).Len() == 0
		if empty || reflect.DeepEqual(spec.Field(i).Interface(), came.Field(i).Interface()) {
			spec.Field(i).Set(was.Field(i))
		}
	}
	if a.PackageHash == next.PackageHash && previous.PackageHash != "" {
		a.PackageHash, a.PackageState = previous.PackageHash, Staged
	}
}
