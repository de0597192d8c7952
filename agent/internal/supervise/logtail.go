package supervise

import (
	"io"
	"os"
	"strings"
)

// tailBytes bounds what LogTail reads of each file.
const tailBytes = 64 << 10

// LogTail gives the last lines of a process's log, the oldest first, none if it
// has not said anything.
func (s *Supervisor) LogTail(job, name string, lines int) []string {
	if checkName(job) != nil || checkName(name) != nil {
		return nil
	}
	current := names{s.config.Dir, job, name}.log()
	last := tailLines(current, lines)
	if missing := lines - len(last); missing > 0 {
		last = append(tailLines(current+".1", missing), last...) // just rotated
	}
	return last
}

func tailLines(path string, lines int) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	start := max(0, info.Size()-tailBytes)
	data, err := io.ReadAll(io.NewSectionReader(f, start, tailBytes))
	if err != nil || len(data) == 0 {
		return nil
	}
	all := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	if start > 0 && len(all) > 1 {
		all = all[1:] // cut off at its front
	}
	return all[max(0, len(all)-lines):]
}
