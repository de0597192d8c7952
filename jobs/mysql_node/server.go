package mysqlnode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/component/node/servers"
)

// server is a MariaDB server with its data.
type server struct {
	folder        string // has main, where the data is
	version       string // "10.11"
	administrator string // who runs the node: the server knows it by its user id
	account       *servers.Account
	settings      Settings
	address       string
	capacity      int
	log           func(msg string, args ...any)
}

func (s *server) data() string   { return filepath.Join(s.folder, "main") }
func (s *server) socket() string { return filepath.Join(s.data(), "mysql.sock") }

// versionFile says which version the data is from.
const versionFile = "node_version"

// findServer looks at what is there and changes nothing. Data of instances that is
// missing is never made anew.
func findServer(folder string, settings Settings, h node.Host) (*server, error) {
	account, err := servers.LookUp(settings.MySQL.RunAs)
	if err != nil {
		return nil, err
	}
	self, err := user.Current()
	if err != nil {
		return nil, fmt.Errorf("cannot find out who runs the node: %w", err)
	}
	s := &server{folder: folder, administrator: self.Username, account: account, settings: settings, address: h.Address, capacity: h.Config.Capacity, log: h.Log.Info}
	if s.version, err = findVersion(settings.MySQL.Program); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(s.data(), versionFile))
	switch {
	case err == nil:
		if from := strings.TrimSpace(string(data)); from != s.version {
			return nil, fmt.Errorf("the data in %s is from MariaDB %q, and this VM has %s: install that version, or upgrade the data with mariadb-upgrade and write the new version into %s", s.data(), from, s.version, versionFile)
		}
		if _, err := os.Stat(filepath.Join(s.data(), "ibdata1")); err != nil {
			return nil, fmt.Errorf("%s is damaged: %w; restore it", s.data(), err)
		}
		return s, nil
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("cannot look at the server's data: %w", err)
	}
	if _, err := os.Lstat(s.data()); !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s is there, but has no %s: it is no data of this node, or damaged; restore it", s.data(), versionFile)
	}
	if n := len(h.Instances()); n > 0 {
		return nil, fmt.Errorf("there are records of %d instances, but no data in %s: is it the right disk?", n, s.data())
	}
	return s, nil
}

var versionText = regexp.MustCompile(`Ver ([0-9]+\.[0-9]+)\.[0-9]+-MariaDB`)

func findVersion(program string) (string, error) {
	out, err := exec.Command(program, "--no-defaults", "--version").Output()
	if err != nil {
		return "", fmt.Errorf("cannot run the MariaDB server: %w; install mariadb-server", err)
	}
	found := versionText.FindSubmatch(out)
	if found == nil {
		return "", fmt.Errorf("%s does not say that it is a MariaDB server: %.100q", program, out)
	}
	return string(found[1]), nil
}

// seen is the folder as the server sees it. It looks up its files by absolute paths, and
// the folders on the way to them may be closed to its user.
func (s *server) seen() string {
	if s.account == nil {
		return s.folder
	}
	return servers.MountPoint
}

// common are the arguments of a server on this data.
func (s *server) common(data string) []string {
	return []string{
		"--no-defaults", "--datadir=" + filepath.Join(s.seen(), data), "--innodb-buffer-pool-size=" + strconv.Itoa(s.settings.MySQL.BufferPoolMB) + "M",
		"--innodb-buffer-pool-dump-at-shutdown=OFF", "--innodb-buffer-pool-load-at-startup=OFF", "--innodb-log-file-size=48M", "--log-warnings=1",
		// A server that starts removes temporary tables that it finds, of others too.
		"--tmpdir=" + filepath.Join(s.seen(), data),
		"--performance-schema=OFF", "--skip-log-bin", "--local-infile=OFF", "--symbolic-links=OFF",
	}
}

func (s *server) command() servers.Command {
	m := s.settings.MySQL
	return servers.Command{
		Program: m.Program, Mounted: true,
		Args: append(s.common("main"),
			"--bind-address="+s.address, "--port="+strconv.Itoa(m.Port), "--socket=mysql.sock", "--pid-file=mysql.pid",
			"--skip-name-resolve", "--max-connect-errors=4294967295", "--connect-timeout=5",
			"--max-connections="+strconv.Itoa(maxConnections(s.capacity, m.MaxConnections)),
			// What is acknowledged is on the disk, in tables that survive a crash.
			"--innodb-flush-log-at-trx-commit=1", "--innodb-doublewrite=ON", "--enforce-storage-engine=InnoDB", "--innodb-file-per-table=ON",
			"--sql-mode=STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_AUTO_CREATE_USER",
			"--innodb-temp-data-file-path=ibtmp1:12M:autoextend:max:512M",
			"--character-set-server=utf8mb4", "--event-scheduler=DISABLED", "--general-log=OFF", "--slow-query-log=OFF",
			"--max-statement-time="+strconv.FormatFloat(m.MaxQuery.Duration().Seconds(), 'f', -1, 64),
			"--idle-transaction-timeout="+strconv.Itoa(max(1, int(m.MaxTransaction.Duration().Seconds()))),
			"--secure-file-priv="+filepath.Join(s.seen(), "nowhere"),
		),
	}
}

// maxConnections returns the number of connections that the server admits. limits.go holds instances to
// theirs, so that no user can take those of another.
func maxConnections(capacity, each int) int { return min(capacity*each+2*each, 90_000) + 2*held }

// prepare makes the data if there is none.
func (s *server) prepare(ctx context.Context) error {
	if err := s.account.Folder(s.folder); err != nil {
		return err
	}
	if err := s.account.Folder(filepath.Join(s.folder, "nowhere")); err != nil {
		return err
	}
	if _, err := os.Lstat(s.data()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	making := filepath.Join(s.folder, "making")
	if err := os.RemoveAll(making); err != nil {
		return fmt.Errorf("cannot remove what is left of making the data: %w", err)
	}
	for _, folder := range []string{making, filepath.Join(making, "mysql")} {
		if err := s.account.Folder(folder); err != nil {
			return err
		}
	}
	script, err := systemTables(s.administrator)
	if err != nil {
		return err
	}
	cmd := s.account.MountedCommand(ctx, s.folder, s.settings.MySQL.Program, append(s.common("making"), "--bootstrap", "--innodb-flush-log-at-trx-commit=0")...)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot make the server's data: %w: %s", err, out[max(0, len(out)-2000):])
	}
	if err := s.account.Write(filepath.Join(making, versionFile), s.version+"\n"); err != nil {
		return err
	}
	folder, err := os.Open(making)
	if err != nil {
		return fmt.Errorf("cannot sync the server's data: %w", err)
	}
	defer folder.Close()
	err = unix.Syncfs(int(folder.Fd()))
	if err == nil {
		err = os.Rename(making, s.data())
	}
	if err == nil {
		err = unix.Syncfs(int(folder.Fd()))
	}
	if err != nil {
		return fmt.Errorf("cannot put the server's data into its place: %w", err)
	}
	s.log("made the server's data", "version", s.version)
	return nil
}

// systemTables is the script that makes a server's own tables, with this user of the
// machine as its only user.
func systemTables(administrator string) (string, error) {
	var script strings.Builder
	fmt.Fprintf(&script, "USE mysql;\nSET @auth_root_socket=%s;\n", text(administrator))
	for _, file := range []string{"mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql"} {
		data, err := os.ReadFile(filepath.Join("/usr/share/mysql", file))
		if err != nil {
			return "", fmt.Errorf("cannot read the script of the server's tables: %w; install mariadb-server", err)
		}
		script.Write(data)
		script.WriteByte('\n')
	}
	return script.String(), nil
}
