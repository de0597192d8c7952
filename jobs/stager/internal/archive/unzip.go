// Package archive unpacks apps and packs droplets. What is in an app's archive
// was written by whoever: nothing of it may land, or lead, outside its folder.
package archive

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Limits bound what is unpacked.
type Limits struct {
	Bytes   int64 // of all files together
	Entries int
}

// linkLimit is the longest target of a symbolic link.
const linkLimit = 4096

// Unzip unpacks a zip file into an existing empty folder. It refuses, naming the
// entry, what would lie or lead outside of it, what is neither file, folder nor
// link, and what exceeds the limits, whatever the archive's own figures say.
func Unzip(file, folder string, limits Limits) error {
	r, err := zip.OpenReader(file)
	if err != nil {
		return fmt.Errorf("it is no zip archive: %w", err)
	}
	defer r.Close()
	if len(r.File) > limits.Entries {
		return fmt.Errorf("it has %d entries, more than the %d that are allowed", len(r.File), limits.Entries)
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()

	left := limits.Bytes
	links := map[string]string{} // name to target
	for _, f := range r.File {
		name := strings.TrimSuffix(f.Name, "/")
		if name == "." || name == "" && f.FileInfo().IsDir() {
			continue
		}
		if !filepath.IsLocal(name) || strings.ContainsRune(name, 0) {
			return fmt.Errorf("its entry %q is outside the app's folder", f.Name)
		}
		name = path.Clean(name)
		if err := unzipOne(root, f, name, &left, links); err != nil {
			if left < 0 {
				return fmt.Errorf("unpacked it is larger than the %d MB that are allowed", limits.Bytes>>20)
			}
			return fmt.Errorf("its entry %q: %w", f.Name, err)
		}
	}
	// Links come last, so that nothing is written through one.
	for name, target := range links {
		if err := makeParent(root, name); err != nil {
			return fmt.Errorf("its entry %q: %w", name, err)
		}
		if err := root.Symlink(target, name); err != nil {
			return fmt.Errorf("its entry %q: %w", name, err)
		}
	}
	for name, target := range links {
		if err := staysInside(root, name, target); err != nil {
			return fmt.Errorf("its entry %q: %w", name, err)
		}
	}
	return nil
}

func unzipOne(root *os.Root, f *zip.File, name string, left *int64, links map[string]string) error {
	mode := f.Mode()
	switch {
	case mode.IsDir():
		return root.MkdirAll(name, 0o755)
	case mode&fs.ModeSymlink != 0:
		target, err := readLink(f)
		if err != nil {
			return err
		}
		if _, known := links[name]; known {
			return errors.New("it is there twice")
		}
		links[name] = target
		return nil
	case !mode.IsRegular():
		return fmt.Errorf("it is no file, folder or link but %s", mode.Type())
	}
	if err := makeParent(root, name); err != nil {
		return err
	}
	// Others may read what is in an app: the user that runs it is not this one.
	perm := mode.Perm()&0o755 | 0o644
	if mode.Perm()&0o111 != 0 {
		perm |= 0o111
	}
	in, err := f.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(in, *left+1))
	*left -= n
	if *left < 0 {
		err = errors.Join(err, errors.New("too large"))
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	if f.Modified.IsZero() {
		return nil
	}
	return root.Chtimes(name, f.Modified, f.Modified)
}

func readLink(f *zip.File) (string, error) {
	in, err := f.Open()
	if err != nil {
		return "", err
	}
	defer in.Close()
	target, err := io.ReadAll(io.LimitReader(in, linkLimit+1))
	switch {
	case err != nil:
		return "", err
	case len(target) == 0 || len(target) > linkLimit:
		return "", errors.New("it is a link without a sensible target")
	}
	return string(target), nil
}

func makeParent(root *os.Root, name string) error {
	parent := path.Dir(name)
	if parent == "." {
		return nil
	}
	return root.MkdirAll(parent, 0o755)
}

// staysInside follows a link as the kernel would: os.Root refuses to leave. That
// the target is missing is allowed, as long as its path alone does not lead out.
func staysInside(root *os.Root, name, target string) error {
	leads := fmt.Errorf("it is a link to %q, outside the app's folder", target)
	if filepath.IsAbs(target) || !filepath.IsLocal(path.Join(path.Dir(name), target)) {
		return leads
	}
	if _, err := root.Stat(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(leads, err)
	}
	return nil
}
