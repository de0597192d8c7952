package stager

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
)

// workFolder is where a stager has its tasks' files. Its lock says that the
// stager lives: what a killed one left is removed by the next.
type workFolder struct {
	path string
	lock *os.File
}

const workPrefix = "stager-"

func openWorkFolder(tmp, uuid string) (*workFolder, error) {
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
		err = os.RemoveAll(folder)
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
	return w, nil
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
	return folder, os.Mkdir(folder, 0o700)
}

func (w *workFolder) close(log *slog.Logger) {
	if err := errors.Join(os.RemoveAll(w.path), w.lock.Close()); err != nil {
		log.Warn("cannot remove the folder of stagings", "error", err)
	}
}
