package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// restartAfter is the pause before an agent that ended is started again.
	restartAfter = 200 * time.Millisecond
	// endLimit is the time that an agent may take to end before it is killed.
	endLimit = 10 * time.Second
	// logLimit is the size at which the agent's own log is put aside.
	logLimit = 4 << 20
)

// kept is keeper.json: what the keeper shall run.
type kept struct {
	Program string `json:"program"`
}

func (m Machine) keeperFile() string { return m.path("keeper.json") }
func (m Machine) keeperLock() string { return m.path("keeper.lock") }

// installKeeper makes a keeper run the executable.
func (m Machine) installKeeper(ctx context.Context, executable string) error {
	data, err := json.Marshal(kept{Program: executable})
	if err == nil {
		err = writeChanged(m.keeperFile(), append(data, '\n'))
	}
	if err != nil {
		return fmt.Errorf("cannot install the agent with a keeper: %w", err)
	}
	pid, err := m.keeper()
	if err != nil {
		return err
	}
	if pid != 0 {
		if err := syscall.Kill(pid, syscall.SIGHUP); !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return m.startKeeper(ctx, executable)
}

// startKeeper starts a keeper that outlives us, and returns when it holds its
// lock.
func (m Machine) startKeeper(ctx context.Context, executable string) error {
	log, err := m.openLog()
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(executable, "keep", "--dir", m.Dir)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal's signals
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start the agent's keeper: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the keeper, or with us
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		if pid, err := m.keeper(); err != nil || pid != 0 {
			return err
		}
		select {
		case err := <-ended:
			if pid, _ := m.keeper(); pid != 0 {
				return nil // another one was quicker
			}
			return fmt.Errorf("cannot start the agent's keeper: it ended at once (%v); see %s", err, m.logFile())
		case <-ctx.Done():
			return fmt.Errorf("cannot start the agent's keeper: %w", context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

// keeper is the pid of the keeper that runs, 0 if none does. Its lock is the
// kernel's, so it ends with it.
func (m Machine) keeper() (int, error) {
	f, err := os.Open(m.keeperLock())
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot look for the agent's keeper: %w", err)
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock); err != nil {
		return 0, fmt.Errorf("cannot look for the agent's keeper: %w", err)
	}
	if lock.Type == unix.F_UNLCK {
		return 0, nil
	}
	return int(lock.Pid), nil
}

// endKeeper ends the keeper, which ends its agent.
func (m Machine) endKeeper(ctx context.Context) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	asked := 0
	for {
		pid, err := m.keeper()
		if err != nil || pid == 0 {
			return err
		}
		if pid != asked { // it may have become another one meanwhile
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("cannot end the agent's keeper (process %d): %w", pid, err)
			}
			asked = pid
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot end the agent's keeper (process %d): %w", pid, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

func (m Machine) keeperNote() string {
	why := "it has no systemd"
	if m.UID != 0 {
		why = "its SSH user is not root"
	}
	return fmt.Sprintf("the agent will not start when this machine boots, since %s: add to what its init runs at boot, or to a crontab behind @reboot, the line: %s keep --dir %s",
		why, shellWord(m.program()), shellWord(m.Dir))
}

func shellWord(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (m Machine) logFile() string { return m.path("log", "agent.log") }

// openLog opens the agent's own log, the one before it beside it.
func (m Machine) openLog() (*os.File, error) {
	name := m.logFile()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, fmt.Errorf("cannot open the agent's log: %w", err)
	}
	if info, err := os.Stat(name); err == nil && info.Size() > logLimit {
		if err := os.Rename(name, name+".1"); err != nil {
			return nil, fmt.Errorf("cannot rename the agent's old log: %w", err)
		}
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the agent's log: %w", err)
	}
	return f, nil
}

// Keep is the keeper's process: it runs the executable as the agent, starts it
// again when it ends, and becomes the keeper of another program when an install
// says so (HUP). It ends with the context, and the agent with it; a second
// keeper of a folder ends at once.
func (m Machine) Keep(ctx context.Context, executable string, log *slog.Logger) error {
	// Before the lock: whoever sees that may send HUP.
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGHUP)
	defer signal.Stop(changed)
	lock, err := os.OpenFile(m.keeperLock(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("cannot lock the keeper's folder: %w", err)
	}
	// Never closed: who sees it free knows that the process has ended.
	defer runtime.KeepAlive(lock)
	err = unix.FcntlFlock(lock.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return nil // another keeper is at work
	}
	if err != nil {
		return fmt.Errorf("cannot lock the keeper's folder: %w", err)
	}
	for {
		m.become(executable, changed, log)
		ended, err := m.runOnce(ctx, executable, changed, log)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			log.Error("cannot run the agent", "err", err)
		}
		if !ended && err == nil {
			continue // there is another program
		}
		pause := time.NewTimer(restartAfter)
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-changed:
			pause.Stop()
		case <-pause.C:
		}
	}
}

// wanted is the program that the keeper shall run.
func (m Machine) wanted(executable string) string {
	var k kept
	data, err := os.ReadFile(m.keeperFile())
	if err != nil || json.Unmarshal(data, &k) != nil || k.Program == "" {
		return executable
	}
	return k.Program
}

// become makes this process the keeper of the wanted program, if that is
// another one. It returns if it is not, or cannot be run.
func (m Machine) become(executable string, changed chan<- os.Signal, log *slog.Logger) {
	program := m.wanted(executable)
	if program == executable {
		return
	}
	// What is ignored stays so until the new program is ready to be told.
	signal.Ignore(syscall.SIGHUP)
	err := syscall.Exec(program, []string{program, "keep", "--dir", m.Dir}, os.Environ())
	signal.Notify(changed, syscall.SIGHUP)
	log.Error("cannot become the keeper of another agent; keeping the present one", "program", program, "err", err)
}

// runOnce runs the agent until it ends, or there is another program to run.
func (m Machine) runOnce(ctx context.Context, executable string, changed <-chan os.Signal, log *slog.Logger) (ended bool, err error) {
	out, err := m.openLog()
	if err != nil {
		return false, err
	}
	defer out.Close()
	cmd := exec.Command(executable, "run", "--dir", m.Dir)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", out, out
	if err := cmd.Start(); err != nil {
		return false, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case err := <-done:
			log.Warn("the agent ended; restarting it", "end", cmd.ProcessState.String(), "err", err)
			return true, nil
		case <-changed:
			if m.wanted(executable) == executable {
				continue
			}
		case <-ctx.Done():
		}
		_ = cmd.Process.Signal(syscall.SIGTERM) // an error: it has ended
		kill := time.AfterFunc(endLimit, func() { _ = cmd.Process.Kill() })
		<-done
		kill.Stop()
		return false, nil
	}
}
