package mysqlnode

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/node/nodetest"
	"github.com/clusterworks/deploy/jobs/wire"
)

func start(t *testing.T, settings string) *nodetest.Fixture {
	return nodetest.New(t, Definition, fmt.Sprintf("capacity: 12\nmysql: {port: %d, buffer_pool_mb: 16, %s}\n", componenttest.FreePort(t), settings))
}

// pool connects as an app with these credentials does.
func pool(t *testing.T, c wire.Credentials, changes ...func(*mysql.Config)) *sql.DB {
	t.Helper()
	config := mysql.NewConfig()
	config.User, config.Passwd, config.Net, config.Addr, config.DBName = c.User(), c.Text("password"), "tcp", net.JoinHostPort(c.Text("host"), strconv.Itoa(c.Number("port"))), c.Name()
	config.Timeout, config.Logger = time.Minute, quiet{}
	for _, change := range changes {
		change(config)
	}
	connector, err := mysql.NewConnector(config)
	must(t, err)
	db := sql.OpenDB(connector)
	db.SetMaxIdleConns(-1) // what is closed is closed
	t.Cleanup(func() { db.Close() })
	return db
}

func connect(t *testing.T, c wire.Credentials) (*sql.Conn, error) {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	conn, err := pool(t, c).Conn(ctx)
	if err == nil {
		t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

func as(t *testing.T, c wire.Credentials) *sql.Conn {
	t.Helper()
	conn, err := connect(t, c)
	must(t, err)
	return conn
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func do(t *testing.T, conn *sql.Conn, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		if _, err := conn.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// refused checks that a statement fails, with one of these numbers of the server.
func refused(t *testing.T, conn *sql.Conn, statement string, numbers ...uint16) {
	t.Helper()
	_, err := conn.ExecContext(t.Context(), statement)
	var failed *mysql.MySQLError
	if !errors.As(err, &failed) || !slices.Contains(numbers, failed.Number) {
		t.Errorf("%s: %v, want %v", statement, err, numbers)
	}
}

func count(t *testing.T, conn *sql.Conn, query string) (n int) {
	t.Helper()
	if err := conn.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// denied are the server's numbers of refusals: of a database, a user, a command on a
// table, a column, a privilege, a routine, an unknown table.
var denied = []uint16{1044, 1045, 1142, 1143, 1227, 1370, 1049}

// TestBindings: what one binding writes another reads, changes and drops; who was unbound
// has no session left and gets in no more, and its views, routines and triggers work on.
func TestBindings(t *testing.T) {
	t.Parallel()
	f := start(t, "")
	one := f.Provision()
	a, b := f.Bind(one), f.Bind(one)
	appA, appB := as(t, a), as(t, b)
	do(t, appA, "CREATE TABLE mine (n int)", "INSERT INTO mine VALUES (1)", "CREATE VIEW seen AS SELECT n FROM mine", "CREATE FUNCTION f() RETURNS int READS SQL DATA RETURN (SELECT count(*) FROM mine)",
		"CREATE TABLE log (n int) ENGINE=MyISAM", "CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW INSERT INTO log VALUES (NEW.n)")
	do(t, appB, "INSERT INTO mine VALUES (2)", "ALTER TABLE mine ADD COLUMN m int")
	// What does not survive a crash is not made.
	if n := count(t, appB, "SELECT count(*) FROM information_schema.tables WHERE table_schema = database() AND engine <> 'InnoDB'"); n != 0 {
		t.Errorf("%d tables of another engine", n)
	}
	f.Unbind(a)
	if _, err := appA.ExecContext(t.Context(), "SELECT 1"); err == nil {
		t.Error("a session of an unbound user lives on")
	}
	if _, err := connect(t, a); err == nil {
		t.Error("an unbound user gets in")
	}
	do(t, appB, "INSERT INTO mine (n) VALUES (3)")
	for query, want := range map[string]int{"SELECT count(*) FROM seen": 3, "SELECT f()": 3, "SELECT count(*) FROM log": 2} {
		if n := count(t, appB, query); n != want {
			t.Errorf("%s: %d, want %d", query, n, want)
		}
	}
	do(t, appB, "DROP VIEW seen", "DROP TABLE mine")
	f.Unbind(a) // again
	f.Unprovision(one)
	if _, err := connect(t, b); err == nil {
		t.Error("an instance that was removed lets somebody in")
	}
	f.Unprovision(one)
	other := f.Provision()
	if n := count(t, as(t, other), "SELECT count(*) FROM information_schema.schemata"); n != 2 {
		t.Errorf("%d databases are seen, want its own and information_schema", n)
	}
}

// TestHostileTenant: an app reaches no other database, not the server's files and users,
// and nothing that would make it more than it is; it does not even see that others are.
func TestHostileTenant(t *testing.T) {
	t.Parallel()
	f := start(t, "")
	one, other := f.Provision(), f.Provision()
	mine, theirs := f.Bind(one), f.Bind(other)
	victim := as(t, theirs)
	do(t, victim, "CREATE TABLE secret (v text)", "INSERT INTO secret VALUES ('theirs')")
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, []byte("1\n"), 0o644))
	for _, c := range []wire.Credentials{mine, one} { // a binding, and the owner itself
		for _, database := range []string{other.Name(), "mysql"} {
			stranger := c.Without()
			stranger["name"] = database
			if _, err := connect(t, stranger); err == nil {
				t.Errorf("%s gets into %s", c.User(), database)
			}
		}
		for _, user := range []string{"root", "mysql", "", "mariadb.sys"} {
			stranger := c.Without()
			stranger["user"], stranger["username"] = user, user
			for _, password := range []string{"", c.Text("password")} {
				stranger["password"] = password
				if _, err := connect(t, stranger); err == nil {
					t.Errorf("%q gets in", user)
				}
			}
		}
		app := as(t, c)
		do(t, app, "CREATE TABLE IF NOT EXISTS l (v text)")
		for _, statement := range []string{
			"SELECT * FROM " + name(other.Name()) + ".secret", "DROP DATABASE " + name(other.Name()), "CREATE DATABASE d", "USE mysql",
			"SELECT * FROM mysql.global_priv", "SELECT * FROM mysql.db", "SELECT * FROM mysql.user",
			"SELECT 1 INTO OUTFILE '/tmp/x'", "SELECT 1 INTO DUMPFILE '/tmp/x'", "LOAD DATA INFILE '/etc/passwd' INTO TABLE l",
			"CREATE USER u", "DROP USER " + account(theirs.User()), "SET PASSWORD FOR " + account(theirs.User()) + " = PASSWORD('x')",
			"GRANT ALL ON *.* TO " + account(c.User()), "GRANT FILE ON *.* TO " + account(c.User()), "GRANT SELECT ON " + pattern(one.Name()) + ".* TO " + account(theirs.User()),
			"SHOW GRANTS FOR " + account(theirs.User()), "SET GLOBAL local_infile = 1", "SET GLOBAL max_connections = 1", "SET SESSION enforce_storage_engine = NULL", "SET GLOBAL general_log = 1",
			"SHOW ENGINE INNODB STATUS", "SELECT * FROM information_schema.innodb_trx", "SELECT * FROM information_schema.innodb_sys_tablespaces", "FLUSH TABLES WITH READ LOCK", "SHUTDOWN", "FLUSH HOSTS",
			"INSTALL SONAME 'ha_federated'", "INSTALL PLUGIN p SONAME 'disks'", "CREATE FUNCTION f RETURNS string SONAME 'udf.so'", "CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (HOST '127.0.0.1')",
			"CREATE EVENT e ON SCHEDULE EVERY 1 SECOND DO SELECT 1", "SHOW MASTER STATUS", "CHANGE MASTER TO MASTER_HOST='127.0.0.1'", "PURGE BINARY LOGS TO 'x'",
			"CREATE DEFINER=" + account(theirs.User()) + " VIEW v AS SELECT 1", "CREATE DEFINER=root@localhost PROCEDURE p() SELECT 1", "SET ROLE r", "ALTER USER " + account(c.User()) + " WITH MAX_USER_CONNECTIONS 0",
		} {
			refused(t, app, statement, append(denied, 1146, 1238, 1290, 1410, 1419, 1959, 1126, 1127, 1470, 1044, 1577, 1286, 1289)...)
		}
		// A wish to have a table elsewhere is not heard.
		do(t, app, "CREATE TABLE elsewhere (n int) DATA DIRECTORY='/tmp'", "DROP TABLE elsewhere", "CREATE TABLE elsewhere (n int) DATA DIRECTORY='/tmp'")
		if _, err := os.Stat("/tmp/" + one.Name()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a table is elsewhere: %v", err)
		}
		do(t, app, "DROP TABLE elsewhere")
		if _, err := pool(t, c, func(m *mysql.Config) { m.AllowAllFiles = true }).Exec("LOAD DATA LOCAL INFILE " + text(file) + " INTO TABLE l"); err == nil {
			t.Error("the server takes files of its clients")
		}
		var read sql.NullString
		if err := app.QueryRowContext(t.Context(), "SELECT load_file('/etc/passwd')").Scan(&read); err == nil && read.Valid {
			t.Errorf("a file of the server: %.20q", read.String)
		}
		for query, want := range map[string]int{
			"SELECT count(*) FROM information_schema.schemata":                                           2,
			"SELECT count(*) FROM information_schema.processlist WHERE user <> " + text(c.User()):        0,
			"SELECT count(*) FROM information_schema.tables WHERE table_schema = " + text(other.Name()):  0,
			"SELECT count(*) FROM information_schema.user_privileges WHERE grantee LIKE '%root%'":        0,
			"SELECT count(*) FROM information_schema.schema_privileges WHERE table_schema <> database()": 0,
		} {
			if n := count(t, app, query); n != want {
				t.Errorf("%s: %d, want %d", query, n, want)
			}
		}
		id := count(t, victim, "SELECT connection_id()")
		refused(t, app, fmt.Sprint("KILL ", id), 1095)
	}
	if n := count(t, victim, "SELECT count(*) FROM secret"); n != 1 {
		t.Errorf("%d rows left", n)
	}
}

// TestSize: above the limit an app may read, delete and drop, and not write, whatever it
// has prepared; below it may again, by itself.
func TestSize(t *testing.T) {
	t.Parallel()
	f := start(t, "max_db_size_mb: 20")
	one, other := f.Provision(), f.Provision()
	c, gone := f.Bind(one), f.Bind(one)
	prepared := as(t, gone)
	do(t, prepared, "CREATE TABLE small (n int)", "INSERT INTO small VALUES (1), (2)", "CREATE VIEW seen AS SELECT * FROM small", "CREATE PROCEDURE sneak() INSERT INTO small VALUES (9)",
		"CREATE TABLE hooked (n int)", "INSERT INTO hooked VALUES (1)", "CREATE TRIGGER t AFTER DELETE ON hooked FOR EACH ROW INSERT INTO small VALUES (8)")
	f.Unbind(gone) // what acts in its name stays
	app := as(t, c)
	do(t, app, "CREATE TABLE big (v longtext)")
	fill := "INSERT INTO big SELECT repeat(md5(rand()), 8000) FROM seq_1_to_20"
	var failed error
	for n := 0; n < 100_000 && failed == nil; n++ {
		_, failed = app.ExecContext(t.Context(), fill)
	}
	if failed == nil {
		t.Fatal("writes are not limited")
	}
	// Each in a session of its own, and again if that is ended: those that are there when
	// writes are taken away or given back are.
	attempt := func(c wire.Credentials, work func(*sql.Conn) error) (err error) {
		componenttest.Eventually(t, "an answer", func() bool {
			var conn *sql.Conn
			if conn, err = connect(t, c); err != nil {
				return false
			}
			defer conn.Close()
			err = work(conn)
			var failed *mysql.MySQLError
			return err == nil || errors.As(err, &failed) && failed.Number != 1927
		})
		return err
	}
	does := func(c wire.Credentials, statement string) error {
		return attempt(c, func(conn *sql.Conn) error { _, err := conn.ExecContext(t.Context(), statement); return err })
	}
	rows := func(c wire.Credentials) (n int) {
		must(t, attempt(c, func(conn *sql.Conn) error {
			return conn.QueryRowContext(t.Context(), "SELECT count(*) FROM seen").Scan(&n)
		}))
		return n
	}
	componenttest.Eventually(t, "writes refused", func() bool { return number(does(c, "INSERT INTO small VALUES (3)"), 1142) })
	late := f.Bind(one) // meanwhile
	for _, c := range []wire.Credentials{c, late, one} {
		before := rows(c)
		for _, statement := range []string{
			fill, "UPDATE small SET n = 4", "REPLACE INTO small VALUES (1)", "INSERT INTO seen VALUES (5)", "CREATE TABLE more (n int)", "CREATE TEMPORARY TABLE more (n int)", "CALL sneak()", "DELETE FROM hooked",
			"ALTER TABLE small ADD m int", "CREATE INDEX i ON small (n)", "CREATE OR REPLACE VIEW seen AS SELECT 1", "CREATE TRIGGER more AFTER DELETE ON small FOR EACH ROW INSERT INTO small VALUES (8)",
		} {
			var failed *mysql.MySQLError
			if err := does(c, statement); !errors.As(err, &failed) || !slices.Contains(denied, failed.Number) {
				t.Errorf("%s: %v, want a refusal", statement, err)
			}
		}
		if n := rows(c); n != before {
			t.Errorf("%d rows, there were %d", n, before)
		}
	}
	do(t, as(t, f.Bind(other)), "CREATE TABLE t (n int)")
	// Deleted is enough: the node gives the room back.
	must(t, does(c, "DELETE FROM big"))
	componenttest.Eventually(t, "writes again", func() bool { return does(c, "INSERT INTO small VALUES (3)") == nil })
	for _, statement := range []string{"CREATE TABLE IF NOT EXISTS more (n int)", "CALL sneak()", "DELETE FROM hooked", "DROP TABLE IF EXISTS big"} {
		componenttest.Eventually(t, statement, func() bool { return does(late, statement) == nil })
	}
}

// TestTooLong: a query and a transaction that last too long are ended and their app is
// told, also when it has switched the server's own limits off.
func TestTooLong(t *testing.T) {
	t.Parallel()
	f := start(t, "max_long_query: 0.5, max_long_tx: 2")
	c := f.Bind(f.Provision())
	long := "SELECT count(*) FROM seq_1_to_1000000 a, seq_1_to_1000000 b WHERE a.seq * b.seq = -1"
	var n int
	if err := as(t, c).QueryRowContext(t.Context(), long).Scan(&n); !number(err, 1969) {
		t.Errorf("%v, want 1969: max_statement_time exceeded", err)
	}
	stubborn := as(t, c)
	do(t, stubborn, "SET max_statement_time = 0")
	if err := stubborn.QueryRowContext(t.Context(), long).Scan(&n); !number(err, 1317) && !number(err, 1927) {
		t.Errorf("%v, want 1317: query execution was interrupted", err)
	}
	idle := as(t, c)
	do(t, idle, "SET idle_transaction_timeout = 0", "CREATE TABLE t (n int)", "BEGIN", "INSERT INTO t VALUES (1)")
	componenttest.Eventually(t, "an idle transaction ended", func() bool { return idle.PingContext(t.Context()) != nil })
	if n := count(t, as(t, c), "SELECT count(*) FROM t"); n != 0 {
		t.Errorf("%d rows of a transaction that was ended", n)
	}
}

// TestConnections: 1,000 connections of one app, by several bindings, and as many that
// say nothing, take neither the node nor another app down.
func TestConnections(t *testing.T) {
	t.Parallel()
	f := start(t, "max_user_conns: 5")
	one, other := f.Provision(), f.Provision()
	c, theirs := f.Bind(one), f.Bind(other)
	var group sync.WaitGroup
	var mu sync.Mutex
	in, told := 0, 0
	for range 20 {
		group.Go(func() {
			for range 50 {
				_, err := connect(t, c)
				mu.Lock()
				switch {
				case err == nil:
					in++
				case number(err, 1226) || number(err, 1203) || number(err, 1040):
					told++
				default:
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if in != 5 || told != 995 {
		t.Errorf("%d connections, %d refused", in, told)
	}
	as(t, theirs)
	// Bindings have their limit together.
	more := []*sql.Conn{}
	for range 2 {
		b := f.Bind(one)
		for range 5 {
			if conn, err := connect(t, b); err == nil {
				more = append(more, conn)
			}
		}
	}
	componenttest.Eventually(t, "sessions beyond the instance's ended", func() bool {
		return !slices.ContainsFunc(more, func(conn *sql.Conn) bool { return conn.PingContext(t.Context()) == nil })
	})
	for range 1000 {
		conn, err := net.Dial("tcp", net.JoinHostPort(c.Text("host"), strconv.Itoa(c.Number("port"))))
		if err != nil {
			break
		}
		t.Cleanup(func() { conn.Close() })
	}
	fresh := f.Bind(other) // by the connections that the node keeps
	componenttest.Eventually(t, "another app gets in", func() bool { _, err := connect(t, fresh); return err == nil })
}

// TestKillDuringWrites: whatever is killed with -9 while an app writes, what was
// acknowledged is there, with the same credentials.
func TestKillDuringWrites(t *testing.T) {
	t.Parallel()
	f := start(t, "")
	c := f.Bind(f.Provision())
	do(t, as(t, c), "CREATE TABLE n (n int)", "INSERT INTO n VALUES (0)")
	acknowledged := 0
	kept := func() (n int, err error) {
		conn, err := connect(t, c)
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		return n, conn.QueryRowContext(context.Background(), "SELECT n FROM n").Scan(&n)
	}
	write := func(ctx context.Context) {
		for ctx.Err() == nil {
			conn, err := connect(t, c)
			for err == nil && ctx.Err() == nil {
				if _, err = conn.ExecContext(context.Background(), "UPDATE n SET n = ?", acknowledged+1); err == nil {
					acknowledged++
				}
			}
		}
	}
	for round := range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		before := acknowledged
		go func() { write(ctx); close(done) }()
		componenttest.Eventually(t, "writes", func() bool { n, _ := kept(); return n > before+20 })
		data, err := os.ReadFile(filepath.Join(f.Base, "mysql", "main", "mysql.pid"))
		must(t, err)
		pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
		must(t, err)
		must(t, syscall.Kill(pid, syscall.SIGKILL))
		if round == 1 { // the node as well
			f.Stop()
		}
		cancel()
		<-done
		if round == 1 {
			f.Start()
		}
		componenttest.Eventually(t, "the server again", func() bool { _, err := kept(); return err == nil })
		if got, err := kept(); err != nil || got < acknowledged || got > acknowledged+1 {
			t.Errorf("round %d: %d is there, %d was acknowledged, %v", round, got, acknowledged, err)
		}
		acknowledged, _ = kept()
	}
}

// TestMissingData: a node whose records are there and whose data is not, or is none, or
// is of another version, does not start and makes none.
func TestMissingData(t *testing.T) {
	t.Parallel()
	f := start(t, "")
	f.Provision()
	f.Stop()
	main := filepath.Join(f.Base, "mysql", "main")
	must(t, os.Rename(main, main+".away"))
	refuses := func(what string) {
		t.Helper()
		if err := f.Run(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want %q", err, what)
		}
	}
	refuses("there are records of 1 instances, but no data")
	must(t, os.Mkdir(main, 0o700))
	refuses("has no node_version")
	must(t, os.WriteFile(filepath.Join(main, versionFile), []byte("5.1\n"), 0o600))
	refuses(`is from MariaDB "5.1"`)
	if entries, err := os.ReadDir(main); err != nil || len(entries) != 1 {
		t.Errorf("data was made: %v, %v", entries, err)
	}
}

// TestNoPasswordLeaks: the server runs as an ordinary user, without a password in its
// arguments, and passwords are in the node's records only.
func TestNoPasswordLeaks(t *testing.T) {
	t.Parallel()
	f := start(t, "")
	c := f.Bind(f.Provision())
	data, err := os.ReadFile(filepath.Join(f.Base, "mysql", "main", "mysql.pid"))
	must(t, err)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%s/status", strings.TrimSpace(string(data))))
	must(t, err)
	if os.Getuid() == 0 && (strings.Contains(string(status), "\nUid:\t0\t") || !strings.Contains(string(status), "NoNewPrivs:\t1")) {
		t.Errorf("the server runs as root or may become it:\n%s", status)
	}
	f.Stop()
	must(t, filepath.WalkDir(filepath.Join(f.Base, "mysql"), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(data), c.Text("password")) {
			t.Errorf("a password is in %s", path)
		}
		return err
	}))
}

// TestMove: an instance moves with all that is in it, its users and their passwords, and
// what acts in the name of a former one; while it is on its way nobody gets in.
func TestMove(t *testing.T) {
	t.Parallel()
	shared := t.TempDir()
	node := func() *nodetest.Fixture {
		return nodetest.New(t, Definition, fmt.Sprintf("capacity: 5\nmigration_nfs: %s\nmysql: {port: %d, buffer_pool_mb: 16}\n", shared, componenttest.FreePort(t)))
	}
	from, to := node(), node()
	to.Provision() // somebody else's
	one := from.Provision()
	gone, a, b := from.Bind(one), from.Bind(one), from.Bind(one)
	do(t, as(t, a), "CREATE TABLE t (id int AUTO_INCREMENT PRIMARY KEY, v blob, s varchar(100), n int GENERATED ALWAYS AS (length(s)) STORED)", "INSERT INTO t (v, s) SELECT unhex(md5(seq)), concat('\\'\\\\ \n ü ', seq) FROM seq_1_to_500",
		"CREATE VIEW seen AS SELECT * FROM t", "CREATE PROCEDURE p() INSERT INTO t (s) VALUES ('p')")
	do(t, as(t, gone), "CREATE TABLE log (n int)", "CREATE TRIGGER r AFTER INSERT ON t FOR EACH ROW INSERT INTO log VALUES (NEW.id)", "CREATE FUNCTION f() RETURNS int READS SQL DATA RETURN (SELECT count(*) FROM t)")
	from.Unbind(gone)
	read := func(c wire.Credentials) (text string) {
		if err := as(t, c).QueryRowContext(t.Context(), "SELECT group_concat(md5(concat_ws('|', id, hex(v), s, n)) ORDER BY id) FROM seen WHERE id <= 500").Scan(&text); err != nil {
			t.Fatal(err)
		}
		return text
	}
	want := read(b)
	moved := from.Move(to, one, a, b)
	if len(moved) != 3 {
		t.Fatalf("moved: %v", moved)
	}
	for at, before := range []wire.Credentials{one, a, b} {
		after := moved[at]
		if after.User() != before.User() || after.Text("password") != before.Text("password") || after.Name() != before.Name() || after.Number("port") == before.Number("port") {
			t.Errorf("credentials %d are others", at)
		}
		if _, err := connect(t, before); err == nil {
			t.Error("who has moved gets in where they were")
		}
		if got := read(after); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	app := as(t, moved[1])
	do(t, app, "INSERT INTO t (s) VALUES ('x')", "CALL p()", "CREATE TABLE more (n int)")
	for query, want := range map[string]int{"SELECT f()": 502, "SELECT count(*) FROM log": 2} {
		if n := count(t, app, query); n != want {
			t.Errorf("%s: %d, want %d", query, n, want)
		}
	}
	refused(t, as(t, moved[0]), "CREATE DEFINER=root@localhost PROCEDURE q() SELECT 1", denied...)
	former := gone.Without()
	former["port"] = moved[0]["port"]
	for _, password := range []string{gone.Text("password"), ""} {
		former["password"] = password
		if _, err := connect(t, former); err == nil {
			t.Error("a user of a former binding gets in")
		}
	}
	if entries, err := os.ReadDir(filepath.Join(shared, "migration", "MyaaS")); err != nil || len(entries) != 0 {
		t.Errorf("the export is left: %v, %v", entries, err)
	}
	from.Unprovision(one)
	do(t, as(t, moved[2]), "DROP TABLE t")
}
