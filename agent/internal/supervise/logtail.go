package supervise

import (
	"io"
	"os"
	"strings"
	"syscall"
)

// tailBytes bounds what LogTail reads of each file.
const tailBytes = 64 << 10

// logMark is a place in a process's log: the end of its file when the process was
// told to start. Zero is the beginning of all there is.
type logMark struct {
	File uint64 `json:"file"` // inode: a rotated file keeps its own
	At   int64  `json:"at"`   // bytes
}

// markLog returns the end of a log.
func markLog(path string) logMark {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return logMark{}
	}
	return logMark{File: st.Ino, At: st.Size}
}

// LogTail returns the last lines that a process has written since it was last told
// to start, the oldest first, none if it has not said anything: what earlier ones
// wrote has nothing to do with how it does.
func (s *Supervisor) LogTail(job, name string, lines int) []string {
	if checkName(job) != nil || checkName(name) != nil {
		return nil
	}
	current, mark := names{s.config.Dir, job, name}.log(), s.view(key{job, name}).log
	last, found := tailLines(current, lines, mark)
	if missing := lines - len(last); missing > 0 && !found {
		before, _ := tailLines(current+".1", missing, mark) // just rotated
		last = append(before, last...)
	}
	return last
}

// tailLines returns the last lines of a file, those after the mark if it is in this
// file, which found reports.
func tailLines(path string, lines int, mark logMark) (last []string, found bool) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, false
	}
	var from int64
	if st, ok := info.Sys().(*syscall.Stat_t); ok && mark.File != 0 && st.Ino == mark.File && mark.At <= info.Size() {
		from, found = mark.At, true
	}
	start := max(from, info.Size()-tailBytes)
	data, err := io.ReadAll(io.NewSectionReader(f, start, tailBytes))
	if err != nil || len(data) == 0 {
		return nil, found
	}
	all := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	if start > from && len(all) > 1 {
		all = all[1:] // cut off at its front
	}
	return all[max(0, len(all)-lines):], found
}
