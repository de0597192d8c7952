package bits

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// maxEntries is how many files and folders a droplet may have.
const maxEntries = 200_000

// Owner is whom unpacked files are given; UID 0: nobody else.
type Owner struct{ UID, GID int }

// Unpack unpacks a droplet (tar, gzip) into dir, which exists and is empty, and
// writes at most limit bytes. Nothing of it lies outside of dir or leads there:
// absolute paths, "..", links out, devices and what is not a file, folder or
// link are refused. Of modes only the permission bits are kept.
func Unpack(ctx context.Context, in io.Reader, dir string, limit int64, owner Owner) error {
	zipped, err := gzip.NewReader(bufio.NewReaderSize(in, 64<<10))
	if err != nil {
		return fmt.Errorf("cannot unpack a droplet: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot unpack a droplet: %w", err)
	}
	defer root.Close()
	u := unpacker{root: root, left: limit, owner: owner}
	archive := tar.NewReader(&counted{r: zipped, left: 2*limit + 64<<20})
	for entries := 0; ; entries++ {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot unpack a droplet: %w", err)
		}
		if entries >= maxEntries {
			return fmt.Errorf("cannot unpack a droplet: it has more than %d entries", maxEntries)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("cannot unpack a droplet: %w", context.Cause(ctx))
		}
		if err := u.entry(header, archive); err != nil {
			return fmt.Errorf("cannot unpack %q of a droplet: %w", header.Name, err)
		}
	}
}

// counted ends a stream that unpacks to far more than files are allowed.
type counted struct {
	r    io.Reader
	left int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.left -= int64(n)
	if c.left < 0 {
		return n, errors.New("it unpacks to far more than is allowed")
	}
	return n, err
}

type unpacker struct {
	root  *os.Root
	left  int64
	owner Owner
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeDir:
		if err := u.parents(path.Join(name, "x")); err != nil {
			return err
		}
		// So that it can be filled and removed, whatever the archive says.
		return u.finish(name, fs.FileMode(h.Mode)&0o777|0o700)
	case tar.TypeReg:
		return u.file(name, h, content)
	case tar.TypeSymlink:
		if err := u.parents(name); err != nil {
			return err
		}
		if err := linkInside(path.Dir(name), h.Linkname); err != nil {
			return err
		}
		if err := u.remove(name); err != nil {
			return err
		}
		if err := u.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		if u.owner.UID != 0 {
			return u.root.Lchown(name, u.owner.UID, u.owner.GID)
		}
		return nil
	case tar.TypeLink:
		target, err := inside(h.Linkname)
		if err != nil {
			return err
		}
		// A link's second name may lie where its target leads out.
		if info, err := u.root.Lstat(target); err != nil {
			return err
		} else if !info.Mode().IsRegular() {
			return fmt.Errorf("a hard link to %s, which is no file, is not allowed", target)
		}
		if err := u.parents(name); err != nil {
			return err
		}
		if err := u.remove(name); err != nil {
			return err
		}
		return u.root.Link(target, name)
	}
	return fmt.Errorf("entries of type %q are not allowed", h.Typeflag)
}

func (u *unpacker) file(name string, h *tar.Header, content io.Reader) error {
	if h.Size > u.left {
		return errors.New("the droplet unpacks to more than its disk quota")
	}
	u.left -= h.Size
	if err := u.parents(name); err != nil {
		return err
	}
	if err := u.remove(name); err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return u.finish(name, fs.FileMode(h.Mode)&0o777|0o400)
}

// remove makes way for an entry that comes twice: the later one counts.
func (u *unpacker) remove(name string) error {
	if err := u.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// parents makes the folders above an entry whose archive does not list them, and
// refuses an entry below a link: where that leads cannot be told by its name.
func (u *unpacker) parents(name string) error {
	made := ""
	for part := range strings.SplitSeq(path.Dir(name), "/") {
		made = path.Join(made, part)
		info, err := u.root.Lstat(made)
		switch {
		case err == nil && info.IsDir():
			continue
		case err == nil:
			return fmt.Errorf("%s above it is no folder", made)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		if err := u.root.Mkdir(made, 0o755); err != nil {
			return err
		}
		if err := u.finish(made, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) finish(name string, mode fs.FileMode) error {
	if err := u.root.Chmod(name, mode); err != nil {
		return err
	}
	if u.owner.UID != 0 {
		return u.root.Lchown(name, u.owner.UID, u.owner.GID)
	}
	return nil
}

// inside cleans an entry's name and refuses one that leaves the folder.
func inside(name string) (string, error) {
	if path.IsAbs(name) || strings.ContainsRune(name, 0) {
		return "", errors.New("absolute paths are not allowed")
	}
	clean := path.Clean(name)
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", errors.New("it leaves the droplet's folder")
	}
	return clean, nil
}

// linkInside refuses the target of a link in dir that leads out. As dir is a real
// folder and so are those above it, ".." may come first; behind another name,
// which may be a link, it may not.
func linkInside(dir, target string) error {
	named := false
	for part := range strings.SplitSeq(target, "/") {
		if part == ".." && named {
			return errors.New("a link with .. behind a name is not allowed")
		}
		named = named || part != ".." && part != "." && part != ""
	}
	if path.IsAbs(target) {
		return errors.New("a link to an absolute path is not allowed")
	}
	_, err := inside(path.Join(dir, target))
	return err
}
