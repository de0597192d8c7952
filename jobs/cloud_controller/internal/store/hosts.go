package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

const (
	selectPlatformHosts    = `SELECT host FROM platform_hosts ORDER BY host`
	upsertPlatformHost     = `INSERT INTO platform_hosts (host, noted_at) VALUES ($1, $2) ON CONFLICT (host) DO UPDATE SET noted_at = excluded.noted_at`
	selectAppHosts         = `SELECT DISTINCT host FROM app_hosts ORDER BY host`
	countAppHosts          = `SELECT count(*) FROM app_hosts WHERE host = $1`
	deleteOldPlatformHosts = `DELETE FROM platform_hosts WHERE noted_at <= $1`
)

// PlatformHosts returns the host names that components have registered.
func (s *AppStore) PlatformHosts(ctx context.Context) ([]string, error) {
	list, err := sqldb.Collect(ctx, s.db, func(rows *sql.Rows) (host string, err error) {
		err = rows.Scan(&host)
		return host, err
	}, selectPlatformHosts)
	if err != nil {
		return nil, fmt.Errorf("cannot list the components' host names: %w", err)
	}
	return list, nil
}

// AppHosts returns the host names that apps have, started or not, in order.
func (s *AppStore) AppHosts(ctx context.Context) ([]string, error) {
	list, err := sqldb.Collect(ctx, s.db, func(rows *sql.Rows) (host string, err error) {
		err = rows.Scan(&host)
		return host, err
	}, selectAppHosts)
	if err != nil {
		return nil, fmt.Errorf("cannot list the apps' host names: %w", err)
	}
	return list, nil
}

// HasApp reports whether an app has a host name, in lower case.
func (s *AppStore) HasApp(ctx context.Context, host string) (bool, error) {
	var n int
	if err := s.db.QueryRowContext(ctx, countAppHosts, host).Scan(&n); err != nil {
		return false, fmt.Errorf("cannot look for the app of a host name: %w", err)
	}
	return n > 0, nil
}

// NotePlatformHost notes that a component has registered a host name, in lower
// case, and forgets names that none has had for so long.
func (s *AppStore) NotePlatformHost(ctx context.Context, host string, keptFor time.Duration) error {
	now := s.now()
	_, err := s.db.ExecContext(ctx, upsertPlatformHost, host, now.Unix())
	if err == nil {
		_, err = s.db.ExecContext(ctx, deleteOldPlatformHosts, now.Add(-keptFor).Unix())
	}
	if err != nil {
		return fmt.Errorf("cannot note a component's host name: %w", err)
	}
	return nil
}
