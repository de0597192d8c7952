// Package servers keeps the server processes of a service's node running: as a user of
// their own, each in a folder of its own, started again when one ends by itself. They
// end with the node, however it ends, since two servers must not write the same files.
package servers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

const (
	stopTime    = 10 * time.Second // a server has to end in order
	lockTime    = 20 * time.Second // the server of a node that was killed has to be gone
	restartWait = time.Second      // after a server has ended by itself
)

// Account describes who runs the servers; nil: who runs the node.
type Account struct{ uid, gid int }

// LookUp returns a user of this VM, or nil where the node is not root and cannot become
// anybody else.
func LookUp(name string) (*Account, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("this VM has no user %s to run the servers as (property run_as): %w", name, err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	return &Account{uid, gid}, errors.Join(err1, err2)
}

// Own gives a file to the servers' user.
func (a *Account) Own(path string) error {
	if a == nil {
		return nil
	}
	return os.Chown(path, a.uid, a.gid)
}

// Folder makes a folder that only the servers' user may enter.
func (a *Account) Folder(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("cannot make the server's folder: %w", err)
	}
	if err := a.Own(path); err != nil {
		return fmt.Errorf("cannot give the server its folder: %w", err)
	}
	return nil
}

// Write replaces a file that only the servers' user may read.
func (a *Account) Write(path, text string) error {
	err := renameio.WriteFile(path, []byte(text), 0o600)
	if err == nil {
		err = a.Own(path)
	}
	if err != nil {
		return fmt.Errorf("cannot write the server's %s: %w", filepath.Base(path), err)
	}
	return nil
}

// Command describes how a server is run in its folder.
type Command struct {
	Program string
	Args    []string
	Env     []string  // beside the node's own
	Stdin   string    // a file of the folder; "": none
	Mounted bool      // the server finds its folder at MountPoint, unless it runs as who runs the node
	Stop    os.Signal // ends the server in order; nil: SIGTERM
}

// Command returns how a program is run as the servers' user in a folder, which that
// user may not reach by its path. It ends with the node, however that ends.
func (a *Account) Command(ctx context.Context, folder, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = folder
	if a != nil {
		// The folders on the way may be closed to the servers' user, so the shell goes
		// in before it becomes that user.
		cmd = exec.CommandContext(ctx, "/bin/sh", append([]string{
			"-c", `cd "$1" && uid=$2 gid=$3 && shift 3 && exec setpriv --pdeathsig KILL --reuid="$uid" --regid="$gid" --clear-groups --no-new-privs -- "$@"`,
			"sh", folder, strconv.Itoa(a.uid), strconv.Itoa(a.gid), program,
		}, args...)...)
	}
	return ready(cmd)
}

// MountPoint is the place where a server sees its folder that looks up its files by absolute paths,
// which its user might not be able to go. Only that server sees it there.
const MountPoint = "/mnt"

// MountedCommand is Command for such a server. Without another user than the node's own
// the folder is reached by its path, and nothing is mounted.
func (a *Account) MountedCommand(ctx context.Context, folder, program string, args ...string) *exec.Cmd {
	if a == nil {
		return a.Command(ctx, folder, program, args...)
	}
	return ready(exec.CommandContext(ctx, "unshare", append([]string{
		"--mount", "--propagation", "private", "--", "/bin/sh",
		"-c", `mount --bind "$1" "$2" && cd "$2" && uid=$3 gid=$4 && shift 4 && exec setpriv --pdeathsig KILL --reuid="$uid" --regid="$gid" --clear-groups --no-new-privs -- "$@"`,
		"sh", folder, MountPoint, strconv.Itoa(a.uid), strconv.Itoa(a.gid), program,
	}, args...)...))
}

// ready gives a command nobody's home, and ends it with the node.
func ready(cmd *exec.Cmd) *exec.Cmd {
	cmd.Env = append(os.Environ(), "HOME=/nonexistent")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Servers are those of a node.
type Servers struct {
	account *Account
	log     *slog.Logger

	mu      sync.Mutex
	running map[string]*running
	closed  bool
}

// New returns servers that an account will run.
func New(account *Account, log *slog.Logger) *Servers {
	return &Servers{account: account, log: log, running: map[string]*running{}}
}

type running struct {
	stop context.CancelFunc
	done chan struct{}
}

// Start keeps a server running in a folder until Stop or Close. It does not wait for it.
func (s *Servers) Start(ctx context.Context, name, folder string, c Command) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("the node ends")
	}
	if _, is := s.running[name]; is {
		return nil
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &running{cancel, make(chan struct{})}
	s.running[name] = r
	go func() {
		defer close(r.done)
		// The kernel ends a server with the thread that has started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for ctx.Err() == nil {
			if err := s.once(ctx, folder, c); err != nil && ctx.Err() == nil {
				s.log.Error("a server ended; restarting it", "instance", name, "error", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(restartWait):
			}
		}
	}()
	return nil
}

// once runs a server until it ends or ctx does. Who has the lock of its folder is the
// only one to write there: the server inherits it.
func (s *Servers) once(ctx context.Context, folder string, c Command) error {
	lock, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the lock of a server: %w", err)
	}
	defer lock.Close()
	if err := waitForLock(ctx, lock); err != nil {
		return err
	}
	command := s.account.Command
	if c.Mounted {
		command = s.account.MountedCommand
	}
	cmd := command(context.WithoutCancel(ctx), folder, c.Program, c.Args...)
	if c.Stdin != "" {
		// Opened here: by its path the server might not reach it.
		in, err := os.Open(filepath.Join(folder, c.Stdin))
		if err != nil {
			return fmt.Errorf("cannot open the server's %s: %w", c.Stdin, err)
		}
		defer in.Close()
		cmd.Stdin = in
	}
	cmd.Env = append(cmd.Env, c.Env...)
	cmd.ExtraFiles = []*os.File{lock}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start the server: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return fmt.Errorf("the server has ended by itself: %w", errors.Join(err, ctx.Err()))
	case <-ctx.Done():
	}
	if c.Stop == nil {
		c.Stop = syscall.SIGTERM
	}
	_ = cmd.Process.Signal(c.Stop) // it may have ended just now
	select {
	case <-ended:
	case <-time.After(stopTime):
		_ = cmd.Process.Kill()
		<-ended
	}
	return nil
}

func waitForLock(ctx context.Context, lock *os.File) error {
	for end := time.Now().Add(lockTime); ; {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("another server still has the folder: %w", err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends a server and returns when it has ended.
func (s *Servers) Stop(name string) {
	s.mu.Lock()
	r, is := s.running[name]
	delete(s.running, name)
	s.mu.Unlock()
	if is {
		r.stop()
		<-r.done
	}
}

// Close ends all servers.
func (s *Servers) Close() {
	s.mu.Lock()
	s.closed = true
	all := s.running
	s.running = map[string]*running{}
	s.mu.Unlock()
	for _, r := range all {
		r.stop()
	}
	for _, r := range all {
		<-r.done
	}
}
