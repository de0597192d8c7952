package mysqlnode

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/component/node/nodetest"
	"github.com/clusterworks/deploy/jobs/wire"
)

// startPorter runs a node that keeps snapshots, with these settings of MySQL.
func startPorter(t *testing.T, settings string) *nodetest.Fixture {
	return nodetest.New(t, Definition, fmt.Sprintf("capacity: 5\nsnapshots: {folder: %s}\nmysql: {port: %d, buffer_pool_mb: 16%s}\n", t.TempDir(), componenttest.FreePort(t), settings))
}

// TestImport: what was exported is, imported into another instance, the same as a client
// sees it, and acts in the name of that instance's owner.
func TestImport(t *testing.T) {
	t.Parallel()
	f := startPorter(t, "")
	one, other := f.Provision(), f.Provision()
	a, b := f.Bind(one), f.Bind(other)
	do(t, as(t, a), "CREATE TABLE t (id int AUTO_INCREMENT PRIMARY KEY, v longblob, s varchar(100), n int GENERATED ALWAYS AS (length(s)) STORED)", "INSERT INTO t (v, s) SELECT unhex(repeat(md5(seq), 100)), concat('\\'\\\\ \n ü ; ', seq) FROM seq_1_to_500",
		"CREATE VIEW seen AS SELECT * FROM t", "CREATE PROCEDURE p() BEGIN /* ; */ INSERT INTO t (s) VALUES ('p;\\''); END", "CREATE TABLE log (n int)", "CREATE TRIGGER r AFTER INSERT ON t FOR EACH ROW INSERT INTO log VALUES (NEW.id)",
		"SET sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES'", `CREATE FUNCTION back() RETURNS varchar(9) DETERMINISTIC RETURN 'a\'`, `CREATE PROCEDURE quoted() SELECT "s" FROM "t"`,
		"ALTER DATABASE CHARACTER SET latin1 COLLATE latin1_german1_ci")
	do(t, as(t, b), "CREATE TABLE former (n int)")
	names := regexp.MustCompile("`(u[0-9a-f]{24}|d[0-9a-f]{32})`|" + one.Name() + "|" + other.Name())
	seen := func(c wire.Credentials) []string {
		return strings.Split(names.ReplaceAllString(strings.Join(dump(t, c), "\n"), "NAME"), "\n")
	}
	want := seen(a)
	file := f.Export(one)
	if len(file) <= wire.MaxSerializedPiece {
		t.Errorf("the file is one piece of %d bytes", len(file))
	}
	f.Imported(other, file)
	if diff := cmp.Diff(want, seen(b)); diff != "" {
		t.Error("after the import:\n" + diff)
	}
	do(t, as(t, b), "CALL p()", "CALL quoted()", "CREATE TABLE more (n int)")
	var got string
	if err := as(t, b).QueryRowContext(t.Context(), "SELECT back()").Scan(&got); err != nil || got != `a\` {
		t.Errorf("a function: %q, %v", got, err)
	}
	if n := count(t, as(t, b), "SELECT count(*) FROM information_schema.views WHERE table_schema = database() AND definer = '"+other.User()+"@%'"); n != 1 {
		t.Errorf("%d views act in the owner's name", n)
	}
	refused(t, as(t, other), "CREATE DEFINER=root@localhost PROCEDURE q() SELECT 1", denied...)
}

// TestHostileImport: a file of SQL does what the instance's owner may do, and no command of
// a client is done; what it may not do is refused with a reason and its line, and what was
// there stays, as does what others have.
func TestHostileImport(t *testing.T) {
	t.Parallel()
	f := startPorter(t, ", max_db_size_mb: 20")
	one, other := f.Provision(), f.Provision()
	c, theirs := f.Bind(one), f.Bind(other)
	do(t, as(t, c), "CREATE TABLE mine (n int)", "INSERT INTO mine VALUES (1)")
	do(t, as(t, theirs), "CREATE TABLE theirs (n int)", "INSERT INTO theirs VALUES (1)")
	marker := filepath.Join(t.TempDir(), "done")
	before := dump(t, c)
	for what, statement := range map[string]string{
		"a shell":                 "\\! touch " + marker,
		"a shell by name":         "system touch " + marker,
		"a shell in a comment":    "/*!999999\\- */;\n\\! touch " + marker,
		"a file of the client":    "source " + marker,
		"a pager":                 "pager touch " + marker,
		"another's name":          "CREATE DEFINER=`root`@`localhost` SQL SECURITY DEFINER VIEW v AS SELECT 1 FROM mysql.user",
		"a name that is hidden":   "CREATE /* */ DEFINER=`root`@`localhost` PROCEDURE p() SELECT 1",
		"another's data":          "INSERT INTO " + other.Name() + ".theirs VALUES (2)",
		"another database":        "USE " + other.Name(),
		"the server's users":      "SELECT * FROM mysql.global_priv",
		"a user":                  "CREATE USER x IDENTIFIED BY 'x'",
		"a privilege":             "GRANT ALL ON *.* TO CURRENT_USER",
		"a setting":               "SET GLOBAL general_log_file = '" + marker + "'",
		"a file to write":         "SELECT 1 INTO OUTFILE '" + marker + "'",
		"a file to read":          "LOAD DATA INFILE '/etc/passwd' INTO TABLE t",
		"a file of the node":      "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE t",
		"a plugin":                "INSTALL SONAME 'ha_connect'",
		"an event":                "CREATE EVENT e ON SCHEDULE EVERY 1 SECOND DO SELECT 1",
		"its end":                 "SHUTDOWN",
		"another database's name": "CREATE DATABASE other",
		"an end without a quote":  "SELECT 'x",
		"no SQL":                  "PGDMP\x01\x0f\x04",
	} {
		file := "CREATE TABLE t (n text);\n" + statement + ";\n"
		j := f.Import(one, []byte(file))
		if j.Status != wire.JobFailed || j.Error == nil || j.Error.Code != wire.ServiceMalformed || !strings.Contains(j.Error.Description, "line ") {
			t.Errorf("%s: %s, %+v", what, j.Status, j.Error)
		}
		if diff := cmp.Diff(before, dump(t, c)); diff != "" {
			t.Errorf("%s:\n%s", what, diff)
		}
	}
	bomb := "CREATE TABLE t (v longblob);\nINSERT INTO t SELECT repeat('x', 1000000) FROM seq_1_to_2000;\n"
	if j := f.Import(one, []byte(bomb)); j.Status != wire.JobFailed || j.Error == nil || !strings.Contains(j.Error.Description, "larger than the 20 MB that the plan allows") || cmp.Diff(before, dump(t, c)) != "" {
		t.Errorf("more than the plan allows: %s, %+v", j.Status, j.Error)
	}
	if _, err := os.Stat(marker); !os.IsNotExist(err) {
		t.Errorf("a command of a file was done: %v", err)
	}
	if n := count(t, as(t, theirs), "SELECT count(*) FROM theirs"); n != 1 {
		t.Errorf("another instance has %d rows", n)
	}
	// What a file may change of its own user, it changes for itself only.
	f.Imported(one, []byte("SET PASSWORD = PASSWORD('another');\nCREATE TABLE t (n int);\n"))
	if n := count(t, as(t, one), "SELECT count(*) FROM information_schema.tables WHERE table_schema = database()"); n != 1 {
		t.Errorf("%d tables after an import", n)
	}
	if n := count(t, as(t, one), "SELECT count(*) FROM information_schema.schemata WHERE schema_name LIKE '%loading'"); n != 0 {
		t.Errorf("%d databases are left", n)
	}
}
