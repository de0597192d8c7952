package postgresqlnode

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/node/nodetest"
	"github.com/clusterworks/deploy/jobs/wire"
)

// dump returns what a user of an instance sees of it, in SQL.
func dump(t *testing.T, c wire.Credentials) string {
	t.Helper()
	programs, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_dump")
	must(t, err)
	cmd := exec.Command(newest(programs), "--no-owner", "--no-privileges", "--host="+c.Text("host"), fmt.Sprint("--port=", c.Number("port")), "--username="+c.User(), c.Name())
	cmd.Env = append(os.Environ(), "PGPASSWORD="+c.Text("password"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("pg_dump: %v", err)
	}
	return regexp.MustCompile(`(?m)^.(un)?restrict .*$`).ReplaceAllString(string(out), "")
}

// TestRollback: what is in a snapshot replaces everything, byte for byte, under the
// users and passwords that were there, and a snapshot that was changed replaces nothing.
func TestRollback(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	f := nodetest.New(t, Definition, fmt.Sprintf("capacity: 5\nsnapshots: {folder: %s}\npostgresql: {port: %d, shared_buffers_mb: 16, max_db_conns: 5}\n", folder, componenttest.FreePort(t)))
	one, other := f.Provision(), f.Provision()
	a, b := f.Bind(one), f.Bind(one)
	do(t, as(t, a), "CREATE EXTENSION pgcrypto", "CREATE TABLE t (id serial PRIMARY KEY, v bytea, at timestamptz DEFAULT now())", "INSERT INTO t (v) SELECT gen_random_bytes(100) FROM generate_series(1, 500)",
		"CREATE SCHEMA s", "CREATE VIEW s.v AS SELECT * FROM t", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "SELECT lo_from_bytea(0, 'large')",
		"SET ROLE NONE", "CREATE TABLE own (n int)", "INSERT INTO own VALUES (7)")
	do(t, as(t, other), "CREATE TABLE theirs (n int)")
	want := dump(t, a)
	id := f.Snapshot(one)
	stays := as(t, b)
	do(t, stays, "DROP SCHEMA s CASCADE", "DROP TABLE t, own", "DROP FUNCTION f()", "DROP EXTENSION pgcrypto", "SELECT lo_unlink(oid) FROM pg_largeobject_metadata", "CREATE TABLE later (n int)")
	if dump(t, a) == want {
		t.Fatal("nothing was dropped")
	}
	f.Rollback(one, id)
	if _, err := stays.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("a session has lived through a rollback")
	}
	if got := dump(t, a); got != want {
		t.Error("after the rollback:\n" + cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")))
	}
	// Limits, and what one binding may do with what another made, are as before.
	do(t, as(t, a), "CREATE TABLE c (n int)")
	do(t, as(t, b), "DROP TABLE c", "INSERT INTO own VALUES (8)", "DROP SCHEMA s CASCADE")
	if n := number(t, as(t, a), "SELECT datconnlimit FROM pg_database WHERE datname = current_database()"); n != 5 {
		t.Errorf("%d connections may come in", n)
	}
	if n := number(t, as(t, other), "SELECT count(*) FROM pg_database WHERE datname LIKE '%loading' OR datname LIKE '%former'"); n != 0 {
		t.Errorf("%d databases are left", n)
	}
	do(t, as(t, other), "SELECT * FROM theirs")

	do(t, as(t, a), "DROP SCHEMA public CASCADE", "CREATE SCHEMA alone", "CREATE TABLE alone.t (n int)")
	bare := dump(t, a)
	second := f.Snapshot(one)
	do(t, as(t, a), "DROP SCHEMA alone CASCADE", "CREATE SCHEMA public")
	f.Rollback(one, second)
	if got := dump(t, a); got != bare {
		t.Error("after a rollback without public:\n" + cmp.Diff(strings.Split(bare, "\n"), strings.Split(got, "\n")))
	}

	before := dump(t, a)
	f.Tamper(folder, one, id)
	j := f.Job(wire.ServiceRollbackSnapshot, wire.SnapshotRequest{InstanceID: one.Name(), SnapshotID: id})
	if j.Status != wire.JobFailed || j.Error == nil || dump(t, b) != before {
		t.Errorf("a snapshot that was changed: %+v", j)
	}
	f.Unbind(b)
	f.Unprovision(one)
	if entries, err := os.ReadDir(filepath.Join(folder, f.ID, one.Name())); err == nil {
		t.Errorf("the snapshots of a service that was deleted are left: %v", entries)
	}
}
