package postgresqlnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/clusterworks/deploy/jobs/component/node"
)

// Size returns what a database has on the disk.
func (s *service) Size(ctx context.Context, i node.Instance) (size int64, err error) {
	if err := s.pool.QueryRow(ctx, "SELECT pg_database_size(oid) FROM pg_database WHERE datname = $1", i.Name).Scan(&size); err != nil {
		return 0, fmt.Errorf("cannot find out how large a database is: %w", err)
	}
	return size, nil
}

// What a dump begins with: whether the database has the schema public, which each new
// one has, and which pg_restore neither makes nor removes. pg_dump's archive follows.
const (
	withPublic    = "postgresql dump, with public\n"
	withoutPublic = "postgresql dump, less public\n"
)

// Dump writes the database as the administrator sees it: without owners and privileges,
// which are the instance's own.
func (s *service) Dump(ctx context.Context, i node.Instance, to io.Writer) error {
	begin := withoutPublic
	err := s.within(ctx, i.Name, func(conn *pgx.Conn) error {
		var there bool
		err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'public')").Scan(&there)
		if there {
			begin = withPublic
		}
		return withoutStatement(err)
	})
	if err != nil {
		return err
	}
	if _, err := io.WriteString(to, begin); err != nil {
		return fmt.Errorf("cannot write a dump: %w", err)
	}
	return s.client(ctx, administrator, "", func(cmd *exec.Cmd) { cmd.Stdout = to },
		"pg_dump", "--format=custom", "--no-owner", "--no-privileges", "--dbname="+i.Name)
}

// read puts what Dump wrote into an empty database, as the owner: what is in it is the
// user's, and could do as the administrator whatever it likes.
func (s *service) read(ctx context.Context, i node.Instance, database string, from io.Reader) error {
	if err := readBeginning(ctx, s, database, from); err != nil {
		return err
	}
	return s.client(ctx, i.User, i.Password, func(cmd *exec.Cmd) {
		cmd.Stdin = from
		cmd.Env = append(cmd.Env, noTimeLimits)
	}, "pg_restore", restoring(database)...)
}

// noTimeLimits lets statements of a restore last as long as its job may.
const noTimeLimits = "PGOPTIONS=-c statement_timeout=0 -c idle_in_transaction_session_timeout=0"

func restoring(database string) []string {
	return []string{"--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges", "--dbname=" + database}
}

var errNoDump = errors.New("it is no dump of this service")

// readBeginning reads what a dump says before its archive.
func readBeginning(ctx context.Context, s *service, database string, from io.Reader) error {
	begin := make([]byte, len(withPublic))
	if _, err := io.ReadFull(from, begin); err != nil {
		return errors.Join(errNoDump, err)
	}
	switch string(begin) {
	case withPublic:
		return nil
	case withoutPublic:
		return s.within(ctx, database, func(conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "DROP SCHEMA public")
			return withoutStatement(err)
		})
	}
	return errNoDump
}

// Load puts a snapshot into a database beside the instance's and lets that take its place
// when all is in it: until then nothing of the instance is touched.
func (s *service) Load(ctx context.Context, i node.Instance, from io.ReadSeeker) error {
	return s.replace(ctx, i, from, s.read)
}

// reading puts a dump into an empty database of an instance.
type reading func(ctx context.Context, i node.Instance, database string, from io.Reader) error

// replace is Load with the function that reads the file.
func (s *service) replace(ctx context.Context, i node.Instance, from io.Reader, read reading) error {
	if err := s.administer(ctx, dropBeside(i)...); err != nil { // of a node that died
		return err
	}
	loading := i
	loading.Name += loadingEnding
	err := s.fill(ctx, i, loading.Name, from, read)
	// No session may be in either of them when they change places.
	for _, closing := range []node.Instance{i, loading} {
		if err == nil {
			err = s.Disable(ctx, closing)
		}
	}
	if err == nil {
		err = s.takePlace(ctx, i.Name)
	}
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return errors.Join(err, s.administer(after, dropBeside(i)...))
}

// fill makes a database of an instance and puts a snapshot into it.
func (s *service) fill(ctx context.Context, i node.Instance, database string, from io.Reader, read reading) error {
	if err := s.makeDatabaseAs(ctx, i, database); err != nil {
		return err
	}
	if err := read(ctx, i, database, from); err != nil {
		return err
	}
	for _, b := range i.Users() {
		if err := s.makeRoleIn(ctx, i, b, database); err != nil {
			return err
		}
	}
	return nil
}

// takePlace puts the database that was loaded in the place of an instance's, which stays
// beside it: both move or neither.
func (s *service) takePlace(ctx context.Context, database string) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	defer conn.Release()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // it is over after a success
	for _, statement := range []string{
		"ALTER DATABASE " + name(database) + " RENAME TO " + name(database+formerEnding),
		"ALTER DATABASE " + name(database+loadingEnding) + " RENAME TO " + name(database),
	} {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return withoutStatement(err)
		}
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("cannot put what was loaded in its place: %w", withoutStatement(err))
	}
	return nil
}
