package postgresqlnode

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/clusterworks/deploy/jobs/component/node"
)

// dumpFile is the name of the one file of an export.
const dumpFile = "database.dump"

// Disable keeps an instance's users out.
func (s *service) Disable(ctx context.Context, i node.Instance) error {
	if err := s.administer(ctx, "REVOKE CONNECT ON DATABASE "+name(i.Name)+" FROM "+name(i.User)); err != nil {
		return err
	}
	return s.endSessions(ctx, "datname = $1", i.Name)
}

// Enable lets them in again.
func (s *service) Enable(ctx context.Context, i node.Instance) error {
	return s.administer(ctx, "GRANT CONNECT ON DATABASE "+name(i.Name)+" TO "+name(i.User))
}

// Export writes the database, as the administrator sees it.
func (s *service) Export(ctx context.Context, i node.Instance, folder string) error {
	path := filepath.Join(folder, dumpFile)
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cannot make the export: %w", err)
	}
	defer out.Close()
	if err := s.Dump(ctx, i, out); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return fmt.Errorf("cannot keep the export: %w", err)
	}
	return out.Close()
}

// Import reads what Export wrote.
func (s *service) Import(ctx context.Context, i node.Instance, folder string) error {
	in, err := os.Open(filepath.Join(folder, dumpFile))
	if err != nil {
		return fmt.Errorf("cannot read the export: %w", err)
	}
	defer in.Close()
	if err := s.Enable(ctx, i); err != nil {
		return err
	}
	return s.read(ctx, i, i.Name, in)
}

// client runs one of PostgreSQL's own clients on the server's socket.
func (s *service) client(ctx context.Context, role, password string, change func(*exec.Cmd), program string, args ...string) error {
	socket, err := os.Open(s.cluster.data())
	if err != nil {
		return fmt.Errorf("cannot open the server's folder: %w", err)
	}
	defer socket.Close()
	// Its path may be too long for one of a socket.
	args = append([]string{"--host=/proc/self/fd/3", "--port=" + strconv.Itoa(s.settings.PostgreSQL.Port), "--username=" + role, "--no-password"}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(s.cluster.programs, program), args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LC_ALL=C", "PGPASSFILE=/dev/null", "PGPASSWORD=" + password}
	cmd.ExtraFiles = []*os.File{socket}
	problems := &lastBytes{}
	cmd.Stderr = problems
	change(cmd)
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s failed: %w: %s", program, err, problems.data)
	}
	return nil
}

// lastBytes keeps the end of what a program says.
type lastBytes struct{ data []byte }

func (l *lastBytes) Write(p []byte) (int, error) {
	l.data = append(l.data, p...)
	if over := len(l.data) - 4096; over > 0 {
		l.data = l.data[over:]
	}
	return len(p), nil
}
