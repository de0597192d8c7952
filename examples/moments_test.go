//go:build e2e

package examples

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// watcher tells of what a command does to files. That, and the lines that it prints,
// are its moments: a random one of them is a random moment of the command, however
// fast the machine is.
type watcher struct {
	file   *os.File
	events chan struct{}
	done   chan struct{}
}

// watch tells of what happens in these folders and those below them.
func watch(t testing.TB, events chan struct{}, dirs ...string) *watcher {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{file: os.NewFile(uintptr(fd), "inotify"), events: events, done: make(chan struct{})}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case e.IsDir() && e.Name() == "vms": // where agents work all the time
				return filepath.SkipDir
			case e.IsDir():
				_, err = unix.InotifyAddWatch(fd, path, unix.IN_OPEN|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_CLOSE_WRITE|unix.IN_DELETE)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		defer close(w.done)
		buffer := make([]byte, 64<<10)
		for {
			n, err := w.file.Read(buffer)
			if err != nil {
				return // it is closed
			}
			for at := 0; at+unix.SizeofInotifyEvent <= n; {
				happen(events)
				at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buffer[at+12:]))
			}
		}
	}()
	return w
}

func (w *watcher) end() {
	_ = w.file.Close()
	<-w.done
}

// happen tells of an event, if anybody still counts.
func happen(events chan struct{}) {
	select {
	case events <- struct{}{}:
	default:
	}
}

// lines is an output that tells of each line.
type lines struct {
	events chan struct{}
	text   []byte
}

func (l *lines) Write(p []byte) (int, error) {
	for _, b := range p {
		if b == '\n' {
			happen(l.events)
		}
	}
	l.text = append(l.text, p...)
	return len(p), nil
}
