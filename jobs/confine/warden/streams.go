package warden

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Streams says where what an app prints goes: to files below its folder, which are
// bounded. However much it prints, and whatever becomes of the files, the app goes
// on.
type Streams struct {
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
	// MaxBytes says how large a file may be before it is set aside as FILE.1, and
	// FILE.1 as FILE.2, up to Kept.
	MaxBytes int64 `json:"max_bytes"`
	Kept     int   `json:"kept"`
}

// streamRate is the number of bytes of a stream that are taken in a second: printing costs the
// machine's time, not only the app's.
const streamRate = 64 << 20

// markEvery is the interval at which the time of what is printed is noted.
const markEvery = 100 * time.Millisecond

// TimesOf names the file beside a stream's file that has the times of what is in it:
// lines "OFFSET MILLISECONDS", since 1970, for what is printed from an offset on.
func TimesOf(file string) string { return file + ".times" }

// pipe makes the pipe of a stream. The app may open its end anew, as /dev/stdout.
func pipe(spec Spec) (read, write *os.File, err error) {
	if read, write, err = os.Pipe(); err != nil {
		return nil, nil, fmt.Errorf("cannot make a pipe for the app's output: %w", err)
	}
	if spec.UID != 0 {
		if err := unix.Fchown(int(write.Fd()), spec.UID, spec.GID); err != nil {
			read.Close()
			write.Close()
			return nil, nil, fmt.Errorf("cannot give the app its output: %w", err)
		}
	}
	return read, write, nil
}

// stream takes what comes from a pipe into a file, until the last who has the other
// end is gone. What cannot be written is lost.
func stream(from io.Reader, spec Spec, path string) {
	l := &rotating{spec: spec, path: path}
	defer l.close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			l.write(buffer[:n], time.Now())
			time.Sleep(time.Duration(n) * time.Second / streamRate)
		}
		if err != nil {
			return
		}
	}
}

// rotating is a file of bounded size, with those that were set aside.
type rotating struct {
	spec  Spec
	path  string
	file  *os.File // nil: is to be opened
	times *os.File
	size  int64
	mark  time.Time // when the time was last noted
}

func (l *rotating) write(data []byte, now time.Time) {
	if l.file != nil && l.size+int64(len(data)) > l.spec.Streams.MaxBytes {
		l.rotate()
	}
	if l.file == nil && !l.open() {
		return
	}
	if now.Sub(l.mark) >= markEvery {
		// A line that is cut, by a full disk, is left out by who reads it.
		_, _ = fmt.Fprintf(l.times, "%d %d\n", l.size, now.UnixMilli())
		l.mark = now
	}
	n, err := l.file.Write(data)
	l.size += int64(n)
	if err != nil {
		l.close() // and opened again with what comes next
	}
}

// open opens the files to append to them, and reports whether it could.
func (l *rotating) open() bool {
	file, err := OpenLog(l.spec.Dir, l.path, l.spec.UID, l.spec.GID)
	if err != nil {
		return false
	}
	times, err := OpenLog(l.spec.Dir, TimesOf(l.path), l.spec.UID, l.spec.GID)
	if err != nil {
		file.Close()
		return false
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		times.Close()
		return false
	}
	l.file, l.times, l.size, l.mark = file, times, info.Size(), time.Time{}
	return true
}

func (l *rotating) close() {
	if l.file != nil {
		_ = errors.Join(l.file.Close(), l.times.Close()) // nothing is buffered
	}
	l.file, l.times = nil, nil
}

// rotate sets the files aside, the oldest give way. If that fails, the file is
// begun anew: it is bounded in any case.
func (l *rotating) rotate() {
	l.close()
	root, err := os.OpenRoot(l.spec.Dir)
	if err != nil {
		return
	}
	defer root.Close()
	for _, path := range []string{l.path, TimesOf(l.path)} {
		name, err := filepath.Rel(l.spec.Dir, path)
		if err != nil {
			continue
		}
		for i := l.spec.Streams.Kept; i > 0; i-- {
			from := name
			if i > 1 {
				from = fmt.Sprintf("%s.%d", name, i-1)
			}
			to := fmt.Sprintf("%s.%d", name, i)
			_ = root.RemoveAll(to) // a folder of the app's, perhaps
			if err := root.Rename(from, to); err != nil && i == 1 {
				_ = root.RemoveAll(from)
			}
		}
	}
}
