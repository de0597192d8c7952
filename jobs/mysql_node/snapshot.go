package mysqlnode

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"github.com/clusterworks/deploy/jobs/component/node"
)

// loadingEnding ends the name of a database into which a snapshot is loaded to see whether
// all of it can be.
const loadingEnding = "_loading"

// Size returns what a database has on the disk.
func (s *service) Size(ctx context.Context, i node.Instance) (int64, error) {
	var bytes sql.NullInt64
	if err := s.db.QueryRowContext(ctx, "SELECT sum(data_length + index_length) FROM information_schema.tables WHERE table_schema = ?", i.Name).Scan(&bytes); err != nil {
		return 0, fmt.Errorf("cannot find out how large a database is: %w", err)
	}
	return bytes.Int64, nil
}

// Dump writes the database with its routines and triggers, as the administrator sees it.
func (s *service) Dump(ctx context.Context, i node.Instance, to io.Writer) error {
	var characters, collation string
	err := s.db.QueryRowContext(ctx, "SELECT default_character_set_name, default_collation_name FROM information_schema.schemata WHERE schema_name = ?", i.Name).Scan(&characters, &collation)
	if err != nil {
		return fmt.Errorf("cannot look at a database: %w", err)
	}
	if _, err := fmt.Fprintf(to, "ALTER DATABASE CHARACTER SET %s COLLATE %s;\n", name(characters), name(collation)); err != nil {
		return fmt.Errorf("cannot write a dump: %w", err)
	}
	return s.client(ctx, s.server.administrator, "", func(cmd *exec.Cmd) { cmd.Stdout = to },
		"mariadb-dump", "--single-transaction", "--quick", "--routines", "--triggers", "--hex-blob", "--skip-lock-tables", "--skip-dump-date", "--default-character-set=utf8mb4", i.Name)
}

// read puts what Dump wrote into an empty database, as the owner, who for as long as it
// takes may make views, routines and triggers of other users of the instance.
func (s *service) read(ctx context.Context, i node.Instance, database string, from io.Reader) (err error) {
	owner := account(i.User)
	defer func() {
		ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer stop()
		err = errors.Join(err, s.do(ctx, "ALTER USER "+owner+" ACCOUNT LOCK"), s.do(ctx, "REVOKE SET USER ON *.* FROM "+owner), s.endSessions(ctx, i.User))
	}()
	for _, statement := range []string{
		"GRANT " + always + ", " + within + " ON " + pattern(database) + ".* TO " + owner, // writes may be revoked
		"GRANT SET USER ON *.* TO " + owner, "ALTER USER " + owner + " ACCOUNT UNLOCK",
	} {
		if err := s.do(ctx, statement); err != nil {
			return err
		}
	}
	return s.client(ctx, i.User, i.Password, func(cmd *exec.Cmd) { cmd.Stdin = from },
		"mariadb", "--init-command=SET max_statement_time = 0", "--default-character-set=utf8mb4", "--batch", database)
}

// Load puts a snapshot into a database beside the instance's first: only what could be
// loaded there replaces what is in the instance. A server of this kind cannot let one
// database take another's place.
func (s *service) Load(ctx context.Context, i node.Instance, from io.ReadSeeker) error {
	return beside{s, i}.replace(ctx, from, s.read)
}

// beside is the database beside an instance's.
type beside struct {
	*service
	i node.Instance
}

func (s beside) name() string { return s.i.Name + loadingEnding }

// replace is Load with the function that puts the file into an empty database.
func (s beside) replace(ctx context.Context, from io.ReadSeeker, read func(context.Context, node.Instance, string, io.Reader) error) (err error) {
	i := s.i
	defer func() {
		ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer stop()
		err = errors.Join(err, s.drop(ctx))
	}()
	if err := errors.Join(s.drop(ctx), s.do(ctx, "CREATE DATABASE "+name(s.name())+" CHARACTER SET utf8mb4")); err != nil {
		return err
	}
	if err := read(ctx, i, s.name(), from); err != nil {
		return err
	}
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("cannot read the dump again: %w", err)
	}
	// The disk needs no room for a third copy.
	if err := s.drop(ctx); err != nil {
		return err
	}
	err = func() error {
		for _, statement := range []string{"DROP DATABASE IF EXISTS " + name(i.Name), "CREATE DATABASE " + name(i.Name) + " CHARACTER SET utf8mb4"} {
			if err := s.do(ctx, statement); err != nil {
				return err
			}
		}
		if err := read(ctx, i, i.Name, from); err != nil {
			return err
		}
		return errors.Join(s.adopt(ctx, i), s.setWrites(ctx, i, true))
	}()
	if err != nil {
		return errors.Join(node.ErrHalfLoaded, err)
	}
	return nil
}

// drop removes it, if it is there.
func (s beside) drop(ctx context.Context) error {
	if err := s.do(ctx, "DROP DATABASE IF EXISTS "+name(s.name())); err != nil {
		return err
	}
	var granted int
	if err := s.db.QueryRowContext(ctx, "SELECT count(*) FROM mysql.db WHERE Db = ? AND User = ?", escaped(s.name()), s.i.User).Scan(&granted); err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	if granted == 0 {
		return nil
	}
	return s.do(ctx, "REVOKE ALL ON "+pattern(s.name())+".* FROM "+account(s.i.User))
}
