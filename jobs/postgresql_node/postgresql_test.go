package postgresqlnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/node/nodetest"
	"github.com/clusterworks/deploy/jobs/wire"
)

func start(t *testing.T, settings string) *nodetest.Fixture {
	return nodetest.New(t, Definition, fmt.Sprintf("capacity: 12\npostgresql: {port: %d, shared_buffers_mb: 16, %s}\n", componenttest.FreePort(t), settings))
}

// connect connects as an app with these credentials does.
func connect(t *testing.T, c wire.Credentials) (*pgx.Conn, error) {
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	conn, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s sslmode=disable", c.Text("host"), c.Number("port"), c.User(), c.Text("password"), c.Name()))
	if err == nil {
		t.Cleanup(func() { conn.Close(context.Background()) })
	}
	return conn, err
}

func as(t *testing.T, c wire.Credentials) *pgx.Conn {
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

func do(t *testing.T, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// refused checks that a statement fails, with one of these codes of the server.
func refused(t *testing.T, conn *pgx.Conn, statement string, codes ...string) {
	t.Helper()
	_, err := conn.Exec(t.Context(), statement)
	var failed *pgconn.PgError
	if !errors.As(err, &failed) {
		t.Errorf("%s: %v, want a refusal", statement, err)
		return
	}
	for _, code := range codes {
		if failed.Code == code {
			return
		}
	}
	t.Errorf("%s: %v, want %v", statement, failed, codes)
}

func number(t *testing.T, conn *pgx.Conn, query string) (n int) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), query).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

const denied = "42501"

// TestBindings: what one binding writes another reads, changes and drops, however it was
// made; who was unbound has no session left and gets in no more, and what it made stays.
func TestBindings(t *testing.T) {
	t.Parallel()
	f := start(t, "")
	one := f.Provision()
	a, b := f.Bind(one), f.Bind(one)
	appA, appB := as(t, a), as(t, b)
	do(t, appA, "CREATE TABLE mine (n int)", "INSERT INTO mine VALUES (1)", "CREATE SCHEMA s", "CREATE TABLE s.t (id serial, v text)")
	do(t, appB, "INSERT INTO mine VALUES (2)", "ALTER TABLE mine ADD COLUMN m int", "INSERT INTO s.t (v) VALUES ('x')", "CREATE EXTENSION pgcrypto")
	// A pool that resets its sessions is itself, no longer the owner.
	do(t, appA, "DISCARD ALL", "SET ROLE NONE", "CREATE TABLE own (n int)", "CREATE SCHEMA own_schema", "CREATE TABLE own_schema.t (n serial)")
	do(t, appB, "INSERT INTO own VALUES (3)", "INSERT INTO own_schema.t DEFAULT VALUES")
	if n := number(t, appB, "SELECT count(*) FROM mine"); n != 2 {
		t.Errorf("%d rows", n)
	}
	f.Unbind(a)
	if _, err := appA.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("a session of an unbound user lives on")
	}
	if _, err := connect(t, a); err == nil {
		t.Error("an unbound user gets in")
	}
	do(t, appB, "DROP TABLE own", "INSERT INTO own_schema.t DEFAULT VALUES", "DROP SCHEMA own_schema CASCADE", "DROP TABLE mine")
	f.Unbind(a) // again
	f.Unprovision(one)
	if _, err := connect(t, b); err == nil {
		t.Error("an instance that was removed lets somebody in")
	}
	f.Unprovision(one)
}

// TestHostileTenant: an app reaches no other database, no role of others, not the
// server's files and programs, and nothing that would make it more than it is.
func TestHostileTenant(t *testing.T) {
	t.Parallel()
	f := start(t, "")
	one, other := f.Provision(), f.Provision()
	mine, theirs := f.Bind(one), f.Bind(other)
	victim := as(t, theirs)
	do(t, victim, "CREATE TABLE secret (v text)", "INSERT INTO secret VALUES ('theirs')")
	for _, c := range []wire.Credentials{mine, one} { // a binding, and the owner itself
		for _, database := range []string{other.Name(), "postgres", "template1"} {
			stranger := c.Without()
			stranger["name"] = database
			if _, err := connect(t, stranger); err == nil {
				t.Errorf("%s gets into %s", c.User(), database)
			}
		}
		stranger := c.Without()
		stranger["user"], stranger["username"] = administrator, administrator
		if _, err := connect(t, stranger); err == nil {
			t.Error("the administrator gets in by its network")
		}
		app := as(t, c)
		for _, role := range []string{"", "SET ROLE NONE"} {
			do(t, app, "RESET ALL")
			if role != "" {
				do(t, app, role)
			}
			for statement, codes := range map[string][]string{
				"COPY (SELECT 1) TO PROGRAM 'id'":                                  {denied},
				"COPY (SELECT 1) TO '/tmp/x'":                                      {denied},
				"CREATE TEMP TABLE l (v text)":                                     nil,
				"COPY l FROM '/etc/passwd'":                                        {denied},
				"COPY l FROM PROGRAM 'id'":                                         {denied},
				"SELECT pg_read_file('/etc/passwd')":                               {denied},
				"SELECT pg_read_binary_file('PG_VERSION')":                         {denied},
				"SELECT pg_ls_dir('.')":                                            {denied},
				"SELECT pg_stat_file('PG_VERSION')":                                {denied},
				"SELECT lo_import('/etc/passwd')":                                  {denied},
				"SELECT lo_export(1, '/tmp/x')":                                    {denied},
				"CREATE EXTENSION dblink":                                          {denied},
				"CREATE EXTENSION postgres_fdw":                                    {denied},
				"CREATE EXTENSION file_fdw":                                        {denied},
				"CREATE EXTENSION adminpack":                                       {denied},
				"CREATE FOREIGN DATA WRAPPER w":                                    {denied},
				"LOAD 'dblink'":                                                    {denied, "58P01"},
				"CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'libc', 'getpid'":   {denied},
				"CREATE FUNCTION f() RETURNS int LANGUAGE internal AS 'int4in'":    {denied},
				"CREATE LANGUAGE plpython3u":                                       {denied, "0A000", "58P01"},
				"CREATE TABLESPACE t LOCATION '/tmp'":                              {denied},
				"CREATE SUBSCRIPTION s CONNECTION 'host=/tmp' PUBLICATION p":       {denied},
				"CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION now()": {denied, "42883", "42P17"},
				"CREATE ROLE r":                                                    {denied},
				"CREATE DATABASE d":                                                {denied},
				"DROP DATABASE " + name(one.Name()):                                {denied, "55006"},
				"DROP DATABASE " + name(other.Name()):                              {denied},
				"ALTER DATABASE " + name(one.Name()) + " CONNECTION LIMIT 500":     {denied},
				"ALTER DATABASE " + name(one.Name()) + " SET work_mem = '1MB'":     {denied},
				"ALTER DATABASE " + name(one.Name()) + " ALLOW_CONNECTIONS true":   {denied},
				"ALTER ROLE " + name(c.User()) + " SUPERUSER":                      {denied},
				"ALTER ROLE " + name(c.User()) + " CREATEROLE":                     {denied},
				"ALTER ROLE " + name(c.User()) + " REPLICATION":                    {denied},
				"ALTER ROLE " + name(theirs.User()) + " PASSWORD 'x'":              {denied},
				"ALTER ROLE postgres PASSWORD 'x'":                                 {denied},
				"ALTER SYSTEM SET fsync = off":                                     {denied},
				"SET ROLE postgres":                                                {denied},
				"SET ROLE " + name(theirs.User()):                                  {denied},
				"SET ROLE " + name(other.User()):                                   {denied},
				"SET SESSION AUTHORIZATION postgres":                               {denied},
				"SET session_replication_role = replica":                           {denied},
				"SET log_statement = 'all'":                                        {denied},
				"SET temp_file_limit = -1":                                         {denied},
				"GRANT pg_read_server_files TO " + name(c.User()):                  {denied},
				"GRANT pg_execute_server_program TO " + name(c.User()):             {denied},
				"GRANT " + name(other.User()) + " TO " + name(c.User()):            {denied},
				"SELECT * FROM pg_authid":                                          {denied},
				"SELECT * FROM pg_shadow":                                          {denied},
				"SELECT * FROM pg_hba_file_rules":                                  {denied},
				"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = " + text(theirs.User()): {denied},
				"SELECT pg_reload_conf()":                         {denied},
				"SELECT pg_create_physical_replication_slot('s')": {denied},
				"CHECKPOINT":                               {denied},
				"DROP ROLE " + name(keeperEnding):          {denied, "42704"},
				"SELECT current_setting('data_directory')": {denied},
			} {
				if codes == nil {
					continue
				}
				if strings.Contains(statement, " l FROM") {
					do(t, app, "CREATE TEMP TABLE IF NOT EXISTS l (v text)")
				}
				refused(t, app, statement, codes...)
			}
		}
		// Of others only names are seen, which are random: the server shows what there is
		// to everybody. What they do is not.
		if n := number(t, app, "SELECT count(*) FROM pg_stat_activity WHERE datname = "+text(other.Name())+" AND query NOT IN ('<insufficient privilege>')"); n != 0 {
			t.Errorf("%d sessions of others show what they do", n)
		}
	}
	if n := number(t, victim, "SELECT count(*) FROM secret"); n != 1 {
		t.Errorf("%d rows left", n)
	}
}

// TestSize: above the limit an app may read, delete and empty, and not write, whatever
// it has prepared; below it may again, by itself.
func TestSize(t *testing.T) {
	t.Parallel()
	f := start(t, "max_db_size_mb: 20")
	one, other := f.Provision(), f.Provision()
	c := f.Bind(one)
	app := as(t, c)
	fill := "INSERT INTO big SELECT repeat(md5(random()::text), 8000) FROM generate_series(1, 20)"
	do(t, app, "CREATE TABLE big (v text)", "ALTER TABLE big ALTER v SET STORAGE EXTERNAL", "CREATE TABLE small (id serial, n int DEFAULT 0)", "INSERT INTO small (n) VALUES (1), (2)",
		"CREATE VIEW seen AS SELECT * FROM small", "CREATE TABLE parts (n int) PARTITION BY LIST (n)", "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)",
		"CREATE SCHEMA s", "CREATE TABLE s.t (n int)", "GRANT ALL ON small, s.t TO PUBLIC", "GRANT ALL ON SCHEMA s TO PUBLIC",
		"CREATE FUNCTION sneak() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'INSERT INTO small (n) VALUES (9)'",
		"CREATE TABLE ruled (n int)", "INSERT INTO ruled VALUES (1)", "CREATE RULE r AS ON DELETE TO ruled DO ALSO INSERT INTO small (n) VALUES (8)",
		"CREATE MATERIALIZED VIEW m AS SELECT * FROM small")
	var failed error
	for n := 0; n < 100_000 && failed == nil; n++ {
		_, failed = app.Exec(t.Context(), fill)
	}
	if failed == nil {
		t.Fatal("writes are not limited")
	}
	late := f.Bind(one) // meanwhile
	componenttest.Eventually(t, "writes refused", func() bool {
		conn, err := connect(t, c)
		if err != nil {
			return false
		}
		defer conn.Close(t.Context())
		_, err = conn.Exec(t.Context(), "INSERT INTO small (n) VALUES (3)")
		var e *pgconn.PgError
		return errors.As(err, &e) && e.Code == denied
	})
	for _, c := range []wire.Credentials{c, late, one} {
		app := as(t, c)
		for _, role := range []string{"RESET ROLE", "SET ROLE NONE"} {
			do(t, app, role)
			if n := number(t, app, "SELECT count(*) FROM seen"); n != 2 {
				t.Errorf("%d rows", n)
			}
			do(t, app, "GRANT ALL ON small TO "+name(c.User())) // grants nothing, and says so
			for _, statement := range []string{
				fill, "UPDATE small SET n = 4", "INSERT INTO seen (n) VALUES (5)", "INSERT INTO s.t VALUES (1)", "INSERT INTO parts VALUES (1)", "INSERT INTO parts_1 VALUES (1)",
				"CREATE TABLE more (n int)", "CREATE TABLE s.more (n int)", "CREATE TEMP TABLE more (n int)", "CREATE SCHEMA more",
				"ALTER TABLE small OWNER TO " + name(c.User()), "SELECT sneak()", "DELETE FROM ruled", "REFRESH MATERIALIZED VIEW m", "CREATE INDEX ON big (md5(v))",
				"SELECT lo_from_bytea(0, 'x')", "COPY small FROM STDIN", "ALTER DATABASE " + name(one.Name()) + " OWNER TO " + name(one.User()),
			} {
				refused(t, app, statement, denied)
			}
		}
		app.Close(t.Context())
	}
	must(t, as(t, f.Bind(other)).Ping(t.Context()))
	// Deleted is enough: the node gives the room back.
	app = as(t, c)
	do(t, app, "DELETE FROM big")
	app.Close(t.Context())
	componenttest.Eventually(t, "writes again", func() bool {
		conn, err := connect(t, c)
		if err != nil {
			return false
		}
		defer conn.Close(t.Context())
		_, err = conn.Exec(t.Context(), "INSERT INTO small (n) VALUES (3)")
		return err == nil
	})
	app = as(t, late)
	do(t, app, "CREATE TABLE more (n int)", "CREATE TABLE s.more (n int)", "INSERT INTO parts VALUES (1)", "REFRESH MATERIALIZED VIEW m", "SELECT lo_from_bytea(0, 'x')", "DROP TABLE big", "DROP SCHEMA s CASCADE")
}

// TestTooLong: a query and a transaction that last too long are ended and their app is
// told, also when it has switched the server's own limits off and catches the error.
func TestTooLong(t *testing.T) {
	t.Parallel()
	f := start(t, "max_long_query: 0.5, max_long_tx: 2")
	c := f.Bind(f.Provision())
	refused(t, as(t, c), "SELECT pg_sleep(600)", "57014")
	stubborn := as(t, c)
	do(t, stubborn, "SET statement_timeout = 0")
	refused(t, stubborn, "SELECT pg_sleep(600)", "57014", "57P01")
	stubborn = as(t, c)
	do(t, stubborn, "SET statement_timeout = 0", "SET idle_in_transaction_session_timeout = 0")
	refused(t, stubborn, "DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$", "57P01")
	idle := as(t, c)
	do(t, idle, "SET idle_in_transaction_session_timeout = 0", "BEGIN")
	componenttest.Eventually(t, "an idle transaction ended", func() bool { _, err := idle.Exec(t.Context(), "SELECT 1"); return err != nil })
	must(t, as(t, c).Ping(t.Context()))
}

// TestConnections: 1,000 connections of one app, and as many that say nothing, take
// neither the node nor another app down.
func TestConnections(t *testing.T) {
	t.Parallel()
	f := start(t, "max_db_conns: 5")
	one, other := f.Provision(), f.Provision()
	c, theirs := f.Bind(one), f.Bind(other)
	var group sync.WaitGroup
	var mu sync.Mutex
	in, told := 0, 0
	for range 20 {
		group.Go(func() {
			for range 50 {
				conn, err := connect(t, c)
				mu.Lock()
				var e *pgconn.PgError
				switch {
				case err == nil:
					in++
					_ = conn
				case errors.As(err, &e) && e.Code == "53300":
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
	must(t, as(t, theirs).Ping(t.Context()))
	must(t, as(t, f.Bind(f.Provision())).Ping(t.Context()))
	for range 1000 {
		conn, err := net.Dial("tcp", net.JoinHostPort(c.Text("host"), strconv.Itoa(c.Number("port"))))
		if err != nil {
			break
		}
		t.Cleanup(func() { conn.Close() })
	}
	fresh := f.Bind(other)
	componenttest.Eventually(t, "another app gets in", func() bool { _, err := connect(t, fresh); return err == nil })
}

// serverPID is the process of the server.
func serverPID(t *testing.T, f *nodetest.Fixture) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(f.Base, "postgresql", "main", "postmaster.pid"))
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(string(data), "\n", 2)[0]))
	must(t, err)
	return pid
}

// TestKillDuringWrites: whatever is killed with -9 while an app writes, what was
// acknowledged is there, with the same credentials.
func TestKillDuringWrites(t *testing.T) {
	t.Parallel()
	f := start(t, "")
	c := f.Bind(f.Provision())
	do(t, as(t, c), "CREATE TABLE n (n int)", "INSERT INTO n VALUES (0)")
	acknowledged := 0
	write := func(ctx context.Context) {
		for ctx.Err() == nil {
			conn, err := connect(t, c)
			for err == nil && ctx.Err() == nil {
				if _, err = conn.Exec(t.Context(), "UPDATE n SET n = $1", acknowledged+1); err == nil {
					acknowledged++
				}
			}
		}
	}
	kept := func() (n int, err error) {
		conn, err := connect(t, c)
		if err != nil {
			return 0, err
		}
		defer conn.Close(t.Context())
		return n, conn.QueryRow(t.Context(), "SELECT n FROM n").Scan(&n)
	}
	for round := range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		before := acknowledged
		go func() { write(ctx); close(done) }()
		componenttest.Eventually(t, "writes", func() bool { n, _ := kept(); return n > before+20 })
		must(t, syscall.Kill(serverPID(t, f), syscall.SIGKILL))
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

// TestMissingData: a node whose records are there and whose data is not, or is none,
// does not start and makes none.
func TestMissingData(t *testing.T) {
	t.Parallel()
	f := start(t, "")
	f.Provision()
	f.Stop()
	main := filepath.Join(f.Base, "postgresql", "main")
	must(t, os.Rename(main, main+".away"))
	for _, what := range []string{"there are records of 1 instances, but no data", "no PG_VERSION"} {
		if err := f.Run(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want %q", err, what)
		}
		if entries, _ := os.ReadDir(main); len(entries) != 0 {
			t.Errorf("data was made: %v", entries)
		}
		must(t, os.MkdirAll(main, 0o700))
	}
}

// TestMove: an instance moves with all that is in it, its users and their passwords;
// while it is on its way nobody gets in, and where it was is what was.
func TestMove(t *testing.T) {
	t.Parallel()
	shared := t.TempDir()
	node := func() *nodetest.Fixture {
		return nodetest.New(t, Definition, fmt.Sprintf("capacity: 5\nmigration_nfs: %s\npostgresql: {port: %d, shared_buffers_mb: 16}\n", shared, componenttest.FreePort(t)))
	}
	from, to := node(), node()
	to.Provision() // somebody else's
	one := from.Provision()
	a, b := from.Bind(one), from.Bind(one)
	do(t, as(t, a), "CREATE EXTENSION pgcrypto", "CREATE TABLE t (id serial PRIMARY KEY, v bytea, at timestamptz DEFAULT now())", "INSERT INTO t (v) SELECT gen_random_bytes(100) FROM generate_series(1, 500)",
		"CREATE SCHEMA s", "CREATE VIEW s.v AS SELECT * FROM t", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "SELECT lo_from_bytea(0, 'large')", "COMMENT ON TABLE t IS 'commented'",
		"CREATE TABLE parent (id int PRIMARY KEY)", "CREATE TABLE child (p int REFERENCES parent)", "SET ROLE NONE", "CREATE TABLE own (n int)")
	sum := "SELECT md5(string_agg(id || encode(v, 'hex') || at, ',' ORDER BY id)) FROM s.v"
	read := func(c wire.Credentials) (text string) {
		if err := as(t, c).QueryRow(t.Context(), sum).Scan(&text); err != nil {
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
	do(t, as(t, moved[1]), "INSERT INTO t (v) VALUES ('x')", "INSERT INTO own VALUES (1)", "SELECT lo_get(oid) FROM pg_largeobject_metadata", "DROP TABLE child, parent", "SELECT f()", "CREATE TABLE s.more (n int)")
	do(t, as(t, moved[2]), "INSERT INTO own VALUES (2)", "DROP SCHEMA s CASCADE")
	if entries, err := os.ReadDir(filepath.Join(shared, "migration", "AuaaS")); err != nil || len(entries) != 0 {
		t.Errorf("the export is left: %v, %v", entries, err)
	}
	from.Unprovision(one)
	do(t, as(t, moved[1]), "SELECT 1")
}
