package postgresqlnode

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/node/nodetest"
	"github.com/clusterworks/deploy/jobs/wire"
)

// startPorter runs a node that keeps snapshots, with these settings of PostgreSQL.
func startPorter(t *testing.T, settings string) *nodetest.Fixture {
	return nodetest.New(t, Definition, fmt.Sprintf("capacity: 5\nsnapshots: {folder: %s}\npostgresql: {port: %d, shared_buffers_mb: 16%s}\n", t.TempDir(), componenttest.FreePort(t), settings))
}

// archive returns what pg_dump itself writes of an instance.
func archive(t *testing.T, c wire.Credentials) []byte {
	t.Helper()
	programs, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_dump")
	must(t, err)
	cmd := exec.Command(newest(programs), "--format=custom", "--compress=0", "--host="+c.Text("host"), fmt.Sprint("--port=", c.Number("port")), "--username="+c.User(), c.Name())
	cmd.Env = append(os.Environ(), "PGPASSWORD="+c.Text("password"))
	out, err := cmd.Output()
	must(t, err)
	return out
}

// TestImport: what was exported is, imported into another instance, the same as a client
// sees it, under that instance's own roles; so is what pg_dump itself wrote.
func TestImport(t *testing.T) {
	t.Parallel()
	f := startPorter(t, "")
	one, other := f.Provision(), f.Provision()
	a, b := f.Bind(one), f.Bind(other)
	do(t, as(t, a), "CREATE EXTENSION pgcrypto", "CREATE TABLE t (id serial PRIMARY KEY, v bytea, at timestamptz DEFAULT now())", "INSERT INTO t (v) SELECT gen_random_bytes(1000) FROM generate_series(1, 1500)",
		"CREATE SCHEMA s", "CREATE VIEW s.v AS SELECT * FROM t", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "SELECT lo_from_bytea(0, 'large')",
		"SET ROLE NONE", "CREATE TABLE own (n int)", "INSERT INTO own VALUES (7)")
	do(t, as(t, b), "CREATE TABLE former (n int)")
	want := dump(t, a)
	seen := func(c wire.Credentials) string { return dump(t, c) }
	file := f.Export(one)
	if len(file) <= wire.MaxSerializedPiece {
		t.Errorf("the file is one piece of %d bytes", len(file))
	}
	for what, file := range map[string][]byte{"an export": file, "pg_dump's own": archive(t, a)} {
		f.Imported(other, file)
		if got := seen(b); got != want {
			t.Error(what + ":\n" + cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")))
		}
		do(t, as(t, b), "INSERT INTO own VALUES (8)", "DROP SCHEMA s CASCADE", "CREATE TABLE more (n int)")
	}
	do(t, as(t, a), "DROP SCHEMA public CASCADE", "CREATE SCHEMA alone", "CREATE TABLE alone.t (n int)")
	f.Imported(other, f.Export(one))
	if want, got := dump(t, a), seen(b); got != want {
		t.Error("without public:\n" + cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")))
	}
}

// TestHostileImport: an archive in which somebody has changed the statements does what the
// instance's owner may do, and nothing else; one that is cut off, none at all, or holds
// more than the plan allows is refused with a reason. What was there stays.
func TestHostileImport(t *testing.T) {
	t.Parallel()
	f := startPorter(t, ", max_db_size_mb: 30")
	one, other := f.Provision(), f.Provision()
	c, theirs := f.Bind(one), f.Bind(other)
	do(t, as(t, theirs), "CREATE TABLE theirs (n int)", "INSERT INTO theirs VALUES (1)")
	marker := filepath.Join(t.TempDir(), "done")
	// In an archive without compression, a function's text has the room for other statements.
	const room = 300
	do(t, as(t, c), "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1 /*"+strings.Repeat("x", room)+"*/'")
	file := archive(t, c)
	at := bytes.Index(file, []byte("CREATE FUNCTION public.f()"))
	if at < 0 {
		t.Fatal("the archive has no text of the function")
	}
	end := at + bytes.Index(file[at:], []byte(";\n"))
	before := dump(t, c)
	for what, statement := range map[string]string{
		"a program":          "COPY (SELECT 1) TO PROGRAM 'touch " + marker + "'",
		"a program to read":  "CREATE TABLE public.p (x text); COPY public.p FROM PROGRAM 'touch " + marker + "'",
		"a file to write":    "COPY (SELECT 1) TO '" + marker + "'",
		"a file to read":     "CREATE TABLE public.p (x text); COPY public.p FROM '/etc/passwd'",
		"a shell of psql":    "\\! touch " + marker,
		"another's database": "ALTER DATABASE " + other.Name() + " CONNECTION LIMIT 0",
		"its own limits":     "ALTER DATABASE " + one.Name() + " CONNECTION LIMIT 1000",
		"another role":       "SET ROLE postgres",
		"another's role":     "SET SESSION AUTHORIZATION " + other.User(),
		"a superuser":        "ALTER ROLE " + one.User() + " SUPERUSER",
		"a new role":         "CREATE ROLE x LOGIN",
		"a language":         "CREATE FUNCTION public.g() RETURNS int LANGUAGE c AS '/lib/x86_64-linux-gnu/libc.so.6', 'system'",
		"a library":          "LOAD '/tmp/x.so'",
		"a setting":          "ALTER SYSTEM SET archive_command = 'touch " + marker + "'",
		"a file by function": "SELECT pg_read_file('/etc/passwd')",
		"large objects":      "SELECT lo_import('/etc/passwd')",
		"passwords":          "SELECT * FROM pg_authid",
		"other sessions":     "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
	} {
		hostile := bytes.Clone(file)
		copy(hostile[at:end], statement+strings.Repeat(" ", end-at-len(statement)))
		j := f.Import(one, hostile)
		if j.Status != wire.JobFailed || j.Error == nil || j.Error.Code != wire.ServiceMalformed || !strings.Contains(j.Error.Description, "pg_restore refuses the file") {
			t.Errorf("%s: %s, %+v", what, j.Status, j.Error)
		}
		if got := dump(t, c); got != before {
			t.Errorf("%s:\n%s", what, cmp.Diff(strings.Split(before, "\n"), strings.Split(got, "\n")))
		}
	}
	for what, hostile := range map[string][]byte{
		"nothing": {}, "cut off": file[:len(file)/2], "text": []byte("SELECT 1;\n"), "zeros": append([]byte(archiveMagic), make([]byte, 1<<16)...), "ones": append(bytes.Clone(file[:len(archiveMagic)+10]), bytes.Repeat([]byte{0xff}, 1<<16)...),
		"other first line": append([]byte("postgresql dump, and more!!!!\n"), file...),
	} {
		j := f.Import(one, hostile)
		if j.Status != wire.JobFailed || j.Error == nil || j.Error.Code != wire.ServiceMalformed || dump(t, c) != before {
			t.Errorf("%s: %s, %+v", what, j.Status, j.Error)
		}
	}
	bomb := bytes.Clone(file)
	statement := "CREATE TABLE public.p AS SELECT repeat(md5(n::text), 200) x, n FROM generate_series(1, 10000000) n"
	copy(bomb[at:end], statement+strings.Repeat(" ", end-at-len(statement)))
	if j := f.Import(one, bomb); j.Status != wire.JobFailed || j.Error == nil || !strings.Contains(j.Error.Description, "larger than the 30 MB that the plan allows") || dump(t, c) != before {
		t.Errorf("more than the plan allows: %s, %+v", j.Status, j.Error)
	}
	if _, err := os.Stat(marker); !os.IsNotExist(err) {
		t.Errorf("a command of a file was done: %v", err)
	}
	if n := number(t, as(t, theirs), "SELECT count(*) FROM theirs"); n != 1 {
		t.Errorf("another instance has %d rows", n)
	}
	// What a file may change of its own role, it changes for itself only.
	mild := bytes.Clone(file)
	statement = "ALTER ROLE " + one.User() + " PASSWORD 'another'"
	copy(mild[at:end], statement+strings.Repeat(" ", end-at-len(statement)))
	f.Imported(one, mild)
	do(t, as(t, one), "CREATE TABLE t (n int)")
	if n := number(t, as(t, theirs), "SELECT count(*) FROM pg_database WHERE datname LIKE '%loading' OR datname LIKE '%former'"); n != 0 {
		t.Errorf("%d databases are left", n)
	}
}
