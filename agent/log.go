package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

const (
	maxLogChunk     = 256 << 10
	defaultLogChunk = 64 << 10
	logPoll         = 100 * time.Millisecond
)

// Log reads a piece of a process's (or hook's) log. A reader that comes back
// with what it was given loses nothing by rotation, as long as the rotated file
// is there.
func (a *Agent) Log(ctx context.Context, r api.LogRequest) (api.LogChunk, error) {
	for _, name := range []string{r.Job, r.Process} {
		if name == "" || strings.ContainsAny(name, "/\x00") || strings.HasPrefix(name, ".") {
			return api.LogChunk{}, &api.Error{Code: api.CodeBadRequest, Message: fmt.Sprintf("cannot read the log of %q: not a job's or process's name", name)}
		}
	}
	if r.Max <= 0 {
		r.Max = defaultLogChunk
	}
	r.Max = min(r.Max, maxLogChunk)
	deadline := time.NewTimer(pollTime(r.WaitMS))
	defer deadline.Stop()
	ticker := time.NewTicker(logPoll)
	defer ticker.Stop()
	for {
		chunk, err := a.readLog(r)
		if err != nil || len(chunk.Data) > 0 || r.Offset < 0 && chunk.File != "" {
			return chunk, err
		}
		select {
		case <-ticker.C:
		case <-deadline.C:
			return chunk, nil
		case <-ctx.Done():
			return chunk, nil
		}
	}
}

// logFile is one file of a rotated log.
type logFile struct {
	path string
	id   string // device and inode: rotation renames, and the id stays
	size int64
	at   time.Time
}

// logFiles lists a log's files, the oldest first, the current one last.
func logFiles(dir, process string) ([]logFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var files []logFile
	current := process + ".log"
	for _, e := range entries {
		if e.Name() != current && !strings.HasPrefix(e.Name(), current+".") {
			continue
		}
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // just rotated away
		}
		if err != nil {
			return nil, err
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() {
			files = append(files, logFile{filepath.Join(dir, e.Name()), fmt.Sprintf("%d.%d", stat.Dev, stat.Ino), info.Size(), info.ModTime()})
		}
	}
	slices.SortStableFunc(files, func(a, b logFile) int {
		switch {
		case filepath.Base(a.path) == current:
			return 1
		case filepath.Base(b.path) == current:
			return -1
		}
		return a.at.Compare(b.at)
	})
	return files, nil
}

// readLog reads what is there now; no data means that nothing is new.
func (a *Agent) readLog(r api.LogRequest) (api.LogChunk, error) {
	files, err := logFiles(filepath.Join(a.config.Dir, "log", r.Job), r.Process)
	if err != nil {
		return api.LogChunk{}, fmt.Errorf("cannot read the log of %s/%s: %w", r.Job, r.Process, err)
	}
	if len(files) == 0 {
		for _, s := range a.supervisor.Statuses() {
			if s.Job == r.Job && s.Name == r.Process {
				return api.LogChunk{}, nil // it has not said anything yet
			}
		}
		return api.LogChunk{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("cannot read the log of %s/%s: there is none on this instance", r.Job, r.Process)}
	}
	if r.Offset < 0 {
		return lastOf(files[len(files)-1], r)
	}
	n := slices.IndexFunc(files, func(f logFile) bool { return f.id == r.File })
	if n < 0 {
		// The reader's file is gone, or it has none yet: go on with the oldest.
		n, r.Offset = 0, 0
	}
	for r.Offset >= files[n].size && n < len(files)-1 {
		n, r.Offset = n+1, 0
	}
	if r.Offset > files[n].size {
		r.Offset = 0 // truncated in place
	}
	data, err := readAt(files[n].path, r.Offset, r.Max)
	return api.LogChunk{Data: data, File: files[n].id, Next: r.Offset + int64(len(data))}, err
}

// lastOf gives the last lines of a file.
func lastOf(f logFile, r api.LogRequest) (api.LogChunk, error) {
	from := max(0, f.size-int64(r.Max))
	data, err := readAt(f.path, from, int(f.size-from))
	if err != nil {
		return api.LogChunk{}, err
	}
	next := from + int64(len(data))
	start := len(data)
	for lines := 0; lines < r.Lines && start > 0; lines++ {
		start = bytes.LastIndexByte(data[:start-1], '\n') + 1
	}
	return api.LogChunk{Data: data[start:], File: f.id, Next: next}, nil
}

func readAt(name string, offset int64, limit int) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the log: %w", err)
	}
	defer f.Close()
	return io.ReadAll(io.NewSectionReader(f, offset, int64(limit)))
}
