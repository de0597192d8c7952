package redisnode

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

	"golang.org/x/sys/unix"
)

const (
	stopTime    = 10 * time.Second // a server has to end in order
	lockTime    = 20 * time.Second // the server of a node that was killed has to be gone
	restartWait = time.Second      // after a server has ended by itself
)

// account is who runs the servers; nil: who runs the node.
type account struct{ uid, gid int }

func lookUp(name string) (*account, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("this VM has no user %s to run the servers as (property run_as): %w", name, err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	return &account{uid, gid}, errors.Join(err1, err2)
}

// own gives a file to the servers' user.
func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	return os.Chown(path, a.uid, a.gid)
}

// servers are the Redis servers of a node: one process for each instance, in a folder
// of its own, started again when it ends by itself. They end with the node, however it
// ends, since two servers must not write the same files.
type servers struct {
	program string
	account *account
	log     *slog.Logger

	mu      sync.Mutex
	running map[string]*running
	closed  bool
}

type running struct {
	stop context.CancelFunc
	done chan struct{}
}

// start keeps a server running in a folder until stop. It does not wait for it.
func (s *servers) start(ctx context.Context, name, folder string) error {
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
			if err := s.once(ctx, folder); err != nil && ctx.Err() == nil {
				s.log.Error("a server has ended and is started again", "instance", name, "error", err)
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
func (s *servers) once(ctx context.Context, folder string) error {
	lock, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the lock of a server: %w", err)
	}
	defer lock.Close()
	if err := waitForLock(ctx, lock); err != nil {
		return err
	}
	// The server would read its file by an absolute path.
	configuration, err := os.Open(filepath.Join(folder, "redis.conf"))
	if err != nil {
		return fmt.Errorf("cannot open the server's configuration: %w", err)
	}
	defer configuration.Close()
	cmd := exec.Command(s.program, "-")
	cmd.Dir = folder
	if s.account != nil {
		// The folders on the way may be closed to the servers' user, so the shell goes
		// in before it becomes that user.
		cmd = exec.Command("/bin/sh", "-c", `cd "$1" && exec setpriv --pdeathsig KILL --reuid="$2" --regid="$3" --clear-groups --no-new-privs -- "$4" -`,
			"sh", folder, strconv.Itoa(s.account.uid), strconv.Itoa(s.account.gid), s.program)
	}
	cmd.Env = append(os.Environ(), "HOME=/nonexistent")
	cmd.ExtraFiles = []*os.File{lock}
	cmd.Stdin = configuration
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
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
	_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended just now
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

// stop ends a server and returns when it has ended.
func (s *servers) stop(name string) {
	s.mu.Lock()
	r, is := s.running[name]
	delete(s.running, name)
	s.mu.Unlock()
	if is {
		r.stop()
		<-r.done
	}
}

// close ends all servers.
func (s *servers) close() {
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
