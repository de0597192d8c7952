package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

// States of an app and of its package.
const (
	Started = "STARTED"
	Stopped = "STOPPED"

	Pending = "PENDING" // is to be staged
	Staged  = "STAGED"
	Failed  = "FAILED" // could not be staged
)

// App is an application.
type App struct {
	Identity
	Spec
	Bits
	State       string // Started, Stopped
	LockVersion int    // counts the changes
	CreatedAt   int64  // Unix seconds, as UpdatedAt
	UpdatedAt   int64
}

// Identity says which app it is. Only the name may change.
type Identity struct {
	ID         int64
	OwnerID    int64
	OwnerEmail string // read only
	Name       string
}

// Spec says how an app's instances run.
type Spec struct {
	Framework string
	Runtime   string
	Command   string
	Instances int
	Memory    int // MB, of one instance
	Disk      int // MB, of one instance
	FDs       int // open files of one instance
	// Environment has the user's variables, NAME=value.
	Environment []string
	Debug       string // "", "run", "suspend"
	Console     bool
	// URIs are host names, lower case, as the user listed them.
	URIs   []string
	Health Health
}

// Health says when an instance counts as running; what is zero is the DEA's choice.
type Health struct {
	Type     string `json:"type,omitempty"`     // port, http, process, file
	Endpoint string `json:"endpoint,omitempty"` // of http: a path; of file: its name
	Timeout  int    `json:"timeout,omitempty"`  // that a start may take, seconds
}

// Bits says which files an app was uploaded with and staged to.
type Bits struct {
	PackageHash  string // sha1 of the zip; "": nothing was uploaded
	PackageState string // Pending, Staged, Failed
	DropletHash  string // sha1 of the staged droplet; "": never staged
	RunCount     int    // counts the versions that were started; it only rises
}

// AppStore keeps apps.
type AppStore struct{ *database }

// Limits checks an account's usage before and after a change; its error undoes
// the change.
type Limits func(before, after Usage) error

// HostTakenError says that a host name is another user's, or above or below one
// that is.
type HostTakenError struct {
	Host     string
	Overlaps bool
}

func (e *HostTakenError) Error() string {
	if e.Overlaps {
		return fmt.Sprintf("%s is above or below a name of another account", e.Host)
	}
	return fmt.Sprintf("%s is taken", e.Host)
}

const (
	appColumns = `a.id, a.owner_id, u.email, a.name, a.framework, a.runtime, a.state, a.instances, a.memory, a.disk, a.fds,
		a.environment, a.debug, a.console, a.command, a.run_count, a.package_hash, a.package_state, a.droplet_hash,
		a.lock_version, a.created_at, a.updated_at, a.health`
	selectApp        = `SELECT ` + appColumns + ` FROM apps a JOIN users u ON u.id = a.owner_id WHERE a.owner_id = $1 AND a.name = $2`
	selectAppByID    = `SELECT ` + appColumns + ` FROM apps a JOIN users u ON u.id = a.owner_id WHERE a.id = $1`
	selectAppsOf     = `SELECT ` + appColumns + ` FROM apps a JOIN users u ON u.id = a.owner_id WHERE a.owner_id = $1 ORDER BY a.name`
	selectAppsAfter  = `SELECT ` + appColumns + ` FROM apps a JOIN users u ON u.id = a.owner_id WHERE a.id > $1 ORDER BY a.id LIMIT $2`
	selectHosts      = `SELECT app_id, host FROM app_hosts WHERE app_id = $1 ORDER BY position`
	selectHostsOf    = `SELECT h.app_id, h.host FROM app_hosts h JOIN apps a ON a.id = h.app_id WHERE a.owner_id = $1 ORDER BY h.app_id, h.position`
	selectHostsRange = `SELECT app_id, host FROM app_hosts WHERE app_id > $1 AND app_id <= $2 ORDER BY app_id, position`
	insertApp        = `INSERT INTO apps (owner_id, name, framework, runtime, state, instances, memory, disk, fds, environment, debug, console, command, created_at, updated_at, health)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14, $15) RETURNING id`
	updateApp = `UPDATE apps SET framework = $3, runtime = $4, state = $5, instances = $6, memory = $7, disk = $8, fds = $9, environment = $10,
		debug = $11, console = $12, command = $13, run_count = $14, package_hash = $15, package_state = $16, droplet_hash = $17,
		updated_at = $18, health = $19, name = $20, lock_version = lock_version + 1 WHERE id = $1 AND lock_version = $2`
	updatePackage = `UPDATE apps SET package_hash = $2, package_state = CASE WHEN package_hash = $2 AND package_state = 'STAGED' THEN package_state ELSE $3 END,
		updated_at = $4, lock_version = lock_version + 1 WHERE id = $1`
	updateStagingFailed = `UPDATE apps SET package_state = $3, updated_at = $4, lock_version = lock_version + 1 WHERE id = $1 AND package_hash = $2`
	deleteApp           = `DELETE FROM apps WHERE id = $1`
	countApps           = `SELECT count(*) FROM apps`
	selectBlobs         = `SELECT id, package_hash, droplet_hash FROM apps UNION SELECT app_id, package_hash, droplet_hash FROM releases ORDER BY 1, 2, 3`

	insertHost        = `INSERT INTO hosts (host, owner_id) VALUES ($1, $2) ON CONFLICT (host) DO NOTHING`
	selectHost        = `SELECT owner_id FROM hosts WHERE host = $1`
	selectHostsBelow  = `SELECT host FROM hosts WHERE owner_id <> $1 AND host LIKE $2 ESCAPE '!'`
	lockClaims        = `DO $$ BEGIN PERFORM pg_advisory_xact_lock(7305016437826251); END $$`
	insertAppHost     = `INSERT INTO app_hosts (app_id, host, position) VALUES ($1, $2, $3)`
	deleteAppHosts    = `DELETE FROM app_hosts WHERE app_id = $1`
	deleteUnusedHosts = `DELETE FROM hosts WHERE owner_id = $1 AND NOT EXISTS (SELECT 1 FROM app_hosts WHERE app_hosts.host = hosts.host)`
	upsertStagingLog  = `INSERT INTO staging_logs (app_id, log, created_at) VALUES ($1, $2, $3) ON CONFLICT (app_id) DO UPDATE SET log = excluded.log, created_at = excluded.created_at`
	selectStagingLog  = `SELECT log FROM staging_logs WHERE app_id = $1`
)

func scanApp(scan func(...any) error) (App, error) {
	var a App
	var environment, health string
	err := scan(&a.ID, &a.OwnerID, &a.OwnerEmail, &a.Name, &a.Framework, &a.Runtime, &a.State, &a.Instances, &a.Memory, &a.Disk, &a.FDs,
		&environment, &a.Debug, &a.Console, &a.Command, &a.RunCount, &a.PackageHash, &a.PackageState, &a.DropletHash,
		&a.LockVersion, &a.CreatedAt, &a.UpdatedAt, &health)
	if err != nil {
		return App{}, err
	}
	if err := json.Unmarshal([]byte(environment), &a.Environment); err != nil {
		return App{}, fmt.Errorf("environment of app %d: %w", a.ID, err)
	}
	if err := json.Unmarshal([]byte(health), &a.Health); err != nil {
		return App{}, fmt.Errorf("health check of app %d: %w", a.ID, err)
	}
	return a, nil
}

type appHost struct {
	app  int64
	host string
}

func scanHost(rows *sql.Rows) (h appHost, err error) {
	err = rows.Scan(&h.app, &h.host)
	return h, err
}

// App finds a user's app by name; ErrNotFound if there is none.
func (s *AppStore) App(ctx context.Context, ownerID int64, name string) (App, error) {
	return s.app(ctx, s.db, selectApp, ownerID, name)
}

// AppByID finds an app; ErrNotFound if there is none.
func (s *AppStore) AppByID(ctx context.Context, id int64) (App, error) {
	return s.app(ctx, s.db, selectAppByID, id)
}

func (s *AppStore) app(ctx context.Context, q sqldb.Querier, query string, args ...any) (App, error) {
	a, err := scanApp(q.QueryRowContext(ctx, query, args...).Scan)
	if err := notFound(err); err != nil {
		return App{}, fmt.Errorf("cannot read the app: %w", err)
	}
	hosts, err := sqldb.Collect(ctx, q, scanHost, selectHosts, a.ID)
	if err != nil {
		return App{}, fmt.Errorf("cannot read the app's host names: %w", err)
	}
	for _, h := range hosts {
		a.URIs = append(a.URIs, h.host)
	}
	return a, nil
}

// Apps are a user's apps, by name.
func (s *AppStore) Apps(ctx context.Context, ownerID int64) ([]App, error) {
	return s.apps(ctx, selectAppsOf, []any{ownerID}, func([]App) (string, []any) { return selectHostsOf, []any{ownerID} })
}

// AppsAfter are up to n apps of all users with an id above after, by id.
func (s *AppStore) AppsAfter(ctx context.Context, after int64, n int) ([]App, error) {
	return s.apps(ctx, selectAppsAfter, []any{after, n}, func(apps []App) (string, []any) {
		return selectHostsRange, []any{after, apps[len(apps)-1].ID}
	})
}

func (s *AppStore) apps(ctx context.Context, query string, args []any, hosts func([]App) (string, []any)) ([]App, error) {
	apps, err := sqldb.Collect(ctx, s.db, func(rows *sql.Rows) (App, error) { return scanApp(rows.Scan) }, query, args...)
	if err != nil {
		return nil, fmt.Errorf("cannot list apps: %w", err)
	}
	if len(apps) == 0 {
		return nil, nil
	}
	query, args = hosts(apps)
	list, err := sqldb.Collect(ctx, s.db, scanHost, query, args...)
	if err != nil {
		return nil, fmt.Errorf("cannot list the apps' host names: %w", err)
	}
	index := map[int64]int{}
	for i, a := range apps {
		index[a.ID] = i
	}
	for _, h := range list {
		// An app may have come between the two queries.
		if i, ok := index[h.app]; ok {
			apps[i].URIs = append(apps[i].URIs, h.host)
		}
	}
	return apps, nil
}

// CreateApp adds an app and sets its ID, times and LockVersion. ErrExists if the
// owner has one with that name, *HostTakenError if a host name is another user's.
func (s *AppStore) CreateApp(ctx context.Context, a *App, limits Limits) error {
	created := *a
	err := s.change(ctx, a.OwnerID, limits, func(q sqldb.Querier) error {
		environment, err := environmentText(created.Environment)
		if err != nil {
			return err
		}
		health, err := json.Marshal(created.Health)
		if err != nil {
			return err
		}
		created.CreatedAt = s.now().Unix()
		created.UpdatedAt = created.CreatedAt
		created.LockVersion = 1
		created.PackageState = Pending
		err = q.QueryRowContext(ctx, insertApp, created.OwnerID, created.Name, created.Framework, created.Runtime, created.State, created.Instances,
			created.Memory, created.Disk, created.FDs, environment, created.Debug, created.Console, created.Command, created.CreatedAt, string(health)).Scan(&created.ID)
		if sqldb.IsDuplicate(err) {
			return ErrExists
		}
		if err != nil {
			return err
		}
		return s.setHosts(ctx, q, created)
	})
	if err != nil {
		return fmt.Errorf("cannot add the app: %w", err)
	}
	*a = created
	return nil
}

// UpdateApp saves an app that was read before, and sets its LockVersion and
// UpdatedAt. ErrStale if it was changed since, ErrExists if another app of its owner
// has the name.
func (s *AppStore) UpdateApp(ctx context.Context, a *App, limits Limits) error {
	updated := *a
	err := s.change(ctx, a.OwnerID, limits, func(q sqldb.Querier) error { return s.save(ctx, q, &updated) })
	if err != nil {
		return fmt.Errorf("cannot save the app: %w", err)
	}
	*a = updated
	return nil
}

// save is UpdateApp within a transaction.
func (s *AppStore) save(ctx context.Context, q sqldb.Querier, a *App) error {
	environment, err := environmentText(a.Environment)
	if err != nil {
		return err
	}
	health, err := json.Marshal(a.Health)
	if err != nil {
		return err
	}
	a.UpdatedAt = s.now().Unix()
	result, err := q.ExecContext(ctx, updateApp, a.ID, a.LockVersion, a.Framework, a.Runtime, a.State, a.Instances,
		a.Memory, a.Disk, a.FDs, environment, a.Debug, a.Console, a.Command, a.RunCount,
		a.PackageHash, a.PackageState, a.DropletHash, a.UpdatedAt, string(health), a.Name)
	if sqldb.IsDuplicate(err) { // another app of the owner's has the name
		return ErrExists
	}
	if err := sqldb.Changed(result, err, ErrStale); err != nil {
		return err
	}
	a.LockVersion++
	if _, err := q.ExecContext(ctx, deleteAppHosts, a.ID); err != nil {
		return err
	}
	return s.setHosts(ctx, q, *a)
}

// change runs a transaction that changes what a user owns, within limits.
func (s *database) change(ctx context.Context, ownerID int64, limits Limits, f func(sqldb.Querier) error) error {
	return s.db.Transact(ctx, func(q sqldb.Querier) error {
		if err := s.lockUser(ctx, q, ownerID); err != nil {
			return err
		}
		before, err := s.usage(ctx, q, ownerID)
		if err != nil {
			return err
		}
		if err := f(q); err != nil {
			return err
		}
		if limits == nil {
			return nil
		}
		after, err := s.usage(ctx, q, ownerID)
		if err != nil {
			return err
		}
		return limits(before, after)
	})
}

// setHosts claims the app's host names; it has none in the table.
func (s *AppStore) setHosts(ctx context.Context, q sqldb.Querier, a App) error {
	// In one order, so that two users' claims cannot wait for each other.
	sorted := slices.Compact(slices.Sorted(slices.Values(a.URIs)))
	if err := s.mayClaim(ctx, q, a.OwnerID, sorted); err != nil {
		return err
	}
	for _, host := range sorted {
		if _, err := q.ExecContext(ctx, insertHost, host, a.OwnerID); err != nil {
			return err
		}
		var owner int64
		if err := q.QueryRowContext(ctx, selectHost, host).Scan(&owner); err != nil {
			return err
		}
		if owner != a.OwnerID {
			return &HostTakenError{Host: host}
		}
		if _, err := q.ExecContext(ctx, insertAppHost, a.ID, host, slices.Index(a.URIs, host)); err != nil {
			return err
		}
	}
	_, err := q.ExecContext(ctx, deleteUnusedHosts, a.OwnerID)
	return err
}

// mayClaim checks that no host name that is new to its owner is above or below one
// of another account. Names from before this was checked stay whose they are.
func (s *database) mayClaim(ctx context.Context, q sqldb.Querier, ownerID int64, hosts []string) error {
	locked := !s.db.Postgres // SQLite has one writer at a time
	owner := func(host string) (id int64, known bool, err error) {
		err = q.QueryRowContext(ctx, selectHost, host).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			return 0, false, nil
		}
		return id, err == nil, err
	}
	for _, host := range hosts {
		domain := s.domain(host)
		if domain == host {
			continue
		}
		id, known, err := owner(host)
		if err != nil {
			return err
		}
		if known && id == ownerID {
			continue
		}
		if !locked {
			// Until the end of the transaction, so that of two claims that overlap the
			// second one sees the first.
			if _, err := q.ExecContext(ctx, lockClaims); err != nil {
				return err
			}
			locked = true
		}
		for _, above, more := strings.Cut(host, "."); more && len(above) > len(domain); _, above, more = strings.Cut(above, ".") {
			if id, known, err := owner(above); err != nil {
				return err
			} else if known && id != ownerID && s.domain(above) == domain {
				return &HostTakenError{Host: host, Overlaps: true}
			}
		}
		below, err := sqldb.Collect(ctx, q, func(rows *sql.Rows) (name string, err error) { return name, rows.Scan(&name) }, selectHostsBelow, ownerID, "%."+likeLiteral.Replace(host))
		if err != nil {
			return err
		}
		if slices.ContainsFunc(below, func(name string) bool { return s.domain(name) == domain }) {
			return &HostTakenError{Host: host, Overlaps: true}
		}
	}
	return nil
}

// likeLiteral makes a text one that LIKE takes as it is, with ESCAPE '!'.
var likeLiteral = strings.NewReplacer("!", "!!", "%", "!%", "_", "!_")

// DeleteApp removes an app and frees its host names.
func (s *AppStore) DeleteApp(ctx context.Context, a App) error {
	err := s.change(ctx, a.OwnerID, nil, func(q sqldb.Querier) error {
		result, err := q.ExecContext(ctx, deleteApp, a.ID)
		if err := sqldb.Changed(result, err, ErrNotFound); err != nil {
			return err
		}
		_, err = q.ExecContext(ctx, deleteUnusedHosts, a.OwnerID)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot delete the app: %w", err)
	}
	return nil
}

// SetPackage notes the files that were uploaded for an app; other files than
// before are to be staged.
func (s *AppStore) SetPackage(ctx context.Context, appID int64, packageHash string) error {
	result, err := s.db.ExecContext(ctx, updatePackage, appID, packageHash, Pending, s.now().Unix())
	if err := sqldb.Changed(result, err, ErrNotFound); err != nil {
		return fmt.Errorf("cannot note the app's files: %w", err)
	}
	return nil
}

// SetStagingFailed notes that an app's package could not be staged. ErrStale if
// another package was uploaded since.
func (s *AppStore) SetStagingFailed(ctx context.Context, appID int64, packageHash string) error {
	result, err := s.db.ExecContext(ctx, updateStagingFailed, appID, packageHash, Failed, s.now().Unix())
	if err := sqldb.Changed(result, err, ErrStale); err != nil {
		return fmt.Errorf("cannot note that staging failed: %w", err)
	}
	return nil
}

// SetStagingLog replaces the log of an app's last staging.
func (s *AppStore) SetStagingLog(ctx context.Context, appID int64, log string) error {
	if _, err := s.db.ExecContext(ctx, upsertStagingLog, appID, log, s.now().Unix()); err != nil {
		return fmt.Errorf("cannot keep the staging log: %w", err)
	}
	return nil
}

// StagingLog is the log of an app's last staging; ErrNotFound if it never was.
func (s *AppStore) StagingLog(ctx context.Context, appID int64) (log string, err error) {
	if err := notFound(s.db.QueryRowContext(ctx, selectStagingLog, appID).Scan(&log)); err != nil {
		return "", fmt.Errorf("cannot read the staging log: %w", err)
	}
	return log, nil
}

// CountApps returns the number of apps.
func (s *AppStore) CountApps(ctx context.Context) (n int, err error) {
	if err := s.db.QueryRowContext(ctx, countApps).Scan(&n); err != nil {
		return 0, fmt.Errorf("cannot count the apps: %w", err)
	}
	return n, nil
}

// AppBlobs are the hashes of a package and droplet that an app or a release of it
// has, "" for none.
type AppBlobs struct {
	AppID       int64
	PackageHash string
	DropletHash string
}

// Blobs are the packages and droplets that must be kept.
func (s *AppStore) Blobs(ctx context.Context) ([]AppBlobs, error) {
	list, err := sqldb.Collect(ctx, s.db, func(rows *sql.Rows) (b AppBlobs, err error) {
		err = rows.Scan(&b.AppID, &b.PackageHash, &b.DropletHash)
		return b, err
	}, selectBlobs)
	if err != nil {
		return nil, fmt.Errorf("cannot list the packages: %w", err)
	}
	return list, nil
}

// environmentText is JSON without the NUL character, which PostgreSQL refuses
// and no environment can hold.
func environmentText(list []string) (string, error) {
	if list == nil {
		list = []string{}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return "", fmt.Errorf("cannot write the environment: %w", err)
	}
	for _, entry := range list {
		if slices.Contains([]byte(entry), 0) {
			return "", errors.New("cannot use an environment with a NUL character")
		}
	}
	return string(text), nil
}
