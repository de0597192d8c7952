package postgresqlnode

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/component/node/limits"
)

// session is a user's session at one moment.
type session struct {
	limits.Session
	pid      int
	began    time.Time
	database string
}

// begin closes the server's own databases to users, and says which instances' databases
// are not there.
func (s *service) begin(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	if err := s.administer(ctx, "REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC"); err != nil {
		return err
	}
	rows, err := s.pool.Query(ctx, "SELECT datname FROM pg_database")
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	there := map[string]bool{}
	for _, n := range names {
		there[n] = true
	}
	for _, i := range s.host.Instances() {
		if !there[i.Name] {
			s.host.Log.Error("an instance is recorded, but its database is not on the server: restore it from a snapshot", "instance", i.Name)
		}
	}
	return nil
}

// watch ends what runs too long.
func (s *service) watch(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	rows, err := s.pool.Query(ctx, `SELECT pid, backend_start, datname,
		CASE WHEN state = 'active' THEN extract(epoch FROM clock_timestamp() - query_start)::float8 ELSE 0 END,
		coalesce(extract(epoch FROM clock_timestamp() - xact_start)::float8, 0)
		FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename <> $1 AND datname IS NOT NULL`, administrator)
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	sessions, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (session, error) {
		var one session
		var query, transaction float64
		err := row.Scan(&one.pid, &one.began, &one.database, &query, &transaction)
		one.Query, one.Transaction = time.Duration(query*float64(time.Second)), time.Duration(transaction*float64(time.Second))
		return one, err
	})
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	p := s.settings.PostgreSQL
	serving := map[string]bool{} // in others the node itself may be at work, as their owner
	for _, i := range s.host.Instances() {
		serving[i.Name] = !i.Disabled
	}
	for _, one := range sessions {
		if !serving[one.database] {
			continue
		}
		what, function := limits.For(one.Session, p.MaxQuery.Duration(), p.MaxTransaction.Duration()), "pg_cancel_backend"
		if what == limits.Leave {
			continue
		}
		if what == limits.End {
			function = "pg_terminate_backend"
		}
		// The number may be another session's by now.
		if _, err := s.pool.Exec(ctx, "SELECT "+function+"(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2", one.pid, one.began); err != nil {
			return fmt.Errorf("cannot end a session: %w", err)
		}
		s.host.Log.Warn(string(what), "instance", one.database, "query", one.Query, "transaction", one.Transaction)
	}
	return nil
}

// checkSizes takes writes away from those whose databases are too large, and gives them
// back. What fails is tried again at the next check.
func (s *service) checkSizes(ctx context.Context) {
	for _, i := range s.host.Instances() {
		if i.Disabled {
			continue // it is being moved
		}
		if err := s.checkSize(ctx, i); err != nil && ctx.Err() == nil {
			s.host.Log.Error("cannot keep an instance within its size", "instance", i.Name, "error", err)
		}
	}
}

func (s *service) checkSize(ctx context.Context, i node.Instance) error {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	found := limits.Size{Limit: int64(s.settings.PostgreSQL.MaxDatabaseMB) << 20}
	err := s.pool.QueryRow(ctx, "SELECT pg_database_size(oid), NOT has_database_privilege($2, oid, 'TEMPORARY') FROM pg_database WHERE datname = $1", i.Name, keeper(i)).
		Scan(&found.Bytes, &found.Some)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // begin has told
	}
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	found.All = found.Some // they change in one transaction
	what := found.Change()
	if what == limits.Keep {
		return nil
	}
	s.host.Log.Warn(string(what), "instance", i.Name, "bytes", found.Bytes, "limit", found.Limit)
	switch what {
	case limits.Revoke:
		if err := s.moveOwnership(ctx, i, true); err != nil {
			return err
		}
		return s.reclaim(ctx, i)
	case limits.GiveBack:
		return s.moveOwnership(ctx, i, false)
	}
	return s.reclaim(ctx, i)
}

// moveOwnership takes writes away or gives them back. An owner can give itself any
// privilege, so while users may not write, what they have is the keeper's, and the owner
// has leave to read, to delete and to empty.
func (s *service) moveOwnership(ctx context.Context, i node.Instance, away bool) error {
	database := name(i.Name)
	if away {
		// Nobody comes in while a session could hold what is to be changed.
		if err := s.administer(ctx, "ALTER DATABASE "+database+" CONNECTION LIMIT 0"); err != nil {
			return err
		}
		defer func() {
			ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer stop()
			if err := s.administer(ctx, fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT %d", database, s.settings.PostgreSQL.MaxConnections)); err != nil {
				s.host.Log.Error("cannot let users in again", "instance", i.Name, "error", err)
			}
		}()
		if err := s.endSessions(ctx, "datname = $1", i.Name); err != nil {
			return err
		}
	}
	return s.within(ctx, i.Name, func(conn *pgx.Conn) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return fmt.Errorf("the server does not answer: %w", err)
		}
		defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // after a commit there is nothing to roll back
		from, to := usersOf(i), keeper(i)
		if !away {
			from, to = []string{keeper(i)}, i.User
		}
		for _, query := range ownership(away) {
			if err := generated(ctx, tx, query, pgx.NamedArgs{"from": from, "to": to, "owner": i.User, "users": usersOf(i)}); err != nil {
				return err
			}
		}
		owner := name(i.User)
		last := "REVOKE CREATE, TEMPORARY ON DATABASE " + database + " FROM " + owner + "; GRANT TEMPORARY ON DATABASE " + database + " TO " + name(keeper(i))
		if !away {
			last = "GRANT CREATE, TEMPORARY ON DATABASE " + database + " TO " + owner + "; REVOKE TEMPORARY ON DATABASE " + database + " FROM " + name(keeper(i))
		}
		if _, err := tx.Exec(ctx, last); err != nil {
			return withoutStatement(err)
		}
		return tx.Commit(ctx)
	})
}

// ownership are queries whose results are the statements that give what the roles @from
// have to @to, or also take from @users what they may write. @owner is the instance's.
func ownership(away bool) []string {
	const (
		relation = " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner, unnest(@users::text[] || 'public'::text) u WHERE n.nspname NOT LIKE 'pg\\_%' AND "
		schema   = " FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner, unnest(@users::text[] || 'public'::text) u WHERE n.nspname NOT LIKE 'pg\\_%' AND "
		each     = "u = @owner AND "
		whose    = "CASE u WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(u) END"
		// By their kinds: what holds data, what is read as well, and sequences that do
		// not go with their table.
		tables   = " AND c.relkind IN ('r', 'p') AND NOT c.relhasrules"
		readable = " AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"
		free     = " AND (c.relkind <> 'S' OR NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')))"
		kinds    = " AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')"
		// The functions that make large objects larger.
		large = " FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname IN ('lo_creat', 'lo_create', 'lo_from_bytea', 'lowrite', 'lo_put', 'lo_truncate', 'lo_truncate64')"
	)
	queries := []string{
		"SELECT format('ALTER TABLE %s OWNER TO %I', c.oid::regclass, @to::text)" + relation + each + "r.rolname = ANY (@from)" + kinds + free + " ORDER BY c.relispartition, c.oid",
		"SELECT format('ALTER SCHEMA %I OWNER TO %I', n.nspname, @to::text)" + schema + each + "r.rolname = ANY (@from)",
	}
	if !away {
		return append(queries, "SELECT format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', p.oid::regprocedure)"+large)
	}
	// By now they are the keeper's. A rule acts as who owns its table, so that none may
	// be set off.
	kept := "r.rolname = @to"
	return append(queries,
		"SELECT format('REVOKE ALL ON TABLE %s FROM %s CASCADE', c.oid::regclass, "+whose+")"+relation+kept+readable,
		"SELECT format('GRANT SELECT ON TABLE %s TO %I', c.oid::regclass, u)"+relation+each+kept+readable,
		"SELECT format('GRANT DELETE, TRUNCATE ON TABLE %s TO %I', c.oid::regclass, u)"+relation+each+kept+tables,
		"SELECT format('GRANT USAGE, SELECT ON SEQUENCE %s TO %I', c.oid::regclass, u)"+relation+each+kept+" AND c.relkind = 'S'",
		"SELECT format('REVOKE ALL ON SCHEMA %I FROM %s CASCADE', n.nspname, "+whose+")"+schema+kept,
		"SELECT format('GRANT USAGE ON SCHEMA %I TO %I', n.nspname, u)"+schema+each+kept,
		"SELECT format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', p.oid::regprocedure)"+large,
	)
}

// generated does the statements that a query returns.
func generated(ctx context.Context, tx pgx.Tx, query string, args pgx.NamedArgs) error {
	rows, err := tx.Query(ctx, query, args)
	if err != nil {
		return fmt.Errorf("cannot list what an instance has: %w", err)
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("cannot list what an instance has: %w", err)
	}
	for _, statement := range statements {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return withoutStatement(err)
		}
	}
	return nil
}

// reclaim gives the file system what users of an instance have deleted. They cannot:
// what they have is the keeper's.
func (s *service) reclaim(ctx context.Context, i node.Instance) error {
	return s.within(ctx, i.Name, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT format('VACUUM (%s) %s', CASE WHEN n_dead_tup * 5 > n_live_tup THEN 'FULL' ELSE 'TRUNCATE' END, relid::regclass)
			FROM pg_stat_user_tables JOIN pg_class c ON c.oid = relid JOIN pg_roles r ON r.oid = c.relowner WHERE r.rolname = $1 AND n_dead_tup > 0`, keeper(i))
		if err != nil {
			return fmt.Errorf("cannot list an instance's tables: %w", err)
		}
		statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("cannot list an instance's tables: %w", err)
		}
		for _, statement := range statements {
			if _, err := conn.Exec(ctx, statement); err != nil {
				return withoutStatement(err)
			}
		}
		return nil
	})
}
