package mysqlnode

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/component/node/limits"
)

// compare says which instances' databases are not there.
func (s *service) compare(ctx context.Context) error {
	for _, i := range s.host.Instances() {
		var there bool
		if err := s.db.QueryRowContext(ctx, "SELECT count(*) > 0 FROM information_schema.schemata WHERE schema_name = ?", i.Name).Scan(&there); err != nil {
			return fmt.Errorf("the server does not answer: %w", err)
		}
		if !there {
			s.host.Log.Error("an instance is recorded, but its database is not on the server: restore it from a snapshot", "instance", i.Name)
		}
	}
	return nil
}

// session is a user's session at one moment. Its number is nobody else's, ever.
type session struct {
	limits.Session
	id       int64
	instance string
}

// watch ends what runs too long, and sessions beyond those of an instance's plan: the
// server itself counts by users.
func (s *service) watch(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	instances := map[string]string{} // of users
	for _, i := range s.host.Instances() {
		if i.Disabled {
			continue // the node itself may be at work, as the owner
		}
		instances[i.User] = i.Name
		for _, b := range i.Bindings {
			instances[b.User] = i.Name
		}
	}
	sessions, err := s.sessions(ctx, instances)
	if err != nil {
		return err
	}
	m := s.settings.MySQL
	of := map[string][]int64{}
	for _, one := range sessions {
		of[one.instance] = append(of[one.instance], one.id)
		what := limits.For(one.Session, m.MaxQuery.Duration(), m.MaxTransaction.Duration())
		if what == limits.Leave {
			continue
		}
		if err := s.kill(ctx, one.id, what); err != nil {
			return err
		}
		s.host.Log.Warn(string(what), "instance", one.instance, "query", one.Query, "transaction", one.Transaction)
	}
	for instance, ids := range of {
		for _, id := range limits.Newest(ids, m.MaxConnections) {
			if err := s.kill(ctx, id, limits.Excess); err != nil {
				return err
			}
			s.host.Log.Warn(string(limits.Excess), "instance", instance, "limit", m.MaxConnections)
		}
	}
	return nil
}

func (s *service) kill(ctx context.Context, id int64, what limits.Measure) error {
	verb := "KILL HARD CONNECTION "
	if what == limits.Cancel {
		verb = "KILL HARD QUERY "
	}
	// One that has ended by itself is unknown.
	if _, err := s.db.ExecContext(ctx, verb+strconv.FormatInt(id, 10)); err != nil && !number(err, 1094) {
		return fmt.Errorf("cannot end a session: %w", err)
	}
	return nil
}

func (s *service) sessions(ctx context.Context, instances map[string]string) ([]session, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT p.id, p.user, CASE WHEN p.command = 'Sleep' THEN 0 ELSE p.time_ms END, coalesce(timestampdiff(SECOND, t.trx_started, now()), 0)
		FROM information_schema.processlist p LEFT JOIN information_schema.innodb_trx t ON t.trx_mysql_thread_id = p.id`)
	if err != nil {
		return nil, fmt.Errorf("the server does not answer: %w", err)
	}
	defer rows.Close()
	var list []session
	for rows.Next() {
		var one session
		var user string
		var milliseconds, seconds float64
		if err := rows.Scan(&one.id, &user, &milliseconds, &seconds); err != nil {
			return nil, fmt.Errorf("the server does not answer: %w", err)
		}
		one.Query, one.Transaction = time.Duration(milliseconds*float64(time.Millisecond)), time.Duration(seconds*float64(time.Second))
		if one.instance = instances[user]; one.instance != "" {
			list = append(list, one)
		}
	}
	return list, rows.Err()
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
	found := limits.Size{Limit: int64(s.settings.MySQL.MaxDatabaseMB) << 20}
	bytes, err := s.fileSize(ctx, i.Name)
	if err != nil {
		return err
	}
	var users, writing int
	err = s.db.QueryRowContext(ctx, "SELECT count(*), count(CASE Insert_priv WHEN 'Y' THEN 1 END) FROM mysql.db WHERE Db = ?", escaped(i.Name)).Scan(&users, &writing)
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	found.Bytes, found.Some, found.All = bytes, writing > 0, writing == users
	what := found.Change()
	if what == limits.Keep {
		return nil
	}
	s.host.Log.Warn(string(what), "instance", i.Name, "bytes", found.Bytes, "limit", found.Limit)
	switch what {
	case limits.Revoke:
		return errors.Join(s.setWrites(ctx, i, false), s.reclaim(ctx, i))
	case limits.GiveBack:
		return s.setWrites(ctx, i, true)
	}
	return s.reclaim(ctx, i)
}

// fileSize returns the bytes of a database's files.
func (s *service) fileSize(ctx context.Context, database string) (int64, error) {
	var bytes sql.NullInt64
	// Names of tablespaces are those of files: "database/table".
	if err := s.db.QueryRowContext(ctx, "SELECT sum(file_size) FROM information_schema.innodb_sys_tablespaces WHERE substring_index(name, '/', 1) = ?", database).Scan(&bytes); err != nil {
		return 0, fmt.Errorf("the server does not answer: %w", err)
	}
	return bytes.Int64, nil
}

// reclaim gives the file system what users of an instance have deleted: a table's file
// keeps its size until the table is made anew.
func (s *service) reclaim(ctx context.Context, i node.Instance) error {
	rows, err := s.db.QueryContext(ctx, "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND engine = 'InnoDB' AND data_free * 5 > data_length + index_length AND data_free > 1048576", i.Name)
	if err != nil {
		return fmt.Errorf("cannot list an instance's tables: %w", err)
	}
	defer rows.Close()
	var tables []string
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			return fmt.Errorf("cannot list an instance's tables: %w", err)
		}
		tables = append(tables, table)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("cannot list an instance's tables: %w", err)
	}
	for _, table := range tables {
		if err := s.do(ctx, "ALTER TABLE "+name(i.Name)+"."+name(table)+" FORCE"); err != nil {
			return err
		}
	}
	return nil
}
