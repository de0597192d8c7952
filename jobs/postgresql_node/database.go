package postgresqlnode

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/wire"
)

// longestName holds what the server does not cut off a name, less the keeper's ending.
const longestName = 63 - len(keeperEnding)

const keeperEnding = "_keeper"

// keeper is the role that owns what is in an instance while its users may not write.
func keeper(i node.Instance) string { return i.Name + keeperEnding }

// usersOf returns the roles of an instance that people have: the owner and the
// bindings, half-made ones too.
func usersOf(i node.Instance) []string {
	list := []string{i.User}
	for _, b := range i.Bindings {
		list = append(list, b.User)
	}
	return list
}

// validRole says why a name cannot be a role's. Names come from the node itself, or
// with credentials that are to be made again.
func validRole(role string) error {
	if len(role) > longestName || role == administrator || role == "public" || role == "none" || strings.HasPrefix(role, "pg_") || strings.HasSuffix(role, keeperEnding) {
		return wire.Failure(wire.ServiceMalformed, "a name in the credentials cannot be one of PostgreSQL")
	}
	return nil
}

func validNames(i node.Instance) error {
	switch i.Name {
	case "postgres", "template0", "template1":
		return wire.Failure(wire.ServiceMalformed, "a name in the credentials cannot be one of PostgreSQL")
	}
	return errors.Join(validRole(i.Name), validRole(i.User))
}

// text quotes a string; standard_conforming_strings is on, its default.
func text(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// role is a statement that makes a role or, if it is there, gives it these options.
func (s *service) role(ctx context.Context, role, options string) error {
	var there bool
	if err := s.pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role).Scan(&there); err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	verb := "CREATE"
	if there {
		verb = "ALTER"
	}
	return s.administer(ctx, verb+" ROLE "+name(role)+" "+options)
}

const ordinary = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS INHERIT "

// makeDatabase makes the database and its roles, or makes sure of them.
func (s *service) makeDatabase(ctx context.Context, i node.Instance) error {
	return s.makeDatabaseAs(ctx, i, i.Name)
}

// makeDatabaseAs is makeDatabase for a database of an instance with a name of its own. The
// database itself is the administrator's: its owner could change its limits.
func (s *service) makeDatabaseAs(ctx context.Context, i node.Instance, called string) error {
	if err := s.role(ctx, i.User, ordinary+"LOGIN PASSWORD "+text(i.Password)); err != nil {
		return err
	}
	if err := s.role(ctx, keeper(i), ordinary+"NOLOGIN"); err != nil {
		return err
	}
	database := name(called)
	var there bool
	err := s.pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", called).Scan(&there)
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	if !there {
		err = s.administer(ctx, "CREATE DATABASE "+database+" TEMPLATE template0 ENCODING 'UTF8' CONNECTION LIMIT 0")
	}
	if err == nil {
		err = s.administer(ctx, "REVOKE ALL ON DATABASE "+database+" FROM PUBLIC")
	}
	if err != nil {
		return err
	}
	// Who may write has TEMPORARY: the owner, or the keeper in its place (limits.go).
	var done bool
	err = s.pool.QueryRow(ctx, "SELECT has_database_privilege($1, $3, 'TEMPORARY') OR has_database_privilege($2, $3, 'TEMPORARY')", i.User, keeper(i), called).Scan(&done)
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	if !done {
		err := s.within(ctx, called, func(conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "BEGIN; ALTER SCHEMA public OWNER TO "+name(i.User)+"; GRANT CREATE, TEMPORARY ON DATABASE "+database+" TO "+name(i.User)+"; COMMIT")
			return withoutStatement(err)
		})
		if err != nil {
			return err
		}
	}
	p := s.settings.PostgreSQL
	statements := []string{
		fmt.Sprintf("ALTER DATABASE %s SET statement_timeout = '%dms'", database, p.MaxQuery.Duration().Milliseconds()),
		fmt.Sprintf("ALTER DATABASE %s SET idle_in_transaction_session_timeout = '%dms'", database, p.MaxTransaction.Duration().Milliseconds()),
		fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT %d", database, p.MaxConnections),
	}
	if !i.Disabled {
		statements = append(statements, "GRANT CONNECT ON DATABASE "+database+" TO "+name(i.User))
	}
	return s.administer(ctx, statements...)
}

// makeRole makes a binding's role. It acts as the owner from its first statement on, so
// that what one binding makes is every binding's; what it makes as itself (SET ROLE
// NONE) the others may use as well.
func (s *service) makeRole(ctx context.Context, i node.Instance, b node.Binding) error {
	return s.makeRoleIn(ctx, i, b, i.Name)
}

func (s *service) makeRoleIn(ctx context.Context, i node.Instance, b node.Binding, database string) error {
	if err := s.role(ctx, b.User, ordinary+"LOGIN PASSWORD "+text(b.Password)); err != nil {
		return err
	}
	role, owner := name(b.User), name(i.User)
	if err := s.administer(ctx, "GRANT "+owner+" TO "+role, "ALTER ROLE "+role+" IN DATABASE "+name(database)+" SET role = "+text(i.User)); err != nil {
		return err
	}
	return s.within(ctx, database, func(conn *pgx.Conn) error {
		for _, kind := range []string{"TABLES", "SEQUENCES", "FUNCTIONS", "TYPES", "SCHEMAS"} {
			if _, err := conn.Exec(ctx, "ALTER DEFAULT PRIVILEGES FOR ROLE "+role+" GRANT ALL ON "+kind+" TO "+owner); err != nil {
				return withoutStatement(err)
			}
		}
		return nil
	})
}

// removeRole ends a role's sessions, gives what it owns to the owner, and removes it.
func (s *service) removeRole(ctx context.Context, i node.Instance, role string) error {
	var role1, database bool
	err := s.pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1), EXISTS (SELECT FROM pg_database WHERE datname = $2)", role, i.Name).Scan(&role1, &database)
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	if !role1 {
		return nil
	}
	if err := s.administer(ctx, "ALTER ROLE "+name(role)+" NOLOGIN"); err != nil {
		return err
	}
	if err := s.endSessions(ctx, "usename = $1", role); err != nil {
		return err
	}
	if database {
		err := s.within(ctx, i.Name, func(conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "REASSIGN OWNED BY "+name(role)+" TO "+name(i.User)+"; DROP OWNED BY "+name(role))
			return withoutStatement(err)
		})
		if err != nil {
			return err
		}
	}
	return s.administer(ctx, "DROP ROLE "+name(role))
}

// endSessions ends users' sessions and waits until they have ended.
func (s *service) endSessions(ctx context.Context, which string, arg any) error {
	_, err := s.pool.Exec(ctx, "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename <> '"+administrator+"' AND "+which, arg)
	if err != nil {
		return fmt.Errorf("cannot end sessions of users: %w", err)
	}
	return nil
}

// loadingEnding ends the name of a database that a snapshot is loaded into; formerEnding
// that of the one whose place it takes.
const (
	loadingEnding = "_loading"
	formerEnding  = "_former"
)

// dropBeside are the statements that remove what Load makes beside an instance's database.
func dropBeside(i node.Instance) []string {
	var statements []string
	for _, ending := range []string{loadingEnding, formerEnding} {
		statements = append(statements, "DROP DATABASE IF EXISTS "+name(i.Name+ending)+" WITH (FORCE)")
	}
	return statements
}
