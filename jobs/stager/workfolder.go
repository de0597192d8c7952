package stager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/clusterworks/deploy/jobs/confine"
	"github.com/clusterworks/deploy/jobs/confine/warden"
)

// workFolder describes where a stager has its tasks' files. Its lock says that the
// stager lives: what a killed one left is removed by the next.
type workFolder struct {
	path string
	lock *os.File
	// program and staticServer are copies of this program and of the one that serves
	// static files, where the users of plugins can reach them; "": there is none.
	program, staticServer string
}

const workPrefix = "stager-"

func openWorkFolder(c Config, uuid string) (*workFolder, error) {
	tmp := c.Dirs.Tmp
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the folder for stagings (dirs.tmp): %w", err)
	}
	left, err := filepath.Glob(filepath.Join(tmp, workPrefix+"*"))
	if err != nil {
		return nil, err
	}
	for _, folder := range left {
		lock, err := takeLock(filepath.Join(folder, "lock"), 0)
		if err != nil {
			continue // another stager's, or not a stager's at all
		}
		err = clearFolder(folder)
		if err = errors.Join(err, lock.Close()); err != nil {
			return nil, fmt.Errorf("cannot remove what an earlier stager left: %w", err)
		}
	}
	w := &workFolder{path: filepath.Join(tmp, workPrefix+uuid)}
	// Others may pass through: a task's plugin may be another user's.
	if err := os.Mkdir(w.path, 0o711); err != nil {
		return nil, fmt.Errorf("cannot make the folder for stagings: %w", err)
	}
	if w.lock, err = takeLock(filepath.Join(w.path, "lock"), os.O_CREATE|os.O_EXCL); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make the folder for stagings: %w", err), os.RemoveAll(w.path))
	}
	self, err := os.Executable()
	if err == nil {
		w.program, err = filepath.Join(w.path, "stager"), copyProgram(self, filepath.Join(w.path, "stager"))
	}
	if err == nil && c.StaticServer != "" {
		w.staticServer, err = filepath.Join(w.path, "static_server"), copyProgram(c.StaticServer, filepath.Join(w.path, "static_server"))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot give plugins their programs: %w", err), w.lock.Close(), os.RemoveAll(w.path))
	}
	return w, nil
}

// clearFolder ends and removes what an earlier stager has left in its folder.
func clearFolder(folder string) error {
	left, err := filepath.Glob(filepath.Join(folder, "*", recordsFolder))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	for _, records := range left {
		err = errors.Join(err, warden.Kill(ctx, records))
		if spec, readErr := warden.ReadSpec(records); readErr == nil {
			err = errors.Join(err, confine.Remove(spec.Cgroups))
		}
	}
	return errors.Join(err, confine.RemoveAll(folder))
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func takeLock(file string, flags int) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR|flags|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// newTask makes a task's folder.
func (w *workFolder) newTask(id string) (string, error) {
	folder := filepath.Join(w.path, id)
	return folder, os.Mkdir(folder, 0o711)
}

func (w *workFolder) close(log *slog.Logger) {
	if err := errors.Join(confine.RemoveAll(w.path), w.lock.Close()); err != nil {
		log.Warn("cannot remove the folder of stagings", "error", err)
	}
}
