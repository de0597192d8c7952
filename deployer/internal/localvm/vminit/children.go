package vminit

import (
	"log/slog"
	"os/exec"
	"sync"

	"golang.org/x/sys/unix"
)

// children are the processes that an init started, and the orphans that it
// inherits as the subreaper of its VM. Reaping everyone rules out
// exec.Cmd.Wait, so ends are delivered here.
type children struct {
	log     *slog.Logger
	mu      sync.Mutex // from the start of a child until its pid is known
	waiting map[int]chan unix.WaitStatus
}

func newChildren(log *slog.Logger) *children {
	return &children{log: log, waiting: map[int]chan unix.WaitStatus{}}
}

// start starts cmd by calling begin (cmd.Start or what wraps it) and returns
// the channel that delivers its end. cmd's streams must be files, cmd.Wait must
// not be called.
func (c *children) start(cmd *exec.Cmd, begin func() error) (<-chan unix.WaitStatus, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := begin(); err != nil {
		return nil, err
	}
	ended := make(chan unix.WaitStatus, 1)
	c.waiting[cmd.Process.Pid] = ended
	return ended, nil
}

// reap takes the status of every child that has ended. It is called at each
// SIGCHLD.
func (c *children) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid == 0 {
			return
		}
		c.mu.Lock()
		ended := c.waiting[pid]
		delete(c.waiting, pid)
		c.mu.Unlock()
		if ended != nil {
			ended <- status
		}
	}
}
