package redisnode

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/clusterworks/deploy/agent/host/sockets"
	"github.com/clusterworks/deploy/jobs/component/node"
	"github.com/clusterworks/deploy/jobs/wire"
)

const (
	asideFolder = "aside" // of an instance's folder
	asideSocket = "aside.sock"
	asideUser   = "import"
	commandLine = "redis-cli" // comes with the server
)

// aside is a server beside an instance's, without a port and within the same limits, for
// as long as an export or an import takes. Only the node reaches it.
type aside struct {
	s        *service
	instance string
	folder   string
	password string // of asideUser, who may do what users may
	admin    *redis.Client
}

// startAside starts one on a dump, or without data if dump is nil.
func (s *service) startAside(ctx context.Context, i node.Instance, dump io.Reader) (_ *aside, err error) {
	a := &aside{s: s, instance: i.Name, folder: filepath.Join(s.folder, i.Name, asideFolder), password: secret()}
	a.end() // of a node that died
	defer func() {
		if err != nil {
			a.end()
		}
	}()
	if err := s.account.Folder(a.folder); err != nil {
		return nil, err
	}
	if dump != nil {
		if err := a.take(dump); err != nil {
			return nil, err
		}
	}
	administrators := secret()
	users := strings.Join([]string{
		strings.Join([]string{"user", administrator, "on", hash(administrators), "~*", "&*", "+@all"}, " "),
		strings.Join(append([]string{"user", asideUser, "on", hash(a.password)}, may...), " "),
		"user default off", "",
	}, "\n")
	configuration := strings.Join([]string{
		"port 0", "unixsocket " + asideSocket, "unixsocketperm 700", "daemonize no", "loglevel warning", "logfile \"\"", "aclfile users.acl",
		"maxmemory " + strconv.Itoa(s.settings.Redis.MaxMemoryMB) + "mb", "maxmemory-policy noeviction", "maxclients 10", "save \"\"", "appendonly no",
		"aof-use-rdb-preamble no", "dbfilename " + dumpFile, "acllog-max-len 16", "",
	}, "\n")
	if err := errors.Join(s.account.Write(filepath.Join(a.folder, "users.acl"), users), s.account.Write(filepath.Join(a.folder, "redis.conf"), configuration)); err != nil {
		return nil, err
	}
	if err := s.servers.Start(s.work, a.name(), a.folder, s.command()); err != nil {
		return nil, err
	}
	a.admin = redis.NewClient(&redis.Options{
		Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return sockets.Dial(ctx, filepath.Join(a.folder, asideSocket))
		},
		Username: administrator, Password: administrators, MaxRetries: -1, ReadTimeout: startLimit, DisableIdentity: true, ContextTimeoutEnabled: true,
	})
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return a, waitForServer(ctx, a.admin)
}

func (a *aside) name() string { return a.instance + "/" + asideFolder }

// take puts a dump where the server reads it when it starts.
func (a *aside) take(dump io.Reader) error {
	path := filepath.Join(a.folder, dumpFile)
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cannot make a file of a dump: %w", err)
	}
	defer out.Close()
	if _, err := io.Copy(out, dump); err != nil {
		return fmt.Errorf("cannot copy a dump: %w", err)
	}
	return errors.Join(out.Close(), a.s.account.Own(path))
}

// end ends the server and removes all of it.
func (a *aside) end() {
	if a.admin != nil {
		a.admin.Close()
	}
	a.s.servers.Stop(a.name())
	if err := os.RemoveAll(a.folder); err != nil {
		a.s.host.Log.Error("cannot remove a server's files; they are removed before the next one", "instance", a.instance, "error", err)
	}
}

func secret() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Serialize writes the commands that make what is in a dump, as clients send them.
func (s *service) Serialize(ctx context.Context, i node.Instance, from io.Reader, to io.Writer) error {
	a, err := s.startAside(ctx, i, from)
	if err != nil {
		return err
	}
	defer a.end()
	if err := a.admin.Do(ctx, "BGREWRITEAOF").Err(); err != nil {
		return fmt.Errorf("the server does not write its commands: %w", err)
	}
	for {
		info, err := a.admin.InfoMap(ctx, "persistence").Result()
		if err != nil {
			return fmt.Errorf("the server does not answer: %w", err)
		}
		p := info["Persistence"]
		files, _ := filepath.Glob(filepath.Join(a.folder, logFolder, "*.base.aof")) // its pattern is well formed
		if p["aof_rewrite_in_progress"] == "0" && p["aof_rewrite_scheduled"] == "0" {
			if p["aof_last_bgrewrite_status"] != "ok" {
				return errors.New("the server could not write its commands; its log says why")
			}
			if len(files) == 1 {
				return copyFile(to, files[0])
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Deserialize lets a server beside the instance's do the commands of a file, as a user who
// may do what apps may. Only if it has done all of them, within the plan's memory, what it
// has takes the place of what is in the instance, as after a rollback.
func (s *service) Deserialize(ctx context.Context, i node.Instance, from io.ReadSeeker) error {
	a, err := s.startAside(ctx, i, nil)
	if err != nil {
		return err
	}
	defer a.end()
	if err := a.replay(ctx, from); err != nil {
		return err
	}
	if err := a.admin.Do(ctx, "SAVE").Err(); err != nil {
		return fmt.Errorf("the server does not write what was imported: %w", err)
	}
	dump, err := os.Open(filepath.Join(a.folder, dumpFile))
	if err != nil {
		return fmt.Errorf("cannot read what was imported: %w", err)
	}
	defer dump.Close()
	return s.Load(ctx, i, dump)
}

// replay sends a file to the server as it is, and fails unless it did all of it.
func (a *aside) replay(ctx context.Context, from io.Reader) error {
	// Nothing else is read on this side but the server's answers.
	cmd := a.s.account.Command(ctx, a.folder, commandLine, "-s", asideSocket, "--user", asideUser, "--pipe")
	cmd.Env = append(cmd.Env, "REDISCLI_AUTH="+a.password)
	cmd.Stdin = from
	said := &firstBytes{}
	cmd.Stdout, cmd.Stderr = said, said
	err := cmd.Run()
	switch cause := context.Cause(ctx); {
	case cause != nil:
		return errors.Join(cause, err)
	case err != nil:
		return errors.Join(wire.Failure(wire.ServiceMalformed, "the server refuses the file: %.400s", said.text()), err)
	}
	return a.fits(ctx)
}

// fits fails if the server has more than the plan's memory: a script that begins below the
// limit may go beyond it.
func (a *aside) fits(ctx context.Context) error {
	info, err := a.admin.InfoMap(ctx, "memory").Result()
	if err != nil {
		return fmt.Errorf("the server does not answer: %w", err)
	}
	m := info["Memory"]
	var used, most int64
	if _, err := fmt.Sscan(m["used_memory"]+" "+m["maxmemory"], &used, &most); err != nil {
		return fmt.Errorf("the server does not say how much memory it has: %w", err)
	}
	if used > most {
		return wire.Failure(wire.ServiceMalformed, "what is in the file is larger than the %d MB of memory that the plan allows", a.s.settings.Redis.MaxMemoryMB)
	}
	return nil
}

// firstBytes keeps the beginning of what a program says.
type firstBytes struct{ data []byte }

func (f *firstBytes) Write(p []byte) (int, error) {
	f.data = append(f.data, p[:min(len(p), max(0, 4096-len(f.data)))]...)
	return len(p), nil
}

// text returns it without the program's remarks on its progress.
func (f *firstBytes) text() string {
	var lines []string
	for line := range strings.Lines(string(f.data)) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "All data transferred") && !strings.HasPrefix(line, "Last reply received") && !strings.HasPrefix(line, "Warning: Using a password") {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return "it has ended the connection: these are no commands of Redis"
	}
	return strings.Join(lines, "; ")
}
