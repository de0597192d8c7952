package postgresqlnode

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/component/node/servers"
	"github.com/clusterworks/deploy/jobs/wire"
)

const (
	// archiveMagic is the beginning of every archive of pg_dump.
	archiveMagic = "PGDMP"
	// readerMemory bounds the program that reads somebody's archive, in bytes.
	readerMemory = 2 << 30
	measureEvery = 200 * time.Millisecond
)

// Serialize writes a dump as it is: pg_dump's archive after a line.
func (s *service) Serialize(_ context.Context, _ node.Instance, from io.Reader, to io.Writer) error {
	if _, err := io.Copy(to, from); err != nil {
		return fmt.Errorf("cannot copy a dump: %w", err)
	}
	return nil
}

// Deserialize lets pg_restore, which runs no commands but those of SQL, read an archive as
// nobody on this machine, and do what is in it as the instance's owner on the server: that
// is no superuser, so there are no programs and no files for COPY. It goes where Load goes:
// into a database beside the instance's.
func (s *service) Deserialize(ctx context.Context, i node.Instance, from io.ReadSeeker) error {
	return s.replace(ctx, i, from, func(ctx context.Context, i node.Instance, database string, from io.Reader) error {
		return importer{s, i, database}.read(ctx, from)
	})
}

// importer puts an archive that anybody may have written into a database of an instance,
// which is empty.
type importer struct {
	*service
	i        node.Instance
	database string
}

func (s importer) read(ctx context.Context, from io.Reader) (err error) {
	i := s.i
	buffered := bufio.NewReader(from)
	begin, _ := buffered.Peek(len(archiveMagic)) // fewer at the end of the file
	if string(begin) != archiveMagic {           // as pg_dump itself writes it
		if err := readBeginning(ctx, s.service, s.database, buffered); err != nil {
			if errors.Is(err, errNoDump) {
				return errors.Join(wire.Failure(wire.ServiceMalformed, "it is no archive of pg_dump --format=custom"), err)
			}
			return err
		}
	}
	reader, err := servers.LookUp("nobody")
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	measured := make(chan struct{})
	go func() { defer close(measured); s.measure(ctx, stop) }()
	defer func() { stop(nil); <-measured }()
	// A file may have changed the owner's password.
	defer func() {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, s.role(after, i.User, ordinary+"LOGIN PASSWORD "+text(i.Password)))
	}()
	args := append([]string{
		"--as=" + strconv.Itoa(readerMemory), "--core=0", "--fsize=0", filepath.Join(s.cluster.programs, "pg_restore"),
		"--host=" + s.host.Address, "--port=" + strconv.Itoa(s.settings.PostgreSQL.Port), "--username=" + i.User, "--no-password",
	}, restoring(s.database)...)
	cmd := reader.Command(ctx, "/", "prlimit", args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LC_ALL=C", "PGPASSFILE=/dev/null", "PGPASSWORD=" + i.Password, "PGSSLMODE=disable", noTimeLimits}
	cmd.Stdin = buffered
	problems := &lastBytes{}
	cmd.Stderr = problems
	err = cmd.Run()
	var ended *exec.ExitError
	switch cause := context.Cause(ctx); {
	case err == nil:
		return nil
	case cause != nil:
		return errors.Join(cause, err) // the reason is told, not that the program was ended
	case errors.As(err, &ended):
		return errors.Join(wire.Failure(wire.ServiceMalformed, "pg_restore refuses the file: %.600s", problems.data), err)
	}
	return fmt.Errorf("cannot run pg_restore: %w", err)
}

// measure ends an import whose database becomes larger than the plan allows.
func (s importer) measure(ctx context.Context, stop context.CancelCauseFunc) {
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for {
		var bytes int64
		err := s.pool.QueryRow(ctx, "SELECT pg_database_size(oid) FROM pg_database WHERE datname = $1", s.database).Scan(&bytes)
		if err == nil && bytes > int64(s.settings.PostgreSQL.MaxDatabaseMB)<<20 {
			stop(wire.Failure(wire.ServiceUnavailable, "what is in the file is larger than the %d MB that the plan allows", s.settings.PostgreSQL.MaxDatabaseMB))
			return
		}
		if err != nil && !errors.Is(err, pgx.ErrNoRows) && ctx.Err() == nil {
			s.host.Log.Warn("cannot find out how large an import is; trying again", "database", s.database, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
