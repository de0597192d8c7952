package postgresqlnode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/hashicorp/go-version"
	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/component/node/servers"
)

// cluster is a PostgreSQL server's data, with the programs of its version.
type cluster struct {
	folder   string // has main, where the data is
	programs string
	version  string // "15"
	account  *servers.Account
	settings Settings
	address  string
	capacity int
	log      func(msg string, args ...any)
}

func (c *cluster) data() string { return filepath.Join(c.folder, "main") }

func (c *cluster) socket() string {
	return filepath.Join(c.data(), ".s.PGSQL."+strconv.Itoa(c.settings.PostgreSQL.Port))
}

// findCluster looks at what is there and changes nothing. Data of instances that is
// missing is never made anew.
func findCluster(folder string, settings Settings, h node.Host) (*cluster, error) {
	account, err := servers.LookUp(settings.PostgreSQL.RunAs)
	if err != nil {
		return nil, err
	}
	c := &cluster{
		folder: folder, programs: settings.PostgreSQL.Programs, account: account, settings: settings, address: h.Address, capacity: h.Config.Capacity, log: h.Log.Info,
	}
	data, err := os.ReadFile(filepath.Join(c.data(), "PG_VERSION"))
	switch {
	case err == nil:
		c.version = strings.TrimSpace(string(data))
		if !majorVersion.MatchString(c.version) {
			return nil, fmt.Errorf("%s is there, but is no data of PostgreSQL: its PG_VERSION is %.20q", c.data(), c.version)
		}
		if c.programs == "" {
			c.programs = filepath.Join(debianPrograms, c.version, "bin")
		}
		if _, err := os.Stat(filepath.Join(c.programs, "postgres")); err != nil {
			return nil, fmt.Errorf("the data in %s is from PostgreSQL %s, which this VM does not have: %w; install postgresql-%s", c.data(), c.version, err, c.version)
		}
		return c, nil
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("cannot look at the server's data: %w", err)
	}
	if _, err := os.Lstat(c.data()); !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s is there, but has no PG_VERSION: it is no data of PostgreSQL, or damaged; restore it", c.data())
	}
	if n := len(h.Instances()); n > 0 {
		return nil, fmt.Errorf("there are records of %d instances, but no data in %s: is it the right disk?", n, c.data())
	}
	if c.programs == "" {
		found, err := filepath.Glob(filepath.Join(debianPrograms, "*", "bin", "postgres"))
		if err != nil || len(found) == 0 {
			return nil, fmt.Errorf("there is no server in %s/*/bin: install postgresql", debianPrograms)
		}
		c.programs = filepath.Dir(newest(found))
	}
	c.version, err = c.serverVersion()
	return c, err
}

const debianPrograms = "/usr/lib/postgresql"

var majorVersion = regexp.MustCompile(`^[0-9]{1,2}(\.[0-9]{1,2})?$`)

// newest returns the path whose version, the third last element, is the highest.
func newest(paths []string) string {
	of := func(path string) *version.Version {
		v, err := version.NewVersion(filepath.Base(filepath.Dir(filepath.Dir(path))))
		if err != nil {
			return version.Must(version.NewVersion("0"))
		}
		return v
	}
	return slices.MaxFunc(paths, func(a, b string) int { return of(a).Compare(of(b)) })
}

var versionText = regexp.MustCompile(`\(PostgreSQL\) ([0-9]+)`)

func (c *cluster) serverVersion() (string, error) {
	program := filepath.Join(c.programs, "postgres")
	out, err := exec.Command(program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("cannot run the PostgreSQL server: %w; install postgresql", err)
	}
	found := versionText.FindSubmatch(out)
	if found == nil {
		return "", fmt.Errorf("%s does not say that it is a PostgreSQL server: %.100q", program, out)
	}
	return string(found[1]), nil
}

// inFolder is a shell's command that runs a program with the folder of the data as
// /proc/self/fd/9: the folders on the way to it may be closed to the server's user.
const inFolder = `exec 9<"$1" && shift && exec "$@"`

const throughDescriptor = "/proc/self/fd/9"

func (c *cluster) command() servers.Command {
	return servers.Command{
		Program: "/bin/sh", Args: []string{"-c", inFolder, "sh", "main", filepath.Join(c.programs, "postgres"), "-D", throughDescriptor},
		Stop: syscall.SIGINT, // open transactions are rolled back
	}
}

// prepare makes the data if there is none, and writes the server's configuration.
func (c *cluster) prepare(ctx context.Context) error {
	if err := c.account.Folder(c.folder); err != nil {
		return err
	}
	if _, err := os.Lstat(c.data()); errors.Is(err, os.ErrNotExist) {
		if err := c.make(ctx); err != nil {
			return err
		}
	}
	self, err := user.Current()
	if err != nil {
		return fmt.Errorf("cannot find out who runs the node: %w", err)
	}
	for file, text := range map[string]string{
		"postgresql.conf": c.configuration(),
		"pg_hba.conf":     hba,
		"pg_ident.conf":   fmt.Sprintf("node %q %s\n", self.Username, administrator),
	} {
		if err := c.account.Write(filepath.Join(c.data(), file), text); err != nil {
			return err
		}
	}
	return nil
}

// make makes the data beside its place and moves it there when it is whole and on the
// disk: what a crash leaves half-made is not taken for data.
func (c *cluster) make(ctx context.Context) error {
	making := filepath.Join(c.folder, "making")
	if err := os.RemoveAll(making); err != nil {
		return fmt.Errorf("cannot remove what is left of making the data: %w", err)
	}
	if err := c.account.Folder(making); err != nil {
		return err
	}
	cmd := c.account.Command(ctx, c.folder, "/bin/sh", "-c", inFolder, "sh", "making", filepath.Join(c.programs, "initdb"), "-D", throughDescriptor,
		"--username="+administrator, "--auth=reject", "--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums", "--no-instructions", "--no-sync")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot make the server's data: %w: %s", err, out)
	}
	folder, err := os.Open(making)
	if err != nil {
		return fmt.Errorf("cannot sync the server's data: %w", err)
	}
	defer folder.Close()
	if err := unix.Syncfs(int(folder.Fd())); err != nil {
		return fmt.Errorf("cannot sync the server's data: %w", err)
	}
	if err := os.Rename(making, c.data()); err != nil {
		return fmt.Errorf("cannot put the server's data into its place: %w", err)
	}
	if err := unix.Syncfs(int(folder.Fd())); err != nil {
		return fmt.Errorf("cannot sync the server's data: %w", err)
	}
	c.log("made the server's data", "version", c.version)
	return nil
}

// hba says who may come in: the node through the socket; users of instances by their
// passwords, to the databases that admit them.
const hba = `local all postgres peer map=node
local all all scram-sha-256
host all postgres all reject
host replication all all reject
host all all all scram-sha-256
`

// configuration is the server's file. Each instance has room for its connections, so
// that no user can take those of another.
func (c *cluster) configuration() string {
	p := c.settings.PostgreSQL
	return strings.Join([]string{
		"listen_addresses = '" + c.address + "'",
		"port = " + strconv.Itoa(p.Port),
		"unix_socket_directories = '.'",
		"max_connections = " + strconv.Itoa(maxConnections(c.capacity, p.MaxConnections)),
		"superuser_reserved_connections = " + strconv.Itoa(reserved),
		"authentication_timeout = 10s",
		"shared_buffers = " + megabytes(p.SharedBuffersMB),
		"temp_file_limit = " + megabytes(p.TemporaryFileLimit),
		"password_encryption = 'scram-sha-256'",
		"max_wal_size = 256MB",
		"wal_level = minimal", // nobody replicates
		"max_wal_senders = 0",
		"max_prepared_transactions = 0",
		"jit = off",
		"fsync = on",
		"synchronous_commit = on",
		"full_page_writes = on",
		// Users' statements may have passwords in them.
		"log_statement = 'none'",
		"log_min_error_statement = 'panic'",
		"log_line_prefix = '%m [%p] %q%u@%d '",
		"log_timezone = 'UTC'",
		"lc_messages = 'C'",
		"",
	}, "\n")
}

// maxConnections returns the number of connections that the server admits.
func maxConnections(capacity, each int) int { return min(capacity*each, 100_000) + reserved + held }
