// Package postgrestest runs Debian's PostgreSQL for tests.
package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Server is a PostgreSQL of its own, in a folder that goes with it. It listens
// on a unix socket only.
type Server struct {
	dir        string
	program    string
	attributes *syscall.SysProcAttr
	cmd        *exec.Cmd // nil: halted

	mu sync.Mutex
	n  int // databases made
}

const deadline = 2 * time.Minute

// Start starts a server. Whoever started it calls Stop. It does not write
// through to the disk: nobody pulls the plug.
func Start() (_ *Server, err error) {
	programs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(programs) == 0 {
		return nil, errors.New("PostgreSQL is not installed: make setup installs it")
	}
	bin := programs[len(programs)-1]
	dir, err := os.MkdirTemp("", "pg-")
	if err != nil {
		return nil, fmt.Errorf("cannot start PostgreSQL: %w", err)
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	attributes := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		// It refuses to be root's.
		nobody, err := user.Lookup("nobody")
		if err != nil {
			return nil, fmt.Errorf("cannot start PostgreSQL: %w", err)
		}
		uid, err1 := strconv.ParseUint(nobody.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(nobody.Gid, 10, 32)
		if err := errors.Join(err1, err2, os.Chown(dir, int(uid), int(gid))); err != nil {
			return nil, fmt.Errorf("cannot start PostgreSQL: %w", err)
		}
		attributes.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	data := filepath.Join(dir, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", "cc", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = dir, attributes
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot make a database: %w: %s", err, out)
	}
	s := &Server{dir: dir, program: filepath.Join(bin, "postgres"), attributes: attributes}
	return s, s.Resume()
}

// Resume starts a server that was halted.
func (s *Server) Resume() error {
	cmd := exec.Command(s.program, "-D", filepath.Join(s.dir, "data"), "-k", s.dir, "-c", "listen_addresses=", "-c", "fsync=off",
		"-c", "max_connections=200", "-c", "shared_buffers=16MB")
	cmd.Dir, cmd.SysProcAttr = s.dir, s.attributes
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start PostgreSQL: %w", err)
	}
	s.cmd = cmd
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.uri("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-ctx.Done():
			s.Halt()
			return fmt.Errorf("cannot start PostgreSQL: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Halt ends the server at once, as a crash does.
func (s *Server) Halt() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGQUIT) // without saving anything
	_ = s.cmd.Wait()                          // its status says just that
	s.cmd = nil
}

// Stop ends the server and removes what it kept.
func (s *Server) Stop() {
	s.Halt()
	os.RemoveAll(s.dir)
}

// Folder returns where the unix socket is: the host of a connection.
func (s *Server) Folder() string { return s.dir }

func (s *Server) uri(database string) string {
	return "postgres://cc@/" + database + "?" + url.Values{"host": {s.dir}}.Encode()
}

// Database makes an empty database and returns its name and URI.
func (s *Server) Database(t testing.TB) (name, uri string) {
	t.Helper()
	s.mu.Lock()
	s.n++
	name = "test" + strconv.Itoa(s.n)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.uri("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+name)
	if err := errors.Join(err, conn.Close(ctx)); err != nil {
		t.Fatal(err)
	}
	return name, s.uri(name)
}
