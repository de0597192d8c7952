package vmc

import (
	"archive/zip"
	"bufio"
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
	"regexp"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

// matchFrom is the size of all files, in bytes, from which on the controller is
// asked which of them it has, as the original does it.
const matchFrom = 64 << 10

// ignoreFiles name what is not pushed, in the manner of .gitignore.
var ignoreFiles = []string{".vmcignore", ".cfignore"}

// neverPushed is nothing of an app.
var neverPushed = []string{".git/", ".hg/", ".svn/", ".bzr/", ".DS_Store", "*~", "/" + manifestFile, ".vmcignore", ".cfignore"}

// file is one to be pushed.
type file struct {
	name string // relative, with slashes
	info fs.FileInfo
	sha1 string
}

// upload pushes a folder, a .war or .zip archive, or a single file as an app's
// files.
func (v *vmc) upload(ctx context.Context, c *client.Client, app, source string) error {
	info, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("cannot push: %w", err)
	}
	folder := source
	if !info.IsDir() {
		work, err := os.MkdirTemp("", "vmc-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(work)
		folder = filepath.Join(work, "app")
		if err := explode(source, folder); err != nil {
			return fmt.Errorf("cannot push %s: %w", source, err)
		}
	}
	files, err := scan(folder)
	if err != nil {
		return fmt.Errorf("cannot push %s: %w", source, err)
	}
	if len(files) == 0 {
		return fmt.Errorf("cannot push %s: there are no files in it, or all of them are ignored", source)
	}
	known, rest, err := match(ctx, c, folder, files)
	if err != nil {
		return err
	}
	archive := ""
	if len(rest) > 0 {
		out, err := os.CreateTemp("", "vmc-*.zip")
		if err != nil {
			return err
		}
		archive = out.Name()
		defer os.Remove(archive)
		if err := errors.Join(pack(out, folder, rest), out.Close()); err != nil {
			return fmt.Errorf("cannot pack %s: %w", source, err)
		}
	}
	return v.send(ctx, c, app, archive, len(files), known)
}

// send uploads with progress.
func (v *vmc) send(ctx context.Context, c *client.Client, app, archive string, files int, known []client.Resource) error {
	what := fmt.Sprintf("Uploading %s, %d files", app, files)
	if len(known) > 0 {
		what += fmt.Sprintf(", %d known already", len(known))
	}
	var total int64
	if archive != "" {
		info, err := os.Stat(archive)
		if err != nil {
			return err
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
	err := c.Upload(ctx, app, archive, known, progress)
	if live {
		fmt.Fprint(v.err, "\r\x1b[K")
	}
	if err != nil {
		return fmt.Errorf("cannot upload %s: %w", app, err)
	}
	v.say("%s: %s, %.1fs", what, size(total), time.Since(begin).Seconds())
	return nil
}

// scan lists a folder's files and links that are not ignored.
func scan(folder string) ([]file, error) {
	rules := ignoreRules(neverPushed)
	for _, name := range ignoreFiles {
		more, err := readIgnore(filepath.Join(folder, name))
		if err != nil {
			return nil, err
		}
		rules = append(rules, more...)
	}
	var files []file
	err := filepath.WalkDir(folder, func(at string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(folder, at)
		if err != nil || name == "." {
			return err
		}
		name = filepath.ToSlash(name)
		if rules.ignore(name, entry.IsDir()) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		switch mode := info.Mode(); {
		case mode.IsDir():
		case mode.IsRegular(), mode&fs.ModeSymlink != 0:
			files = append(files, file{name: name, info: info})
		default:
			return fmt.Errorf("%s is no file, folder or link", name)
		}
		return nil
	})
	return files, err
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
		return nil, nil, fmt.Errorf("cannot ask which files are known: %w", err)
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
		out, err := archive.CreateHeader(header)
		if err != nil {
			return err
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
			return fmt.Errorf("its entry %q lies outside of it", f.Name)
		}
		if f.FileInfo().IsDir() {
			if err := root.MkdirAll(name, 0o755); err != nil {
				return err
			}
			continue
		}
		if !f.Mode().IsRegular() {
			return fmt.Errorf("its entry %q is no file", f.Name)
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
		if err := errors.Join(create(root, name, in, f.Mode()), in.Close()); err != nil {
			return err
		}
	}
	return nil
}

func create(root *os.Root, name string, in io.Reader, mode fs.FileMode) error {
	out, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode.Perm()|0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// ignoreList are rules in the manner of .gitignore: the last one that fits says.
type ignoreList []ignoreRule

type ignoreRule struct {
	pattern    *regexp.Regexp
	folderOnly bool
	keep       bool // "!": not ignored after all
}

func readIgnore(name string) (ignoreList, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []string
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
	}
	return ignoreRules(lines), scanner.Err()
}

func ignoreRules(lines []string) ignoreList {
	var rules ignoreList
	for _, line := range lines {
		// Of names that are no UTF-8, an expression sees the same replacement.
		line = strings.ToValidUTF8(strings.TrimRight(line, " \t\r"), "\uFFFD")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		var rule ignoreRule
		if line, rule.keep = strings.CutPrefix(line, "!"); line == "" {
			continue
		}
		line, rule.folderOnly = strings.CutSuffix(line, "/")
		// A slash within ties the pattern to the root.
		rooted := strings.Contains(line, "/")
		line = strings.TrimPrefix(line, "/")
		expression := globExpression(line)
		if !rooted {
			expression = "(?:.*/)?" + expression
		}
		rule.pattern = regexp.MustCompile("^" + expression + "$")
		rules = append(rules, rule)
	}
	return rules
}

// globExpression is a pattern of names as a regular expression: ** crosses
// folders, * and ? do not.
func globExpression(pattern string) string {
	var b strings.Builder
	for i := 0; i < len(pattern); {
		switch rest := pattern[i:]; {
		case strings.HasPrefix(rest, "**/"):
			b.WriteString("(?:.*/)?")
			i += 3
		case strings.HasPrefix(rest, "**"):
			b.WriteString(".*")
			i += 2
		case rest[0] == '*':
			b.WriteString("[^/]*")
			i++
		case rest[0] == '?':
			b.WriteString("[^/]")
			i++
		case rest[0] == '\\' && len(rest) > 1:
			b.WriteString(regexp.QuoteMeta(rest[1:2]))
			i += 2
		default:
			b.WriteString(regexp.QuoteMeta(rest[:1]))
			i++
		}
	}
	return b.String()
}

func (l ignoreList) ignore(name string, folder bool) bool {
	ignored := false
	for _, rule := range l {
		if (!rule.folderOnly || folder) && rule.pattern.MatchString(name) {
			ignored = !rule.keep
		}
	}
	return ignored
}
