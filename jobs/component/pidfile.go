package component

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// writePID writes the process's id into a file and keeps the file locked, so
// that a second process with the same file does not start. close removes it.
func writePID(path string) (closeFile func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot write the pid file: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		owner, _ := io.ReadAll(io.LimitReader(f, 32))
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("cannot start: the process %s in the pid file %s is alive", strings.TrimSpace(string(owner)), path)
		}
		return nil, fmt.Errorf("cannot lock the pid file %s: %w", path, err)
	}
	if err := errors.Join(f.Truncate(0), write(f, strconv.Itoa(os.Getpid())+"\n")); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot write the pid file %s: %w", path, err)
	}
	return func() {
		// Removed while still locked: a successor that opened it before finds the
		// lock taken or writes a file of its own.
		os.Remove(path)
		f.Close()
	}, nil
}

func write(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}
