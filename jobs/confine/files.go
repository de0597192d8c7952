package confine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// leastFile is the size that a file counts at least, bytes: an empty one takes an inode of
// the disk, and our time and memory to find it.
const leastFile = 4096

// DiskUsage adds up what a folder's files take on the disk, each leastFile or
// more. A file with several names counts once for each, what cannot be read does
// not.
func DiskUsage(dir string) int64 {
	sum := int64(0)
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
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

// RemoveAll removes a folder that a confined process has filled, in which it may have taken
// away our right to.
func RemoveAll(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil || !errors.Is(err, os.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			_ = os.Chmod(path, 0o700) // what stays locked fails below
		}
		return nil
	})
	return os.RemoveAll(dir)
}
