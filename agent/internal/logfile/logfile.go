// Package logfile writes logs that are rotated, for processes and hooks.
package logfile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// File is a log that is rotated between lines: <path> is the current file,
// <path>.1 the one before. It outlives a full disk: what could not be written is
// counted, and the count is told by the first line that can be.
type File struct {
	path string
	max  int64
	keep int

	file *os.File
	size int64
	lost int64 // bytes
}

// Open begins to append to the log at path; its folder is made if it is
// missing. From max bytes on the file is put aside, and keep old ones are kept.
// What keeps it from being opened is tried again by each write.
func Open(path string, max int64, keep int) *File {
	l := &File{path: path, max: max, keep: keep}
	_ = l.open() // the next write tries again, and counts what is lost
	return l
}

// Write takes all of b, whatever becomes of it: the process must not stall.
func (l *File) Write(b []byte) (int, error) {
	n := len(b)
	if l.size+int64(n) > l.max {
		if end := bytes.LastIndexByte(b, '\n'); end >= 0 {
			l.write(b[:end+1])
			b = b[end+1:]
			l.rotate()
		} else if l.size > 2*l.max {
			l.rotate() // a line without end
		}
	}
	l.write(b)
	return n, nil
}

func (l *File) write(b []byte) {
	if len(b) == 0 {
		return
	}
	if l.file == nil && l.open() != nil {
		l.lost += int64(len(b))
		return
	}
	if l.lost > 0 {
		n, err := fmt.Fprintf(l.file, "\n[%d bytes of this log are lost: they could not be written]\n", l.lost)
		l.size += int64(n)
		if err != nil {
			l.lost += int64(len(b))
			return
		}
		l.lost = 0
	}
	n, err := l.file.Write(b)
	l.size += int64(n)
	if err != nil {
		l.lost += int64(len(b) - n)
	}
}

func (l *File) open() error {
	if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.size = f, info.Size()
	return nil
}

func (l *File) rotate() {
	if l.file == nil {
		return
	}
	_ = l.file.Close()
	l.file, l.size = nil, 0
	// A rename that fails leaves the file current, which then grows: better
	// than losing it.
	for n := l.keep - 1; n >= 1; n-- {
		_ = os.Rename(l.path+"."+strconv.Itoa(n), l.path+"."+strconv.Itoa(n+1))
	}
	_ = os.Rename(l.path, l.path+".1")
	_ = l.open() // the next write tries again
}

// Close ends the writing.
func (l *File) Close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}
