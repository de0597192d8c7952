// Package archive makes an app's package, a zip, of what its owner uploaded and
// of the files that the cloud controller has already. It trusts no byte of the
// upload: nothing of it is ever unpacked to a path that it names.
package archive

import (
	"archive/zip"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	// maxDirectory bounds the bytes that a zip's table of contents is read from,
	// and by that the memory it takes.
	maxDirectory = 16 << 20
	maxName      = 1024 // bytes
	maxLink      = 4096 // bytes of a symbolic link's target
	maxHops      = 40   // symbolic links in one path, as the kernel
)

// emptyMarker is the file that vmc uploads when all files matched.
const emptyMarker = ".__empty__"

// Resource is a file that is not uploaded because the pool has it.
type Resource struct {
	Name string // relative path in the app
	SHA1 string
	Size int64
	Mode fs.FileMode // permission bits; 0: 0644
}

// MissingError says that the pool has no such file (any more).
type MissingError struct{ Resource Resource }

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s (sha1 %s, %d bytes) is not known here, upload it", e.Resource.Name, e.Resource.SHA1, e.Resource.Size)
}

// RefusedError says what is wrong with what was uploaded.
type RefusedError struct{ cause error }

func (e *RefusedError) Error() string { return e.cause.Error() }
func (e *RefusedError) Unwrap() error { return e.cause }

func refuse(format string, args ...any) error { return &RefusedError{fmt.Errorf(format, args...)} }

// Pool are files by their sha1.
type Pool interface {
	// Open finds a file; fs.ErrNotExist if there is none.
	Open(sha1 string, size int64) (io.ReadCloser, error)
	// Add keeps a file. The content is written to the writer that it returns, and
	// kept with Commit, or dropped with Discard.
	Add(size int64) (PoolWriter, error)
}

// PoolWriter takes the content of one file.
type PoolWriter interface {
	io.Writer
	Commit(sha1 string) error
	Discard()
}

var sha1Hex = regexp.MustCompile(`^[0-9a-f]{40}$`)

// entry is one file, folder or link of the package.
type entry struct {
	name     string
	mode     fs.FileMode
	link     string    // target
	file     *zip.File // nil: from the pool, or an implied folder
	resource Resource
}

// Limits bound a package.
type Limits struct {
	Bytes int64 // when unpacked
	Files int
}

// Pack writes the package: the files of the upload (nil: none) and those of the
// pool, within the limits. Uploaded files go into the
// pool. An upload is refused when it names a path outside of the app, by ".."
// or through a link, when it holds anything but files, folders and links, or
// does not hold what it says.
func Pack(w io.Writer, upload io.ReaderAt, uploadSize int64, resources []Resource, pool Pool, limits Limits, now time.Time) error {
	entries, err := list(upload, uploadSize, resources, limits.Files)
	if err != nil {
		return err
	}
	out := zip.NewWriter(w)
	left := limits.Bytes
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		e := entries[name]
		n, err := e.write(out, pool, left, limits.Bytes, now)
		if err != nil {
			return err
		}
		left -= n
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("cannot write the package: %w", err)
	}
	return nil
}

// list reads what the package will hold, by path.
func list(upload io.ReaderAt, uploadSize int64, resources []Resource, maxFiles int) (map[string]entry, error) {
	entries := map[string]entry{}
	if upload != nil {
		directory := &limited{ReaderAt: upload, left: maxDirectory}
		reader, err := zip.NewReader(directory, uploadSize)
		if err != nil {
			return nil, refuse("the upload is not a zip file that can be read: %w", err)
		}
		directory.left = -1 // files are bounded on their own
		if len(reader.File) > maxFiles {
			return nil, refuse("the upload has more than %d files", maxFiles)
		}
		packed := uint64(0)
		for _, f := range reader.File {
			// Files that share their bytes would make the package larger than the upload.
			if packed += f.CompressedSize64; f.CompressedSize64 > uint64(uploadSize) || packed > uint64(uploadSize) {
				return nil, refuse("the upload's files overlap")
			}
			e, err := uploaded(f)
			if err != nil {
				return nil, err
			}
			if e.name == emptyMarker || e.name == "." {
				continue
			}
			if before, ok := entries[e.name]; ok && !(before.mode.IsDir() && e.mode.IsDir()) {
				return nil, refuse("the upload has %q twice", e.name)
			}
			entries[e.name] = e
		}
	}
	if len(resources) > maxFiles {
		return nil, refuse("more than %d resources are named", maxFiles)
	}
	for _, r := range resources {
		name := path.Clean(r.Name)
		if err := checkName(name, r.Name); err != nil {
			return nil, err
		}
		if !sha1Hex.MatchString(r.SHA1) || r.Size < 0 {
			return nil, refuse("the resource %q has no valid sha1 and size", r.Name)
		}
		if _, ok := entries[name]; ok {
			continue // what was uploaded is newer
		}
		mode := r.Mode.Perm()
		if mode == 0 {
			mode = 0o644
		}
		entries[name] = entry{name: name, mode: mode | 0o400, resource: r}
	}
	return entries, check(entries)
}

// uploaded reads the head of one file of the upload.
func uploaded(f *zip.File) (entry, error) {
	name := path.Clean(strings.TrimSuffix(f.Name, "/"))
	if f.Name == "" {
		return entry{}, refuse("the upload has a file without a name")
	}
	e := entry{name: name, mode: f.Mode(), file: f}
	if name != "." {
		if err := checkName(name, f.Name); err != nil {
			return entry{}, err
		}
	}
	if strings.HasSuffix(f.Name, "/") {
		e.mode |= fs.ModeDir
	}
	switch e.mode.Type() {
	case 0, fs.ModeDir:
	case fs.ModeSymlink:
		r, err := f.Open()
		if err != nil {
			return entry{}, refuse("cannot read the link %q: %w", name, err)
		}
		defer r.Close()
		target, err := io.ReadAll(io.LimitReader(r, maxLink+1))
		if err != nil {
			return entry{}, refuse("cannot read the link %q: %w", name, err)
		}
		if len(target) > maxLink || len(target) == 0 {
			return entry{}, refuse("the link %q has no valid target", name)
		}
		e.link = string(target)
	default:
		return entry{}, refuse("%q is neither a file, nor a folder, nor a link", name)
	}
	return e, nil
}

func checkName(name, given string) error {
	if strings.HasPrefix(given, "/") || !fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "\x00") {
		return refuse("%q is not a path inside the app", given)
	}
	if len(name) > maxName {
		return refuse("the path %.40q... is longer than %d bytes", name, maxName)
	}
	return nil
}

// check refuses what lies below something that is no folder, and links that
// lead out.
func check(entries map[string]entry) error {
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if e, ok := entries[dir]; ok && !e.mode.IsDir() {
				return refuse("%q is below %q, which is not a folder", name, dir)
			}
		}
		if e := entries[name]; e.link != "" {
			if err := resolve(entries, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// resolve follows a link as the kernel does. A path may be lexically inside and
// yet lead out, through another link.
func resolve(entries map[string]entry, name string) error {
	var at []string // folder reached
	rest := strings.Split(name, "/")
	for hops := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return refuse("the link %q leads out of the app", name)
			}
			at = at[:len(at)-1]
			continue
		}
		at = append(at, part)
		e := entries[strings.Join(at, "/")]
		if e.link == "" {
			continue
		}
		if hops++; hops > maxHops {
			return refuse("the link %q leads in circles", name)
		}
		if strings.HasPrefix(e.link, "/") {
			return refuse("the link %q leads out of the app", name)
		}
		at = at[:len(at)-1]
		rest = append(strings.Split(e.link, "/"), rest...)
	}
	return nil
}

// write adds the entry to the package and returns its size when unpacked.
func (e entry) write(out *zip.Writer, pool Pool, left, maxBytes int64, now time.Time) (int64, error) {
	header := &zip.FileHeader{Name: e.name, Method: zip.Deflate, Modified: now}
	header.SetMode(e.mode & (fs.ModePerm | fs.ModeType))
	if e.file != nil && !e.file.Modified.IsZero() {
		header.Modified = e.file.Modified.UTC()
	}
	switch {
	case e.mode.IsDir():
		header.Name, header.Method = e.name+"/", zip.Store
		_, err := out.CreateHeader(header)
		return 0, packError(err)
	case e.link != "":
		w, err := out.CreateHeader(header)
		if err == nil {
			_, err = io.WriteString(w, e.link)
		}
		return int64(len(e.link)), packError(err)
	case e.file != nil:
		return e.copyUploaded(out, header, pool, left, maxBytes)
	}
	r, err := pool.Open(e.resource.SHA1, e.resource.Size)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, &MissingError{Resource: e.resource}
	}
	if err != nil {
		return 0, packError(err)
	}
	defer r.Close()
	w, err := out.CreateHeader(header)
	if err != nil {
		return 0, packError(err)
	}
	hash := sha1.New()
	n, err := io.Copy(io.MultiWriter(w, hash), io.LimitReader(r, left+1))
	if err != nil {
		return 0, packError(err)
	}
	if n > left {
		return 0, tooLarge(maxBytes)
	}
	if hex.EncodeToString(hash.Sum(nil)) != e.resource.SHA1 {
		return 0, &MissingError{Resource: e.resource} // the disk has lost what it was given
	}
	return n, nil
}

// copyUploaded checks a file by reading all of it, keeps it in the pool, and
// takes it over as it is packed.
func (e entry) copyUploaded(out *zip.Writer, header *zip.FileHeader, pool Pool, left, maxBytes int64) (n int64, err error) {
	r, err := e.file.Open()
	if err != nil {
		return 0, refuse("cannot read %q of the upload: %w", e.name, err)
	}
	defer r.Close()
	kept, err := pool.Add(int64(min(e.file.UncompressedSize64, 1<<62)))
	if err != nil {
		return 0, packError(err)
	}
	defer kept.Discard()
	hash, sum := sha1.New(), crc32.NewIEEE()
	n, err = io.Copy(io.MultiWriter(hash, sum, kept), io.LimitReader(r, left+1))
	if err != nil {
		return 0, refuse("cannot read %q of the upload: %w", e.name, err)
	}
	if n > left {
		return 0, tooLarge(maxBytes)
	}
	if err := kept.Commit(hex.EncodeToString(hash.Sum(nil))); err != nil {
		return 0, packError(err)
	}
	header.Method = e.file.Method
	header.CRC32 = sum.Sum32()
	header.CompressedSize64, header.UncompressedSize64 = e.file.CompressedSize64, uint64(n)
	raw, err := e.file.OpenRaw()
	if err != nil {
		return 0, refuse("cannot read %q of the upload: %w", e.name, err)
	}
	w, err := out.CreateRaw(header)
	if err == nil {
		_, err = io.CopyN(w, raw, int64(header.CompressedSize64))
	}
	return n, packError(err)
}

func tooLarge(maxBytes int64) error {
	return refuse("the app is larger than %d MiB when unpacked", maxBytes>>20)
}

func packError(err error) error {
	if err != nil {
		return fmt.Errorf("cannot write the package: %w", err)
	}
	return nil
}

// limited fails when more than left bytes are read; below 0: never.
type limited struct {
	io.ReaderAt
	left int64
}

func (l *limited) ReadAt(p []byte, offset int64) (int, error) {
	if l.left >= 0 {
		if l.left = l.left - int64(len(p)); l.left < 0 {
			l.left = 0
			return 0, errors.New("its table of contents is too large")
		}
	}
	return l.ReaderAt.ReadAt(p, offset)
}
