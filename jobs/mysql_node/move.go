package mysqlnode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/clusterworks/deploy/jobs/component/node"
)

// dumpFile is the name of the one file of an export.
const dumpFile = "database.sql"

// Disable keeps an instance's users out.
func (s *service) Disable(ctx context.Context, i node.Instance) error {
	users, err := s.usersOf(ctx, i)
	if err != nil {
		return err
	}
	for _, user := range users {
		there, err := s.exists(ctx, user)
		if err == nil && there {
			err = errors.Join(s.do(ctx, "ALTER USER "+account(user)+" ACCOUNT LOCK"), s.endSessions(ctx, user))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Enable lets in who has a password: not those of former bindings.
func (s *service) Enable(ctx context.Context, i node.Instance) error {
	users := []string{i.User}
	for _, b := range i.Users() {
		users = append(users, b.User)
	}
	for _, user := range users {
		if err := s.do(ctx, "ALTER USER "+account(user)+" ACCOUNT UNLOCK"); err != nil {
			return err
		}
	}
	return nil
}

// Export writes the database with its routines and triggers, as the administrator sees
// it.
func (s *service) Export(ctx context.Context, i node.Instance, folder string) error {
	out, err := os.OpenFile(filepath.Join(folder, dumpFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cannot make the export: %w", err)
	}
	defer out.Close()
	if err := s.Dump(ctx, i, out); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return fmt.Errorf("cannot keep the export: %w", err)
	}
	return out.Close()
}

// Import reads what Export wrote.
func (s *service) Import(ctx context.Context, i node.Instance, folder string) error {
	in, err := os.Open(filepath.Join(folder, dumpFile))
	if err != nil {
		return fmt.Errorf("cannot read the export: %w", err)
	}
	defer in.Close()
	if err := s.read(ctx, i, i.Name, in); err != nil {
		return err
	}
	return s.adopt(ctx, i)
}

// adopt makes the users again in whose names views, routines and triggers act, and that
// no binding has: without a password, locked. One of anybody else is an error.
func (s *service) adopt(ctx context.Context, i node.Instance) error {
	rows, err := s.db.QueryContext(ctx, `SELECT definer FROM information_schema.views WHERE table_schema = ? UNION SELECT definer FROM information_schema.routines WHERE routine_schema = ?
		UNION SELECT definer FROM information_schema.triggers WHERE trigger_schema = ?`, i.Name, i.Name, i.Name)
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	defer rows.Close()
	var definers []string
	for rows.Next() {
		var definer string
		if err := rows.Scan(&definer); err != nil {
			return fmt.Errorf("the server does not answer: %w", err)
		}
		definers = append(definers, definer)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	ours, err := s.usersOf(ctx, i)
	if err != nil {
		return err
	}
	for _, definer := range definers {
		user, isOrdinary := strings.CutSuffix(definer, "@%")
		known := false
		for _, other := range ours {
			known = known || other == user
		}
		there, err := s.exists(ctx, user)
		switch {
		case err != nil:
			return err
		case !isOrdinary || validName(user) != nil || there && !known:
			return fmt.Errorf("the export has something that acts as %q, who is no user of the instance", definer)
		case there:
			continue
		}
		for _, statement := range []string{
			"CREATE USER " + account(user) + " IDENTIFIED VIA mysql_native_password USING '' ACCOUNT LOCK",
			"GRANT " + always + ", " + within + " ON " + pattern(i.Name) + ".* TO " + account(user),
		} {
			if err := s.do(ctx, statement); err != nil {
				return err
			}
		}
	}
	return nil
}

// client runs one of MariaDB's own clients on the server's socket.
func (s *service) client(ctx context.Context, user, password string, change func(*exec.Cmd), program string, args ...string) error {
	folder, err := os.Open(s.server.data())
	if err != nil {
		return fmt.Errorf("cannot open the server's folder: %w", err)
	}
	defer folder.Close()
	// Its path may be too long for one of a socket.
	args = append([]string{"--no-defaults", "--socket=/proc/self/fd/3/" + filepath.Base(s.server.socket()), "--user=" + user}, args...)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LC_ALL=C"}
	if password != "" {
		cmd.Env = append(cmd.Env, "MYSQL_PWD="+password)
	}
	cmd.ExtraFiles = []*os.File{folder}
	var problems strings.Builder
	cmd.Stderr = &problems
	change(cmd)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s failed: %w: %.2000s", program, err, problems.String())
	}
	return nil
}
