// Package unpack writes the files of an archive that nobody has vouched for to a
// folder. Nothing of an archive lands outside of the folder or leads there.
//
// TarGz and Zip share one set of rules. They refuse, and name the entry:
//
//   - a name that is absolute, leaves the folder, holds a NUL or is longer than
//     MaxName;
//   - a symbolic link that leads outside, also by way of other links, and a hard
//     link to anything but a file of the archive;
//   - an entry that is neither file, folder nor link (devices, pipes, sockets);
//   - a name that comes twice, unless both are folders, and an entry below what
//     is no folder;
//   - more bytes or entries than Options allows, whatever the archive says of
//     its own size.
//
// An error leaves a part of the archive in the folder; the caller removes it.
package unpack

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// The limits that hold for every archive.
const (
	// MaxEntries is the number of files, folders and links unless Options sets
	// another.
	MaxEntries = 200_000
	// MaxName is the length of an entry's path, and of a link's target, in bytes.
	MaxName = 1024
	// maxDirectory is the number of bytes that a zip's table of contents is read
	// from. It bounds the memory that the table takes.
	maxDirectory = 16 << 20
	// slack is the number of bytes that the headers of a tar may take beside twice Options.Bytes.
	slack = 64 << 20
)

// Options says how an archive is unpacked.
type Options struct {
	// Bytes is the size that all files together may have.
	Bytes int64
	// Entries is the number of entries that the archive may have; 0: MaxEntries.
	Entries int
	// Public lets everybody read all files and start those that anybody may start,
	// and nobody but the owner write. Without it permissions are the archive's.
	// The owner may always read a file and use a folder; set-user-id, set-group-id
	// and sticky bits are never set.
	Public bool
	// UID and GID own everything, the folder itself included; UID 0: whoever runs
	// this process does.
	UID, GID int
	// Sync writes each file through to the disk.
	Sync bool
}

// TarGz unpacks a gzip-compressed tar into dir, which exists and is empty. It
// reads to the end of the stream, where the checksum is.
func TarGz(ctx context.Context, in io.Reader, dir string, o Options) error {
	unzipped, err := gzip.NewReader(bufio.NewReaderSize(in, 64<<10))
	if err != nil {
		return fmt.Errorf("it is not a gzip file: %w", err)
	}
	u, err := start(ctx, dir, o)
	if err != nil {
		return err
	}
	defer u.root.Close()
	stream := &bounded{ctx: ctx, r: unzipped, left: 2*o.Bytes + slack, err: errors.New("it unpacks to far more than is allowed")}
	archive := tar.NewReader(stream)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("it is not a whole tar file: %w", err)
		}
		if err := u.count(); err != nil {
			return err
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := u.tarEntry(header, archive); err != nil {
			return u.ofEntry(header.Name, err)
		}
	}
	if _, err := io.Copy(io.Discard, stream); err != nil {
		return fmt.Errorf("it is not a whole gzip file: %w", err)
	}
	return u.finish()
}

// Zip unpacks a zip file into dir, which exists and is empty. Files keep their
// time of modification.
func Zip(ctx context.Context, file, dir string, o Options) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	directory := &boundedAt{ReaderAt: in, left: maxDirectory}
	archive, err := zip.NewReader(directory, info.Size())
	if err != nil {
		return fmt.Errorf("it is no zip archive: %w", err)
	}
	directory.left = -1 // files have limits of their own
	u, err := start(ctx, dir, o)
	if err != nil {
		return err
	}
	defer u.root.Close()
	for _, f := range archive.File {
		if err := u.count(); err != nil {
			return err
		}
		if err := u.zipEntry(f); err != nil {
			return u.ofEntry(f.Name, err)
		}
	}
	return u.finish()
}

// unpacker unpacks one archive.
type unpacker struct {
	ctx     context.Context
	root    *os.Root
	options Options
	left    int64 // bytes
	entries int
	folders []string // in the order in which they were made
	modes   map[string]fs.FileMode
	// links are made last: until then every folder is a real one, so nothing is
	// written through a link.
	links   []string
	targets map[string]string
}

func start(ctx context.Context, dir string, o Options) (*unpacker, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	if o.Entries == 0 {
		o.Entries = MaxEntries
	}
	return &unpacker{ctx: ctx, root: root, options: o, left: o.Bytes, modes: map[string]fs.FileMode{}, targets: map[string]string{}}, nil
}

func (u *unpacker) count() error {
	if u.entries++; u.entries > u.options.Entries {
		return fmt.Errorf("it has more than the %d entries that are allowed", u.options.Entries)
	}
	if u.ctx.Err() != nil {
		return context.Cause(u.ctx)
	}
	return nil
}

func (u *unpacker) tarEntry(h *tar.Header, content io.Reader) error {
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	mode := h.FileInfo().Mode()
	switch h.Typeflag {
	case tar.TypeDir:
		return u.folder(name, mode)
	case tar.TypeReg:
		return u.file(name, mode, time.Time{}, content)
	case tar.TypeSymlink:
		return u.link(name, h.Linkname)
	case tar.TypeLink:
		return u.hardLink(name, h.Linkname)
	}
	return fmt.Errorf("is neither file, folder nor link, but of type %q", h.Typeflag)
}

func (u *unpacker) zipEntry(f *zip.File) error {
	name, err := inside(f.Name)
	if err != nil {
		return err
	}
	mode := f.Mode()
	if mode.IsDir() {
		return u.folder(name, mode)
	}
	if !mode.IsRegular() && mode.Type() != fs.ModeSymlink {
		return fmt.Errorf("is neither file, folder nor link, but %s", mode.Type())
	}
	content, err := f.Open()
	if err != nil {
		return fmt.Errorf("cannot be read: %w", err)
	}
	defer content.Close()
	if mode.Type() == fs.ModeSymlink {
		target, err := io.ReadAll(io.LimitReader(content, MaxName+1))
		if err != nil {
			return fmt.Errorf("cannot be read: %w", err)
		}
		return u.link(name, string(target))
	}
	// The size in the header may be wrong: what is unpacked counts.
	return u.file(name, mode, f.Modified, content)
}

// folder makes a folder, or notes the mode of one that is there.
func (u *unpacker) folder(name string, mode fs.FileMode) error {
	if err := u.parents(path.Join(name, "x")); err != nil {
		return err
	}
	if u.options.Public {
		mode = 0o755
	}
	u.modes[name] = mode.Perm() | 0o700
	return nil
}

// parents makes the folders above an entry that the archive has not listed.
func (u *unpacker) parents(name string) error {
	made := ""
	for part := range strings.SplitSeq(path.Dir(name), "/") {
		made = path.Join(made, part)
		if _, ok := u.modes[made]; ok || made == "." {
			continue
		}
		if err := u.root.Mkdir(made, 0o700); errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("is below %q, which exists and is not a folder", made)
		} else if err != nil {
			return unwritten(err)
		}
		u.modes[made] = 0o755
		u.folders = append(u.folders, made)
	}
	return nil
}

// file writes a file and gives it its owner, mode and, if it has one, time.
func (u *unpacker) file(name string, mode fs.FileMode, modified time.Time, content io.Reader) error {
	if err := u.parents(name); err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return unwritten(err)
	}
	defer f.Close()
	n, err := io.Copy(f, &bounded{ctx: u.ctx, r: content, left: u.left, err: errTooLarge})
	if u.left -= n; err != nil {
		return unwritten(err)
	}
	if u.options.Public {
		startable := mode & 0o111
		if mode = 0o644; startable != 0 {
			mode = 0o755
		}
	}
	err = f.Chmod(mode.Perm() | 0o400)
	if err == nil && u.options.UID != 0 {
		err = f.Chown(u.options.UID, u.options.GID)
	}
	if err == nil && !modified.IsZero() {
		err = u.root.Chtimes(name, modified, modified)
	}
	if err == nil && u.options.Sync {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return unwritten(err)
	}
	return nil
}

// link notes a symbolic link, which finish makes.
func (u *unpacker) link(name, target string) error {
	if len(target) == 0 || len(target) > MaxName || strings.ContainsRune(target, 0) {
		return errors.New("is a link without a sensible target")
	}
	if path.IsAbs(target) || !filepath.IsLocal(path.Join(path.Dir(name), target)) {
		return outside(target)
	}
	if _, twice := u.targets[name]; twice {
		return errors.New("is a link that exists twice")
	}
	u.targets[name] = target
	u.links = append(u.links, name)
	return u.parents(name)
}

func (u *unpacker) hardLink(name, target string) error {
	of, err := inside(target)
	if err != nil {
		return outside(target)
	}
	if info, err := u.root.Lstat(of); err != nil {
		return fmt.Errorf("is a hard link to %q, no file before it in the archive: %w", target, err)
	} else if !info.Mode().IsRegular() {
		return fmt.Errorf("is a hard link to %q, which is no file", target)
	}
	if err := u.parents(name); err != nil {
		return err
	}
	if err := u.root.Link(of, name); err != nil {
		return unwritten(err)
	}
	return nil
}

// finish makes the links and gives the folders their modes, inner ones first: one
// that is read-only must be filled before.
func (u *unpacker) finish() error {
	for _, name := range u.links {
		err := u.root.Symlink(u.targets[name], name)
		if err == nil && u.options.UID != 0 {
			err = u.root.Lchown(name, u.options.UID, u.options.GID)
		}
		if err != nil {
			return u.ofEntry(name, unwritten(err))
		}
	}
	for _, name := range u.links {
		if err := CheckLink(u.root, name, u.targets[name]); err != nil {
			return u.ofEntry(name, err)
		}
	}
	for n := len(u.folders) - 1; n >= -1; n-- {
		name := "."
		if n >= 0 {
			name = u.folders[n]
		}
		if u.options.UID != 0 {
			if err := u.root.Lchown(name, u.options.UID, u.options.GID); err != nil {
				return err
			}
		}
		if mode, ok := u.modes[name]; ok {
			if err := u.root.Chmod(name, mode); err != nil {
				return err
			}
		}
	}
	return nil
}

// inside returns an entry's name without what does not matter in it.
func inside(name string) (string, error) {
	if len(name) > MaxName {
		return "", fmt.Errorf("has a name of more than %d bytes", MaxName)
	}
	if strings.ContainsRune(name, 0) {
		return "", errors.New("is outside the archive's folder: its name holds a NUL")
	}
	clean := path.Clean(name)
	if name == "/" { // as some programs call the folder itself
		clean = "."
	}
	if !filepath.IsLocal(clean) {
		return "", errors.New("is outside the archive's folder")
	}
	return clean, nil
}

func outside(target string) error {
	return fmt.Errorf("is a link to %q, outside the archive's folder", target)
}

// CheckLink returns an error if the symbolic link called name below root leads
// out of root. It follows the link as the kernel would. A target that does not
// exist is allowed, as long as its path alone does not lead out.
func CheckLink(root *os.Root, name, target string) error {
	if path.IsAbs(target) || !filepath.IsLocal(path.Join(path.Dir(name), target)) {
		return outside(target)
	}
	if _, err := root.Stat(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(outside(target), err)
	}
	return nil
}

// ofEntry adds the entry's name to an error.
func (u *unpacker) ofEntry(name string, err error) error {
	if !errors.Is(err, errTooLarge) {
		return fmt.Errorf("its entry %q %w", name, err)
	}
	if u.options.Bytes < 1<<20 {
		return fmt.Errorf("unpacked it is larger than the %d bytes that are allowed", u.options.Bytes)
	}
	return fmt.Errorf("unpacked it is larger than the %d MB that are allowed", u.options.Bytes>>20)
}

func unwritten(err error) error { return fmt.Errorf("cannot be unpacked: %w", err) }

var errTooLarge = errors.New("the archive is too large")

// bounded fails with err once more than left bytes are read, and with the cause
// of ctx once that is done.
type bounded struct {
	ctx  context.Context
	r    io.Reader
	left int64
	err  error
}

func (b *bounded) Read(p []byte) (int, error) {
	switch {
	case b.ctx.Err() != nil:
		return 0, context.Cause(b.ctx)
	case b.left < 0:
		return 0, b.err
	}
	// One byte more than is left tells an end from too much.
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n - 1, b.err
	}
	return n, err
}

// boundedAt fails once more than left bytes are read, unless left is -1.
type boundedAt struct {
	io.ReaderAt
	left int64
}

func (b *boundedAt) ReadAt(p []byte, off int64) (int, error) {
	if b.left >= 0 {
		if int64(len(p)) > b.left {
			return 0, errors.New("its table of contents is too large")
		}
		b.left -= int64(len(p))
	}
	return b.ReaderAt.ReadAt(p, off)
}
