package mysqlnode

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/wire"
)

// nameText matches the names that databases and users may have: those that are the same in the
// names of files.
var nameText = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`)

// validName says why a name cannot be one of a database or a user. Names come from the
// node itself, or with credentials that are to be made again.
func validName(n string) error {
	switch strings.ToLower(n) {
	case "mysql", "information_schema", "performance_schema", "sys", "root", "public":
	default:
		if nameText.MatchString(n) {
			return nil
		}
	}
	return wire.Failure(wire.ServiceMalformed, "a name in the credentials cannot be one of MySQL")
}

// escaped is a database's name as GRANT reads it and mysql.db has it: a pattern.
func escaped(database string) string { return strings.ReplaceAll(database, "_", `\_`) }

func pattern(database string) string { return name(escaped(database)) }

// account is a user, who may come from anywhere.
func account(user string) string { return text(user) + "@'%'" }

// What users may do in their database: always, and while it is within its size. EVENT is
// not there: events would run by themselves.
const (
	always = "SELECT, DELETE, DROP, EXECUTE, LOCK TABLES, SHOW VIEW"
	within = "INSERT, UPDATE, CREATE, ALTER, INDEX, REFERENCES, CREATE TEMPORARY TABLES, CREATE VIEW, CREATE ROUTINE, ALTER ROUTINE, TRIGGER"
)

func (s *service) makeDatabase(ctx context.Context, i node.Instance) error {
	if err := s.do(ctx, "CREATE DATABASE IF NOT EXISTS "+name(i.Name)+" CHARACTER SET utf8mb4"); err != nil {
		return err
	}
	writes, err := s.mayWrite(ctx, i)
	if err != nil {
		return err
	}
	return s.makeUser(ctx, i, i.User, i.Password, writes)
}

// mayWrite reports whether an instance's users may write: the owner tells, and one that
// is not there yet may.
func (s *service) mayWrite(ctx context.Context, i node.Instance) (bool, error) {
	var users, writing int
	err := s.db.QueryRowContext(ctx, "SELECT count(*), count(CASE Insert_priv WHEN 'Y' THEN 1 END) FROM mysql.db WHERE Db = ? AND User = ?",
		escaped(i.Name), i.User).Scan(&users, &writing)
	if err != nil {
		return false, fmt.Errorf("the server does not answer: %w", err)
	}
	return users == writing, nil
}

// makeUser makes a user, or makes sure of one.
func (s *service) makeUser(ctx context.Context, i node.Instance, user, password string, writes bool) error {
	privileges := always
	if writes {
		privileges += ", " + within
	}
	lock := "UNLOCK"
	if i.Disabled {
		lock = "LOCK"
	}
	// Locked until it has its privileges, so that no session has fewer.
	for _, statement := range []string{
		"CREATE USER IF NOT EXISTS " + account(user) + " ACCOUNT LOCK",
		"GRANT " + privileges + " ON " + pattern(i.Name) + ".* TO " + account(user),
		fmt.Sprintf("ALTER USER %s IDENTIFIED BY %s WITH MAX_USER_CONNECTIONS %d ACCOUNT %s", account(user), text(password), s.settings.MySQL.MaxConnections, lock),
	} {
		if err := s.do(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// usersOf returns the users of an instance's database, those of former bindings too.
func (s *service) usersOf(ctx context.Context, i node.Instance) ([]string, error) {
	users := map[string]bool{i.User: true}
	for _, b := range i.Bindings {
		users[b.User] = true
	}
	rows, err := s.db.QueryContext(ctx, "SELECT User FROM mysql.db WHERE Db = ?", escaped(i.Name))
	if err != nil {
		return nil, fmt.Errorf("the server does not answer: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var user string
		if err := rows.Scan(&user); err != nil {
			return nil, fmt.Errorf("the server does not answer: %w", err)
		}
		users[user] = true
	}
	list := []string{}
	for user := range users {
		if validName(user) == nil {
			list = append(list, user)
		}
	}
	return list, rows.Err()
}

// endSessions ends a user's sessions.
func (s *service) endSessions(ctx context.Context, user string) error {
	_, err := s.db.ExecContext(ctx, "KILL HARD CONNECTION USER "+account(user))
	if err != nil && !number(err, 1094) && !number(err, 1133) && !number(err, 1095) {
		return fmt.Errorf("cannot end sessions of a user: %w", err)
	}
	return nil
}

// exists reports whether the server has a user.
func (s *service) exists(ctx context.Context, user string) (there bool, err error) {
	if err := s.db.QueryRowContext(ctx, "SELECT count(*) > 0 FROM mysql.global_priv WHERE User = ? AND Host = '%'", user).Scan(&there); err != nil {
		return false, fmt.Errorf("the server does not answer: %w", err)
	}
	return there, nil
}

func (s *service) removeUser(ctx context.Context, user string) error {
	there, err := s.exists(ctx, user)
	if err != nil || !there {
		return err
	}
	if err := s.do(ctx, "ALTER USER "+account(user)+" ACCOUNT LOCK"); err != nil {
		return err
	}
	if err := s.endSessions(ctx, user); err != nil {
		return err
	}
	return s.do(ctx, "DROP USER IF EXISTS "+account(user))
}

// retireUser removes a user, unless views, routines or triggers act in its name: then it
// stays without a password, and nobody gets in as it.
func (s *service) retireUser(ctx context.Context, i node.Instance, user string) error {
	there, err := s.exists(ctx, user)
	if err != nil || !there {
		return err
	}
	var named int
	definer := user + "@%"
	err = s.db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM information_schema.views WHERE table_schema = ? AND definer = ?)
		+ (SELECT count(*) FROM information_schema.routines WHERE routine_schema = ? AND definer = ?)
		+ (SELECT count(*) FROM information_schema.triggers WHERE trigger_schema = ? AND definer = ?)`,
		i.Name, definer, i.Name, definer, i.Name, definer).Scan(&named)
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	if named == 0 {
		return s.removeUser(ctx, user)
	}
	return errors.Join(
		s.do(ctx, "ALTER USER "+account(user)+" IDENTIFIED VIA mysql_native_password USING '' ACCOUNT LOCK"),
		s.endSessions(ctx, user),
	)
}

// setWrites takes writes away from an instance's users or gives them back. Sessions that
// have begun keep what they had, so they are ended.
func (s *service) setWrites(ctx context.Context, i node.Instance, writes bool) error {
	users, err := s.usersOf(ctx, i)
	if err != nil {
		return err
	}
	for _, user := range users {
		statement := "REVOKE " + within + " ON " + pattern(i.Name) + ".* FROM " + account(user)
		if writes {
			statement = "GRANT " + within + " ON " + pattern(i.Name) + ".* TO " + account(user)
		}
		if err := s.do(ctx, statement); err != nil {
			return err
		}
	}
	for _, user := range users {
		if err := s.endSessions(ctx, user); err != nil {
			return err
		}
	}
	return nil
}
