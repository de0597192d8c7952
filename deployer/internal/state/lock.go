package state

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Lock is held by the one process that changes a deployment. The kernel drops
// it with the process, so it cannot be left behind. It keeps well-behaved
// processes from waiting for each other in vain; what a process may write that
// was suspended and superseded is decided by its lease (Store.Begin).
type Lock struct{ file *os.File }

// Holder is the process that holds a lock.
type Holder struct {
	PID     int    // 0 if the kernel does not tell
	Command string // as it was typed
	User    string
	// Suspended: it was stopped (SIGSTOP, Ctrl-Z) and does nothing until it is
	// continued.
	Suspended bool
}

// String is "process 4242 (deploy apply cluster.hcl, by ops)".
func (h Holder) String() string {
	if h.PID == 0 {
		return "a process that this machine does not know"
	}
	var more []string
	if h.Command != "" {
		more = append(more, h.Command)
	}
	if h.User != "" {
		more = append(more, "by "+h.User)
	}
	if h.Suspended {
		more = append(more, "suspended")
	}
	out := fmt.Sprintf("process %d", h.PID)
	if len(more) > 0 {
		out += " (" + strings.Join(more, ", ") + ")"
	}
	return out
}

// ErrLocked is returned by Lock while another process holds it.
var ErrLocked = errors.New("another deploy works on this deployment")

// LockOptions say what to do about a lock that is held.
type LockOptions struct {
	// Wait is the time to wait for it; 0: not at all.
	Wait time.Duration
	// Takeover takes it from whoever holds it. From a holder that is suspended it
	// is always taken.
	Takeover bool
	// Told hears whom is waited for, and from whom the lock is taken.
	Told func(h Holder, taken bool)
}

// lockPoll is the interval at which a lock that is held is asked for.
const lockPoll = 100 * time.Millisecond

// Lock takes the folder's lock. While another process holds it, it fails with
// ErrLocked, naming the holder, unless the options say otherwise.
func (s Store) Lock(ctx context.Context, o LockOptions) (*Lock, error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the state folder: %w; make it possible, or name another folder with --state", err)
	}
	told := o.Told
	if told == nil {
		told = func(Holder, bool) {}
	}
	deadline := time.Now().Add(o.Wait)
	for waiting := false; ; {
		lock, err := s.tryLock()
		if !errors.Is(err, ErrLocked) {
			return lock, err
		}
		h := s.Holder()
		switch {
		case o.Takeover || h.Suspended:
			lock, err := s.replaceLock()
			if err == nil {
				told(h, true)
			}
			return lock, err
		case !time.Now().Before(deadline):
			return nil, fmt.Errorf("%w: %s holds %s: wait for it to end (--lock-wait 10m waits), end it, or take over from it with --takeover", ErrLocked, h, s.lockFile())
		case !waiting:
			waiting = true
			told(h, false)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: no longer waited for %s: %w", ErrLocked, h, context.Cause(ctx))
		case <-time.After(min(lockPoll, time.Until(deadline))):
		}
	}
}

func (s Store) lockFile() string { return filepath.Join(s.Dir, "lock") }

// tryLock takes the lock if nobody holds it.
func (s Store) tryLock() (*Lock, error) {
	for {
		f, err := os.OpenFile(s.lockFile(), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("cannot write to the state folder, so nothing was begun: %w; make it writable", err)
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, ErrLocked
			}
			return nil, fmt.Errorf("cannot lock %s: %w", s.lockFile(), err)
		}
		// A takeover, or a destroy, may have put another file there meanwhile.
		mine, err := f.Stat()
		if err == nil {
			var there os.FileInfo
			if there, err = os.Stat(s.lockFile()); err == nil && os.SameFile(mine, there) {
				return &Lock{file: f}, nil
			}
		}
		f.Close()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("cannot lock %s: %w", s.lockFile(), err)
		}
		if err := os.MkdirAll(s.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("cannot make the state folder: %w", err)
		}
	}
}

// replaceLock puts a lock of our own in the place of one that is held.
func (s Store) replaceLock() (*Lock, error) {
	f, err := os.CreateTemp(s.Dir, ".lock")
	if err != nil {
		return nil, fmt.Errorf("cannot take over the lock: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		err = os.Rename(f.Name(), s.lockFile())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot take over the lock: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return &Lock{file: f}, nil
}

// Busy tells whether somebody holds the lock, and who.
func (s Store) Busy() (Holder, bool) {
	lock, err := s.tryLock()
	if err == nil {
		_ = lock.Unlock() // only closes it
		return Holder{}, false
	}
	return s.Holder(), errors.Is(err, ErrLocked)
}

// Unlock gives the lock back.
func (l *Lock) Unlock() error { return l.file.Close() }

// Holder is the process that holds the folder's lock, with PID 0 if nobody does
// or the kernel does not tell. The lock file itself stays empty, so that holding
// it writes nothing.
func (s Store) Holder() Holder {
	var st syscall.Stat_t
	if err := syscall.Stat(s.lockFile(), &st); err != nil {
		return Holder{}
	}
	f, err := os.Open("/proc/locks")
	if err != nil {
		return Holder{}
	}
	defer f.Close()
	inode := fmt.Sprintf(":%d", st.Ino)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 1234 fd:00:5678 0 EOF
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[1] != "FLOCK" || !strings.HasSuffix(fields[5], inode) {
			continue
		}
		pid, _ := strconv.Atoi(fields[4])
		if pid > 0 {
			return describe(pid)
		}
	}
	return Holder{}
}

// describe reads of a process what /proc tells everybody.
func describe(pid int) Holder {
	h := Holder{PID: pid}
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	if data, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil {
		words := strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
		words[0] = filepath.Base(words[0])
		for i, w := range words {
			// Values of variables may be secrets, and are of no interest here.
			if name, _, found := strings.Cut(w, "="); found && i > 0 {
				words[i] = name + "=..."
			}
		}
		h.Command = strings.Join(words, " ")
	}
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err == nil {
		h.User = strconv.Itoa(int(st.Uid))
		if u, err := user.LookupId(h.User); err == nil {
			h.User = u.Username
		}
	}
	// 1234 (name) T ...; the name may hold anything.
	if data, err := os.ReadFile(filepath.Join(dir, "stat")); err == nil {
		if _, rest, found := strings.Cut(string(data[strings.LastIndexByte(string(data), ')')+1:]), " "); found {
			h.Suspended = strings.HasPrefix(rest, "T")
		}
	}
	return h
}
