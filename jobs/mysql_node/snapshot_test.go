package mysqlnode

import (
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

// dump returns what a user of an instance sees of it, in SQL.
func dump(t *testing.T, c wire.Credentials) []string {
	t.Helper()
	cmd := exec.Command("mariadb-dump", "--no-defaults", "--protocol=tcp", "--host="+c.Text("host"), fmt.Sprint("--port=", c.Number("port")), "--user="+c.User(), "--skip-dump-date", "--hex-blob",
		"--single-transaction", "--skip-lock-tables", "--triggers", c.Name())
	cmd.Env = append(os.Environ(), "MYSQL_PWD="+c.Text("password"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("mariadb-dump: %v", err)
	}
	return strings.Split(string(out), "\n")
}

// TestRollback: what is in a snapshot replaces everything, byte for byte, under the
// users and passwords that were there, and a snapshot that was changed replaces nothing.
func TestRollback(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	f := nodetest.New(t, Definition, fmt.Sprintf("capacity: 5\nsnapshots: {folder: %s}\nmysql: {port: %d, buffer_pool_mb: 16}\n", folder, componenttest.FreePort(t)))
	one, other := f.Provision(), f.Provision()
	a, b := f.Bind(one), f.Bind(one)
	do(t, as(t, a), "CREATE TABLE t (id int AUTO_INCREMENT PRIMARY KEY, v blob, s varchar(100), n int GENERATED ALWAYS AS (length(s)) STORED)", "INSERT INTO t (v, s) SELECT unhex(md5(seq)), concat('\\'\\\\ \n ü ', seq) FROM seq_1_to_500",
		"CREATE VIEW seen AS SELECT * FROM t", "CREATE PROCEDURE p() INSERT INTO t (s) VALUES ('p')", "CREATE TABLE log (n int)", "CREATE TRIGGER r AFTER INSERT ON t FOR EACH ROW INSERT INTO log VALUES (NEW.id)",
		"ALTER DATABASE CHARACTER SET latin1 COLLATE latin1_german1_ci")
	do(t, as(t, other), "CREATE TABLE theirs (n int)")
	want := dump(t, a)
	id := f.Snapshot(one)
	stays := as(t, b)
	do(t, stays, "DROP VIEW seen", "DROP PROCEDURE p", "DROP TABLE t, log", "CREATE TABLE later (n int)", "ALTER DATABASE CHARACTER SET utf8mb4")
	f.Rollback(one, id)
	if _, err := stays.ExecContext(t.Context(), "SELECT 1"); err == nil {
		t.Error("a session has lived through a rollback")
	}
	if diff := cmp.Diff(want, dump(t, b)); diff != "" {
		t.Error("after the rollback:\n" + diff)
	}
	if n := count(t, as(t, a), "SELECT count(*) FROM information_schema.schemata WHERE schema_name = database() AND default_collation_name = 'latin1_german1_ci'"); n != 1 {
		t.Error("the database has another collation")
	}
	do(t, as(t, b), "CALL p()", "CREATE TABLE more (n int)", "DROP TABLE more")
	do(t, as(t, other), "SELECT * FROM theirs")
	if n := count(t, as(t, one), "SELECT count(*) FROM information_schema.schemata WHERE schema_name LIKE '%loading'"); n != 0 {
		t.Errorf("%d databases are left", n)
	}
	refused(t, as(t, one), "CREATE DEFINER=root@localhost PROCEDURE q() SELECT 1", denied...)

	before := dump(t, a)
	f.Tamper(folder, one, id)
	j := f.Job(wire.ServiceRollbackSnapshot, wire.SnapshotRequest{InstanceID: one.Name(), SnapshotID: id})
	if j.Status != wire.JobFailed || j.Error == nil || cmp.Diff(before, dump(t, b)) != "" {
		t.Errorf("a snapshot that was changed: %+v", j)
	}
	f.Unbind(b)
	f.Unprovision(one)
	if entries, err := os.ReadDir(filepath.Join(folder, f.ID, one.Name())); err == nil {
		t.Errorf("the snapshots of a service that was deleted are left: %v", entries)
	}
}
