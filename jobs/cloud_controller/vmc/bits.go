package vmc

import (
	"archive/zip"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
	"github.com/clusterworks/deploy/jobs/cloud_controller/vmc/internal/manifest"
)

// matchFrom is the size of all files, in bytes, from which on the controller is
// asked which of them it has, as the original does it.
const matchFrom = 64 << 10

// ignoreFiles name what is not pushed, in the manner of .gitignore.
var ignoreFiles = []string{".vmcignore", ".cfignore"}

// neverPushed are names that are no part of an app.
var neverPushed = []string{".git/", ".hg/", ".svn/", ".bzr/", ".DS_Store", "*~", "/" + manifest.Name, ".vmcignore", ".cfignore"}

// file is one to be pushed.
type file struct {
	name string // relative, with slashes
	info fs.FileInfo
	sha1 string
}

// upload pushes a folder, a .war or .zip archive, or a single file as an app's
// files, and returns what they are known by.
func (v *vmc) upload(ctx context.Context, c *client.Client, app, source string) (string, error) {
	info, err := os.Stat(source)
	if err != nil {
		return "", fmt.Errorf("cannot push: %w", err)
	}
	folder := source
	if !info.IsDir() {
		work, err := os.MkdirTemp("", "vmc-")
		if err != nil {
			return "", err
		}
		defer os.RemoveAll(work)
		folder = filepath.Join(work, "app")
		if err := explode(source, folder); err != nil {
			return "", fmt.Errorf("cannot push %s: %w", source, err)
		}
	}
	files, skipped, err := scan(folder)
	if err != nil {
		return "", fmt.Errorf("cannot push %s: %w", source, err)
	}
	if len(skipped) > 0 {
		v.say("Not pushed, because they are sockets, pipes or devices: %s", strings.Join(skipped, ", "))
	}
	if len(files) == 0 {
		return "", fmt.Errorf("cannot push %s: there are no files in it, or all of them are ignored", source)
	}
	known, rest, err := match(ctx, c, folder, files)
	if err != nil {
		return "", err
	}
	archive := ""
	if len(rest) > 0 {
		out, err := os.CreateTemp("", "vmc-*.zip")
		if err != nil {
			return "", err
		}
		archive = out.Name()
		defer os.Remove(archive)
		if err := errors.Join(pack(out, folder, rest), out.Close()); err != nil {
			return "", fmt.Errorf("cannot pack %s: %w", source, err)
		}
	}
	return v.send(ctx, c, app, archive, len(files), known)
}

// send uploads with progress.
func (v *vmc) send(ctx context.Context, c *client.Client, app, archive string, files int, known []client.Resource) (string, error) {
	what := fmt.Sprintf("Uploading %s, %d files", app, files)
	if len(known) > 0 {
		what += fmt.Sprintf(", %d known already", len(known))
	}
	var total int64
	if archive != "" {
		info, err := os.Stat(archive)
		if err != nil {
			return "", err
		}
		total = info.Size()
	}
	begin := time.Now()
	_, live := terminal(v.err)
	shown := time.Time{}
	var progress func(int64)
	if live {
		progress = func(sent int64) {
			if now := time.Now(); now.Sub(shown) > 100*time.Millisecond {
				shown = now
				fmt.Fprintf(v.err, "\r%s ... %s of %s", what, size(sent), size(total))
			}
		}
	}
	sha1, err := c.Upload(ctx, app, archive, known, progress)
	if live {
		fmt.Fprint(v.err, "\r\x1b[K")
	}
	if err != nil {
		return "", fmt.Errorf("cannot upload %s: %w", app, err)
	}
	v.say("%s: %s, %.1fs", what, size(total), time.Since(begin).Seconds())
	return sha1, nil
}

// scan lists a folder's files, links and empty folders that are not ignored, and
// the names that cannot be pushed: sockets, pipes and devices.
func scan(folder string) (files []file, skipped []string, err error) {
	ignored, err := readIgnore(folder)
	if err != nil {
		return nil, nil, err
	}
	kept := map[string]bool{} // folders with something in them
	var folders []file
	err = filepath.WalkDir(folder, func(at string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(folder, at)
		if err != nil || name == "." {
			return err
		}
		name = filepath.ToSlash(name)
		if ignored.Match(strings.Split(name, "/"), entry.IsDir()) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if !utf8.ValidString(name) {
			return fmt.Errorf("the name %q is not UTF-8: rename it, or name it in %s", name, ignoreFiles[0])
		}
		switch mode := info.Mode(); {
		case mode.IsDir():
			folders = append(folders, file{name: name + "/", info: info})
			return nil
		case mode.IsRegular(), mode&fs.ModeSymlink != 0:
			files = append(files, file{name: name, info: info})
		default:
			skipped = append(skipped, name) // as git does
			return nil
		}
		for dir := path.Dir(name); dir != "." && !kept[dir]; dir = path.Dir(dir) {
			kept[dir] = true
		}
		return nil
	})
	// An app may rely on a folder in which nothing is yet, tmp/pids or the like. The
	// deepest ones make those above them.
	for _, f := range slices.Backward(folders) {
		name := strings.TrimSuffix(f.name, "/")
		if kept[name] {
			continue
		}
		files = append(files, f)
		for dir := path.Dir(name); dir != "." && !kept[dir]; dir = path.Dir(dir) {
			kept[dir] = true
		}
	}
	return files, skipped, err
}

// match finds out which files the controller has. What can be executed is pushed
// in any case, since the controller knows contents only.
func match(ctx context.Context, c *client.Client, folder string, files []file) (known []client.Resource, rest []file, err error) {
	var total int64
	for _, f := range files {
		total += f.info.Size()
	}
	if total <= matchFrom {
		return nil, files, nil
	}
	asked := []client.Resource{}
	for i, f := range files {
		if !f.info.Mode().IsRegular() || f.info.Mode()&0o111 != 0 {
			continue
		}
		if files[i].sha1, err = digest(filepath.Join(folder, filepath.FromSlash(f.name))); err != nil {
			return nil, nil, err
		}
		asked = append(asked, client.Resource{Size: f.info.Size(), SHA1: files[i].sha1, Name: f.name})
	}
	if known, err = c.MatchResources(ctx, asked); err != nil {
		return nil, nil, fmt.Errorf("cannot ask the cloud which files it has: %w", err)
	}
	names := map[string]bool{}
	for _, resource := range known {
		names[resource.Name] = true
	}
	for _, f := range files {
		if !names[f.name] {
			rest = append(rest, f)
		}
	}
	return known, rest, nil
}

// digest is a file's SHA-1, the name of contents in this API.
func digest(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha1.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// pack writes files of a folder as a zip archive, links as links.
func pack(w io.Writer, folder string, files []file) error {
	archive := zip.NewWriter(w)
	for _, f := range files {
		header, err := zip.FileInfoHeader(f.info)
		if err != nil {
			return err
		}
		header.Name, header.Method = f.name, zip.Deflate
		if f.info.IsDir() {
			header.Method = zip.Store
		}
		out, err := archive.CreateHeader(header)
		if err != nil {
			return err
		}
		if f.info.IsDir() {
			continue
		}
		if err := copyInto(out, filepath.Join(folder, filepath.FromSlash(f.name)), f.info); err != nil {
			return err
		}
	}
	return archive.Close()
}

func copyInto(out io.Writer, name string, info fs.FileInfo) error {
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(name)
		if err == nil {
			_, err = io.WriteString(out, filepath.ToSlash(target))
		}
		return err
	}
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = io.Copy(out, in)
	return err
}

// explode makes a folder of a .war, .zip or .jar that is pushed as its contents,
// or of any other file, which is then alone in it.
func explode(source, folder string) error {
	if err := os.Mkdir(folder, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	if extension := filepath.Ext(source); extension != ".war" && extension != ".zip" {
		info, err := os.Stat(source)
		if err != nil {
			return err
		}
		in, err := os.Open(source)
		if err != nil {
			return err
		}
		defer in.Close()
		return create(root, filepath.Base(source), in, info.Mode())
	}
	archive, err := zip.OpenReader(source)
	if err != nil {
		return err
	}
	defer archive.Close()
	for _, f := range archive.File {
		name := path.Clean(f.Name)
		if !filepath.IsLocal(name) {
			return fmt.Errorf("its entry %q leads outside the archive", f.Name)
		}
		if f.FileInfo().IsDir() {
			if err := root.MkdirAll(name, 0o755); err != nil {
				return err
			}
			continue
		}
		if !f.Mode().IsRegular() && f.Mode()&fs.ModeSymlink == 0 {
			return fmt.Errorf("its entry %q is not a file, folder or link", f.Name)
		}
		if dir := path.Dir(name); dir != "." {
			if err := root.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		in, err := f.Open()
		if err != nil {
			return err
		}
		if f.Mode()&fs.ModeSymlink != 0 {
			err = link(root, name, in)
		} else {
			err = create(root, name, in, f.Mode())
		}
		if err := errors.Join(err, in.Close()); err != nil {
			return err
		}
	}
	return nil
}

// maxLink is the length of the longest target of a link, in bytes.
const maxLink = 4096

// link makes a link of an archive, as npm leaves them in node_modules/.bin. Where
// it leads is for the stager to judge, which refuses those that leave the app;
// nothing here follows it.
func link(root *os.Root, name string, target io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(target, maxLink+1))
	if err != nil {
		return err
	}
	if len(text) > maxLink {
		return fmt.Errorf("its link %q is too long", name)
	}
	return root.Symlink(string(text), name)
}

func create(root *os.Root, name string, in io.Reader, mode fs.FileMode) error {
	out, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode.Perm()|0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
