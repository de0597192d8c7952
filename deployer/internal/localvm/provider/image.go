package provider

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// copyFolder copies a tree of folders, files and links with their modes. to must
// not exist.
func copyFolder(ctx context.Context, from, to string) error {
	if info, err := os.Stat(from); err != nil {
		return err
	} else if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", from)
	}
	modes := map[string]fs.FileMode{} // of folders, given when they are filled
	err := filepath.WalkDir(from+string(filepath.Separator), func(source string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		name, err := filepath.Rel(from, source)
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		switch {
		case info.IsDir():
			modes[target] = info.Mode().Perm()
			return os.Mkdir(target, 0o700)
		case info.Mode().IsRegular():
			return copyFile(source, target, info.Mode().Perm())
		case info.Mode()&fs.ModeSymlink != 0:
			link, err := os.Readlink(source)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		}
		return fmt.Errorf("%s is neither a file, a folder nor a link", source)
	})
	if err != nil {
		return err
	}
	for folder, mode := range modes {
		if err := os.Chmod(folder, mode|0o700); err != nil { // the VM's owner can always remove it
			return err
		}
	}
	return nil
}

func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	if err := out.Chmod(mode); err != nil {
		return err
	}
	return out.Close()
}
