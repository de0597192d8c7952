package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

// keptReleases is the number of releases of an app that are kept to go back to.
const keptReleases = 5

// Release is a version of an app: a droplet, and how its instances run.
type Release struct {
	AppID int64
	// RunCount is the version's, by which all is compared. No other release of the app
	// ever has it.
	RunCount int
	// Number is the user's name for it. Versions that differ in nothing but RunCount
	// have the same.
	Number      int
	DropletHash string
	PackageHash string
	Spec        Spec // Instances and URIs mean nothing
	Cause       string
	CreatedAt   int64
}

// Of returns an app as this release runs it. How many instances it has and where
// they are reached is the app's.
func (r Release) Of(a App) App {
	instances, uris := a.Instances, a.URIs
	a.Spec = r.Spec
	a.Instances, a.URIs = instances, uris
	a.DropletHash, a.PackageHash, a.RunCount, a.PackageState = r.DropletHash, r.PackageHash, r.RunCount, Staged
	return a
}

// UpdateStore keeps releases and updates of apps.
type UpdateStore struct{ *database }

const (
	releaseColumns       = `app_id, run_count, number, droplet_hash, package_hash, spec, cause, created_at`
	selectReleases       = `SELECT ` + releaseColumns + ` FROM releases WHERE app_id = $1 ORDER BY run_count DESC`
	selectRelease        = `SELECT ` + releaseColumns + ` FROM releases WHERE app_id = $1 AND run_count = $2`
	selectDropletRelease = `SELECT ` + releaseColumns + ` FROM releases WHERE app_id = $1 AND droplet_hash = $2 ORDER BY run_count DESC LIMIT 1`
	insertRelease        = `INSERT INTO releases (` + releaseColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`
	deleteRelease        = `DELETE FROM releases WHERE app_id = $1 AND run_count = $2`
	selectMaxRun         = `SELECT coalesce(max(run_count), 0) FROM (SELECT run_count FROM releases WHERE app_id = $1 UNION ALL SELECT run_count FROM updates WHERE app_id = $1) AS runs`
)

func scanRelease(scan func(...any) error) (r Release, err error) {
	var spec string
	if err := scan(&r.AppID, &r.RunCount, &r.Number, &r.DropletHash, &r.PackageHash, &spec, &r.Cause, &r.CreatedAt); err != nil {
		return Release{}, err
	}
	if err := json.Unmarshal([]byte(spec), &r.Spec); err != nil {
		return Release{}, fmt.Errorf("release %d of app %d: %w", r.RunCount, r.AppID, err)
	}
	return r, nil
}

// specText returns what is compared, too: two releases that run alike have the same.
func specText(s Spec) (string, error) {
	s.Instances, s.URIs = 0, nil
	if len(s.Environment) == 0 {
		s.Environment = nil
	}
	if _, err := environmentText(s.Environment); err != nil {
		return "", err
	}
	text, err := json.Marshal(s)
	return string(text), err
}

// Releases returns an app's releases, the newest first.
func (s *UpdateStore) Releases(ctx context.Context, appID int64) ([]Release, error) {
	return releases(ctx, s.db, appID)
}

func releases(ctx context.Context, q sqldb.Querier, appID int64) ([]Release, error) {
	list, err := sqldb.Collect(ctx, q, func(rows *sql.Rows) (Release, error) { return scanRelease(rows.Scan) }, selectReleases, appID)
	if err != nil {
		return nil, fmt.Errorf("cannot list the app's releases: %w", err)
	}
	return list, nil
}

// Release finds a release by its RunCount; ErrNotFound if there is none.
func (s *UpdateStore) Release(ctx context.Context, appID int64, runCount int) (Release, error) {
	return release(ctx, s.db, selectRelease, appID, runCount)
}

// ReleaseOfDroplet finds the newest release with a droplet; ErrNotFound if there is
// none.
func (s *UpdateStore) ReleaseOfDroplet(ctx context.Context, appID int64, hash string) (Release, error) {
	return release(ctx, s.db, selectDropletRelease, appID, hash)
}

func release(ctx context.Context, q sqldb.Querier, query string, args ...any) (Release, error) {
	r, err := scanRelease(q.QueryRowContext(ctx, query, args...).Scan)
	if err := notFound(err); err != nil {
		return Release{}, fmt.Errorf("cannot read a release of the app: %w", err)
	}
	return r, nil
}

// Present returns the release that an app's record names. An app that a former
// version has started has none on record: it runs as its record says.
func (s *UpdateStore) Present(ctx context.Context, a App) (Release, error) {
	return present(ctx, s.db, a)
}

func present(ctx context.Context, q sqldb.Querier, a App) (Release, error) {
	r, err := release(ctx, q, selectRelease, a.ID, a.RunCount)
	if err == nil && r.DropletHash == a.DropletHash {
		return r, nil
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Release{}, err
	}
	return Release{AppID: a.ID, RunCount: a.RunCount, DropletHash: a.DropletHash, PackageHash: a.PackageHash, Spec: a.Spec}, nil
}

// add adds a release of an app with a RunCount that none has had.
func (s *UpdateStore) add(ctx context.Context, q sqldb.Querier, a App, cause string) (Release, error) {
	spec, err := specText(a.Spec)
	if err != nil {
		return Release{}, err
	}
	list, err := releases(ctx, q, a.ID)
	if err != nil {
		return Release{}, err
	}
	r := Release{AppID: a.ID, Number: 1, DropletHash: a.DropletHash, PackageHash: a.PackageHash, Spec: a.Spec, Cause: cause, CreatedAt: s.now().Unix()}
	if err := q.QueryRowContext(ctx, selectMaxRun, a.ID).Scan(&r.RunCount); err != nil {
		return Release{}, err
	}
	r.RunCount = max(r.RunCount, a.RunCount) + 1
	for _, other := range list {
		r.Number = max(r.Number, other.Number+1)
	}
	if len(list) > 0 && list[0].DropletHash == r.DropletHash {
		same, err := specText(list[0].Spec)
		if err != nil {
			return Release{}, err
		}
		if same == spec {
			r.Number, r.Cause, r.CreatedAt = list[0].Number, list[0].Cause, list[0].CreatedAt
		}
	}
	_, err = q.ExecContext(ctx, insertRelease, r.AppID, r.RunCount, r.Number, r.DropletHash, r.PackageHash, spec, r.Cause, r.CreatedAt)
	return r, err
}

// prune removes the releases that nobody can go back to. Those with these
// RunCounts stay.
func prune(ctx context.Context, q sqldb.Querier, appID int64, keep ...int) error {
	list, err := releases(ctx, q, appID)
	if err != nil {
		return err
	}
	kept := map[int]bool{}
	for _, runCount := range keep {
		kept[runCount] = true
	}
	numbers := map[int]bool{}
	for _, r := range list {
		first := !numbers[r.Number]
		numbers[r.Number] = true
		if kept[r.RunCount] || first && len(numbers) <= keptReleases {
			continue
		}
		if _, err := q.ExecContext(ctx, deleteRelease, appID, r.RunCount); err != nil {
			return err
		}
	}
	return nil
}

// StartApp saves an app that was read before as started, under a version that no
// instance has had: it sets RunCount, and what UpdateApp sets. ErrStale if it was
// changed since.
func (s *UpdateStore) StartApp(ctx context.Context, a *App, cause string, limits Limits) error {
	started := *a
	started.State = Started
	err := s.change(ctx, a.OwnerID, limits, func(q sqldb.Querier) error {
		r, err := s.add(ctx, q, started, cause)
		if err != nil {
			return err
		}
		started.RunCount = r.RunCount
		if err := (&AppStore{s.database}).save(ctx, q, &started); err != nil {
			return err
		}
		if err := s.end(ctx, q, a.ID, Cancelled, "the app was started anew"); err != nil {
			return err
		}
		return prune(ctx, q, a.ID, r.RunCount)
	})
	if err != nil {
		return fmt.Errorf("cannot save the app: %w", err)
	}
	*a = started
	return nil
}
