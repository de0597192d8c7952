package confine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
)

const (
	// leastFile is what a file counts at least: it takes an inode in any case, of which a
	// disk has one for some kilobytes.
	leastFile = 4096
	// uncounted is what a folder counts whose files cannot be found, more than any quota.
	uncounted = 1 << 50
)

// DiskUsage adds up what a folder's files take on the disk, each leastFile or
// more. Files that vanish meanwhile count nothing; those in folders so deep that no
// path leads to them count more than any quota allows.
func DiskUsage(dir string) int64 { return diskUsage(dir, dir, 3) }

// diskUsage adds up a folder at or below dir. tries is how often a folder is opened that
// the program has closed to itself, and to us if we are the same user.
func diskUsage(dir, at string, tries int) int64 {
	sum := int64(0)
	_ = filepath.WalkDir(at, func(name string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, syscall.ENAMETOOLONG):
			sum += uncounted
			return fs.SkipAll
		case errors.Is(err, fs.ErrPermission) && e != nil && e.IsDir():
			if tries == 0 || open(dir, name) != nil {
				sum += uncounted
				return fs.SkipAll
			}
			sum += diskUsage(dir, name, tries-1)
			return nil
		case err != nil:
			return nil // it goes away while we look
		}
		if info, err := e.Info(); err == nil {
			if s, ok := info.Sys().(*syscall.Stat_t); ok {
				sum += max(s.Blocks*512, leastFile)
			}
		}
		return nil
	})
	return sum
}

// open makes a folder at or below dir readable for its owner. No link leads out.
func open(dir, name string) error {
	below, err := filepath.Rel(dir, name)
	if err != nil {
		return err
	}
	if below == "." {
		return os.Chmod(dir, 0o700)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return root.Chmod(below, 0o700)
}

// RemoveAll removes a folder that a confined process has filled, in which it may have taken
// rights away from itself, or made folders so deep that following them down would take all
// files that a process may open. Nothing of it runs.
func RemoveAll(dir string) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !info.IsDir() {
		return errors.Join(err, os.Remove(dir))
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	lifted := 0
	// A folder's folders are moved up before it is removed, so that none is ever deep.
	if err := empty(root, ".", func(name string) error {
		err := empty(root, name, func(child string) error {
			for ; ; lifted++ {
				err := root.Rename(child, fmt.Sprintf(".%d", lifted))
				if !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTDIR) {
					return err
				}
			}
		})
		if err != nil {
			return err
		}
		return root.Remove(name)
	}); err != nil {
		return err
	}
	return os.Remove(dir)
}

// empty removes a folder's files and has its folders taken away.
func empty(root *os.Root, dir string, take func(name string) error) error {
	for {
		f, err := root.Open(dir)
		if err != nil {
			return err
		}
		entries, err := f.ReadDir(1000)
		_ = f.Close() // it was only read
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			name := path.Join(dir, e.Name())
			if !e.IsDir() {
				err = root.Remove(name)
			} else if err = root.Chmod(name, 0o700); err == nil {
				err = take(name)
			}
			if err != nil {
				return err
			}
		}
	}
}
