package mysqlnode

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/clusterworks/deploy/agent/host/sockets"
	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/component/node/limits"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Serialize writes a dump as it is: SQL, as anybody's client reads it.
func (s *service) Serialize(_ context.Context, _ node.Instance, from io.Reader, to io.Writer) error {
	if _, err := io.Copy(to, from); err != nil {
		return fmt.Errorf("cannot copy a dump: %w", err)
	}
	return nil
}

// Deserialize runs a file of SQL as the instance's owner, who has no rights but those that
// apps have. It goes where Load goes: first into a database beside the instance's.
func (s *service) Deserialize(ctx context.Context, i node.Instance, from io.ReadSeeker) error {
	return beside{s, i}.replace(ctx, from, func(ctx context.Context, i node.Instance, database string, from io.Reader) error {
		return importer{s, i, database}.run(ctx, from)
	})
}

// importer does what is in a file in a database of an instance, which has nothing.
type importer struct {
	*service
	i        node.Instance
	database string
}

// run does what is in a file, one statement after the other.
func (s importer) run(ctx context.Context, from io.Reader) (err error) {
	owner := account(s.i.User)
	// A file may have changed the owner's password.
	password := "ALTER USER " + owner + " IDENTIFIED BY " + text(s.i.Password)
	defer func() {
		ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer stop()
		err = errors.Join(err, s.do(ctx, password+" ACCOUNT LOCK"), s.endSessions(ctx, s.i.User))
	}()
	for _, statement := range []string{"GRANT " + always + ", " + within + " ON " + pattern(s.database) + ".* TO " + owner, password + " ACCOUNT UNLOCK"} {
		if err := s.do(ctx, statement); err != nil {
			return err
		}
	}
	db, err := s.connect()
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, stop := context.WithCancelCause(ctx)
	measured := make(chan struct{})
	go func() { defer close(measured); s.measure(ctx, stop) }()
	defer func() { stop(nil); <-measured }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("cannot connect as the owner: %w", err)
	}
	defer conn.Close()
	err = runScript(ctx, conn, newScript(from))
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return errors.Join(cause, err) // the reason is told, not that a statement was ended
	}
	return err
}

// connect connects to the database as the owner. The driver reads no files.
func (s importer) connect() (*sql.DB, error) {
	c := mysql.NewConfig()
	c.User, c.Passwd, c.DBName, c.Net, c.Addr = s.i.User, s.i.Password, s.database, "unix", "server"
	c.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) { return sockets.Dial(ctx, s.server.socket()) }
	c.Timeout, c.AllowNativePasswords, c.Logger = 5*time.Second, true, quiet{}
	c.Params = map[string]string{"max_statement_time": "0", "idle_transaction_timeout": "0"}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, fmt.Errorf("cannot prepare a connection as the owner: %w", err)
	}
	return sql.OpenDB(connector), nil
}

// measure ends an import whose database becomes larger than the plan allows.
func (s importer) measure(ctx context.Context, stop context.CancelCauseFunc) {
	most := limits.Size{Limit: int64(s.settings.MySQL.MaxDatabaseMB) << 20}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		bytes, err := s.fileSize(ctx, s.database)
		if err == nil && bytes > most.Limit {
			stop(wire.Failure(wire.ServiceUnavailable, "what is in the file is larger than the %d MB that the plan allows", s.settings.MySQL.MaxDatabaseMB))
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func runScript(ctx context.Context, conn *sql.Conn, file *script) error {
	if err := file.follow(ctx, conn); err != nil {
		return err
	}
	for {
		statement, line, err := file.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if errors.Is(err, errStatementTooLong) || errors.Is(err, errNoStatement) {
			return wire.Failure(wire.ServiceMalformed, "line %d of the file: %v", line, err)
		}
		if err != nil {
			return err
		}
		if len(statement) == 0 {
			continue
		}
		text := string(statement)
		if useStatement.MatchString(text) {
			return wire.Failure(wire.ServiceMalformed, "line %d of the file: it changes to another database (USE); dump one database, without --databases", line)
		}
		if _, err := conn.ExecContext(ctx, adapted(text)); err != nil && !number(err, emptyQuery) {
			var refused *mysql.MySQLError
			if errors.As(err, &refused) && context.Cause(ctx) == nil {
				return wire.Failure(wire.ServiceMalformed, "line %d of the file: the server refuses the statement: %.300s (error %d)", line, refused.Message, refused.Number)
			}
			return fmt.Errorf("a statement of the file failed: %w", err)
		}
		if strings.Contains(strings.ToLower(text), "sql_mode") {
			if err := file.follow(ctx, conn); err != nil {
				return err
			}
		}
	}
}

const emptyQuery = 1065 // only comments

var (
	useStatement = regexp.MustCompile(`(?i)^USE\b`)
	// itsDatabase finds where a dump names the database that it was made of.
	itsDatabase = regexp.MustCompile("(?i)^ALTER DATABASE `(?:[^`]|``)*` CHARACTER SET ")
	// definer finds in whose name a view, routine or trigger acts, where a dump says it.
	// It is the owner from now on: who it was where the dump was made may be nobody here,
	// and nobody else can be named. That this finds all of them is not needed: the server
	// refuses the others.
	definer = regexp.MustCompile("(?is)^((?:/\\*!\\d+ )?CREATE(?: OR REPLACE)?(?: ALGORITHM=[A-Z]+)?(?: ?\\*/)?\\s*(?:/\\*!\\d+ )?)DEFINER ?= ?" + accountPart + "@" + accountPart)
)

const accountPart = "(?:`(?:[^`]|``)*`|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|[\\w.%]+)"

// adapted returns a statement of a dump as it is for another database of another owner.
func adapted(statement string) string {
	statement = itsDatabase.ReplaceAllString(statement, "ALTER DATABASE CHARACTER SET ")
	return definer.ReplaceAllString(statement, "${1}DEFINER=CURRENT_USER")
}

// follow reads of a script what its session's sql_mode says.
func (s *script) follow(ctx context.Context, conn *sql.Conn) error {
	var mode string
	if err := conn.QueryRowContext(ctx, "SELECT @@sql_mode").Scan(&mode); err != nil {
		return fmt.Errorf("cannot ask for the session's sql_mode: %w", err)
	}
	s.noBackslash, s.ansiQuotes = strings.Contains(mode, "NO_BACKSLASH_ESCAPES"), strings.Contains(mode, "ANSI_QUOTES")
	return nil
}
