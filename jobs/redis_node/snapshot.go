package redisnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clusterworks/deploy/jobs/component/node"
)

const (
	dumpFile   = "dump.rdb"      // what the server writes when it is asked to
	logFolder  = "appendonlydir" // the server's own log of all writes
	loadFolder = "loading"       // a log in the making
	baseFile   = "appendonly.aof.1.base.rdb"

	checker    = "redis-check-rdb" // comes with the server
	startLimit = 5 * time.Minute   // of a server that has to read its data first
)

// NoSnapshots says why there are none, "" if there are.
func (s *service) NoSnapshots() string {
	if major, _, _ := strings.Cut(s.version, "."); len(major) == 1 && major < "7" {
		return "snapshots need Redis 7, and this node has " + s.version
	}
	return ""
}

// Disable keeps an instance's users out: only the node's own user is left. (ACL LOAD would
// end the node's own connections as well.)
func (s *service) Disable(ctx context.Context, i node.Instance) error {
	closed := i
	closed.Disabled = true
	if err := s.write(i, "users.acl", aclFile(closed, nil)); err != nil {
		return err
	}
	commands := [][]any{setUser("default", []string{"reset"}), {"CLIENT", "KILL", "USER", "default"}, {"ACL", "DELUSER", i.User}}
	for _, b := range i.Bindings {
		commands = append(commands, []any{"ACL", "DELUSER", b.User})
	}
	for _, command := range commands {
		err := s.admin(i).Do(ctx, command...).Err()
		if err != nil && !strings.Contains(err.Error(), "No such") && !strings.Contains(err.Error(), "does not exist") {
			return fmt.Errorf("the server does not keep its users out: %w", err)
		}
	}
	return nil
}

// Enable lets them in again.
func (s *service) Enable(ctx context.Context, i node.Instance) error {
	i.Disabled = false
	if err := s.write(i, "users.acl", aclFile(i, i.Users())); err != nil {
		return err
	}
	for _, b := range append([]node.Binding{{User: i.User, Password: i.Password}}, i.Users()...) {
		for _, command := range admit(b) {
			if err := s.admin(i).Do(ctx, command...).Err(); err != nil {
				return fmt.Errorf("the server does not let its users in: %w", err)
			}
		}
	}
	return nil
}

// Size returns the memory that the data of an instance has.
func (s *service) Size(ctx context.Context, i node.Instance) (int64, error) {
	info, err := s.admin(i).InfoMap(ctx, "memory").Result()
	if err != nil {
		return 0, fmt.Errorf("the server does not answer: %w", err)
	}
	var size int64
	if _, err := fmt.Sscan(info["Memory"]["used_memory_dataset"], &size); err != nil {
		return 0, fmt.Errorf("the server does not say how large its data is: %w", err)
	}
	return size, nil
}

// Dump lets the server write all that it has at this moment, and copies the file.
func (s *service) Dump(ctx context.Context, i node.Instance, to io.Writer) error {
	path := filepath.Join(s.folder, i.Name, dumpFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove an earlier dump: %w", err)
	}
	defer os.Remove(path)
	admin := s.admin(i)
	if err := admin.Do(ctx, "BGSAVE", "SCHEDULE").Err(); err != nil && !strings.Contains(err.Error(), "in progress") {
		return fmt.Errorf("the server does not write a dump: %w", err)
	}
	for {
		info, err := admin.InfoMap(ctx, "persistence").Result()
		if err != nil {
			return fmt.Errorf("the server does not answer: %w", err)
		}
		p := info["Persistence"]
		_, there := os.Stat(path)
		switch {
		case p["rdb_bgsave_in_progress"] == "0" && p["aof_rewrite_in_progress"] == "0" && p["aof_rewrite_scheduled"] == "0" && p["rdb_last_bgsave_status"] != "ok":
			return errors.New("the server could not write a dump; its log says why")
		case p["rdb_bgsave_in_progress"] == "0" && there == nil:
			return copyFile(to, path)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func copyFile(to io.Writer, path string) error {
	in, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot read the dump: %w", err)
	}
	defer in.Close()
	if _, err := io.Copy(to, in); err != nil {
		return fmt.Errorf("cannot copy the dump: %w", err)
	}
	return nil
}

// Load makes a log of a dump and lets it take the place of the server's own, which is put
// back if the server does not start with it.
func (s *service) Load(ctx context.Context, i node.Instance, from io.ReadSeeker) error {
	folder := filepath.Join(s.folder, i.Name)
	if err := s.makeLog(filepath.Join(folder, loadFolder), from); err != nil {
		return err
	}
	defer os.RemoveAll(filepath.Join(folder, loadFolder))
	if out, err := s.account.Command(ctx, filepath.Join(folder, loadFolder), checker, baseFile).CombinedOutput(); err != nil {
		return fmt.Errorf("the dump is none that the server takes: %w: %.500s", err, out)
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	exchange := func() error {
		s.stop(i)
		err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(folder, loadFolder), unix.AT_FDCWD, filepath.Join(folder, logFolder), unix.RENAME_EXCHANGE)
		if err == nil {
			err = syncFolder(folder)
		}
		if err != nil {
			return fmt.Errorf("cannot change the server's log: %w", err)
		}
		return nil
	}
	closed := i
	closed.Disabled = true // until Enable
	err := exchange()
	if err == nil {
		if err = s.serve(ctx, closed, nil); err == nil {
			return nil
		}
		err = errors.Join(err, exchange())
	}
	after, stop := context.WithTimeout(context.WithoutCancel(ctx), startLimit)
	defer stop()
	return errors.Join(err, s.serve(after, closed, nil))
}

// makeLog makes a log that begins with a dump, and has nothing after it.
func (s *service) makeLog(folder string, from io.Reader) error {
	if err := os.RemoveAll(folder); err != nil { // of a node that died
		return fmt.Errorf("cannot remove what is left of a rollback: %w", err)
	}
	if err := s.account.Folder(folder); err != nil {
		return err
	}
	path := filepath.Join(folder, baseFile)
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cannot make the server's log: %w", err)
	}
	defer out.Close()
	if _, err := io.Copy(out, from); err != nil {
		return fmt.Errorf("cannot write the server's log: %w", err)
	}
	if err := errors.Join(out.Sync(), out.Close(), s.account.Own(path)); err != nil {
		return fmt.Errorf("cannot keep the server's log: %w", err)
	}
	return s.account.Write(filepath.Join(folder, "appendonly.aof.manifest"), "file "+baseFile+" seq 1 type b\n")
}

// stop ends an instance's server, in order, and the node's connections to it.
func (s *service) stop(i node.Instance) {
	s.mu.Lock()
	if c, is := s.clients[i.Name]; is {
		c.Close()
		delete(s.clients, i.Name)
	}
	s.mu.Unlock()
	s.servers.Stop(i.Name)
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}
