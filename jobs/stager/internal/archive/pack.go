// Package archive packs droplets.
package archive

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/clusterworks/deploy/agent/host/unpack"
)

// Pack writes a folder as a tar.gz whose entries begin with "./", as droplets
// have them, sorted by name and owned by nobody in particular. Links that lead
// out of the folder are refused: the DEA would refuse them, too. No more than
// limit bytes of files are packed.
func Pack(ctx context.Context, w io.Writer, folder string, limit int64) error {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	// The fastest level: staging is waited for, and the network is not slow.
	zipped, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(zipped)
	left := limit
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx) // a path takes as many steps as it is deep, for each file
		}
		if err != nil {
			return err
		}
		info, err := root.Lstat(name)
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			if left -= info.Size(); left < 0 {
				return fmt.Errorf("it is larger than the %d MB that are allowed", limit>>20)
			}
		}
		return packOne(archive, root, name, info)
	})
	return errors.Join(err, archive.Close(), zipped.Close())
}

func packOne(archive *tar.Writer, root *os.Root, name string, info fs.FileInfo) error {
	target := ""
	switch mode := info.Mode(); {
	case mode.IsDir(), mode.IsRegular():
	case mode&fs.ModeSymlink != 0:
		var err error
		if target, err = root.Readlink(name); err != nil {
			return err
		}
		if err := unpack.CheckLink(root, name, target); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	default:
		return fmt.Errorf("%s is neither file, folder nor link, but %s", name, mode.Type())
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	header.Name = "./" + name
	if name == "." {
		header.Name = "./"
	} else if info.IsDir() {
		header.Name += "/"
	}
	header.Uid, header.Gid, header.Uname, header.Gname = 0, 0, "", ""
	header.Mode &= 0o777
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	file, err := root.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(archive, file)
	return err
}
