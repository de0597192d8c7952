package install

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// Bounds of an archive: far above any package, far below what would fill a VM.
const (
	maxUnpackedBytes   = 4 << 30
	maxUnpackedEntries = 200_000
)

// unpack extracts a gzip-compressed tar into the empty folder dir. Nothing is
// written outside it and no link leads out of it; permission bits are kept,
// set-user-id bits are not. Files are synced.
func unpack(r io.Reader, dir string, maxBytes int64, maxEntries int) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	zip, err := gzip.NewReader(r)
	if err != nil {
		return fmt.Errorf("not a gzip file: %w", err)
	}
	archive := tar.NewReader(zip)
	left := maxBytes
	// Folder modes come last: a read-only folder must be filled first.
	type folder struct {
		name string
		mode fs.FileMode
	}
	var folders []folder
	var links []string
	for n := 0; ; n++ {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("not a tar file: %w", err)
		}
		if n >= maxEntries {
			return fmt.Errorf("more than %d entries", maxEntries)
		}
		name := path.Clean(header.Name)
		if !filepath.IsLocal(name) {
			return fmt.Errorf("entry %q leads out of the package", header.Name)
		}
		mode := header.FileInfo().Mode().Perm()
		if name != "." {
			if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
				return err
			}
		}
		switch header.Typeflag {
		case tar.TypeDir:
			if name == "." {
				continue
			}
			if err := root.MkdirAll(name, 0o755); err != nil {
				return err
			}
			folders = append(folders, folder{name, mode})
		case tar.TypeReg:
			if header.Size > left {
				return fmt.Errorf("unpacks to more than %d bytes", maxBytes)
			}
			left -= header.Size
			if err := unpackFile(root, name, mode, archive); err != nil {
				return err
			}
		case tar.TypeSymlink:
			target := header.Linkname
			if path.IsAbs(target) || !filepath.IsLocal(path.Join(path.Dir(name), target)) {
				return fmt.Errorf("link %q leads out of the package, to %q", header.Name, target)
			}
			if err := root.Symlink(target, name); err != nil {
				return err
			}
			links = append(links, name)
		case tar.TypeLink:
			if !filepath.IsLocal(path.Clean(header.Linkname)) {
				return fmt.Errorf("link %q leads out of the package, to %q", header.Name, header.Linkname)
			}
			if err := root.Link(path.Clean(header.Linkname), name); err != nil {
				return err
			}
		case tar.TypeXGlobalHeader:
		default:
			return fmt.Errorf("entry %q is neither file, folder nor link", header.Name)
		}
	}
	// Links over links may lead out although each alone does not.
	for _, name := range links {
		if _, err := root.Stat(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("link %q leads out of the package or nowhere: %w", name, err)
		}
	}
	for n := len(folders) - 1; n >= 0; n-- {
		if err := root.Chmod(folders[n].name, folders[n].mode|0o700); err != nil {
			return err
		}
	}
	// The rest of the stream carries the checksum.
	if _, err := io.Copy(io.Discard, zip); err != nil {
		return fmt.Errorf("not a whole gzip file: %w", err)
	}
	return nil
}

func unpackFile(root *os.Root, name string, mode fs.FileMode, content io.Reader) error {
	// O_EXCL: a second entry of the same name, or one that goes through a link
	// made before, is refused and not written.
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, content); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}
