// Package stemcells brings the images that a manifest pins to where the engine finds
// them: a folder of the deployment's with a file for each digest. What is in it was
// compared with its digest, and stays as long as somebody may boot it.
//
// Start reading at Store.Check (before a plan) and Store.Ensure (before VMs are made).
package stemcells

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/clusterworks/deploy/manifests"
)

// silenceLimit is the time that a download may bring nothing.
const silenceLimit = time.Minute

// reference begins what a VM's image is called if it is a stemcell: the name of its
// file follows, whatever folder that is in.
const reference = "sha256:"

// Store describes where a deployment's stemcells are.
type Store struct {
	Dir  string // a folder of the deployment's state
	Base string // the manifest's folder, where paths begin
}

var fileName = regexp.MustCompile(`^[0-9a-f]{64}(\.[a-z0-9]{1,8})?$`)

// Reference returns how the inputs of a VM name a stemcell: by its digest.
func Reference(s *manifests.Stemcell) string { return reference + name(s) }

// name is the stemcell's file in the store. How it ends says the format.
func name(s *manifests.Stemcell) string {
	source := s.Path
	if source == "" {
		source, _, _ = strings.Cut(s.URL, "?")
	}
	if n := s.SHA256 + strings.ToLower(filepath.Ext(source)); fileName.MatchString(n) {
		return n
	}
	return s.SHA256
}

// Image returns what a template gets for a VM's image: the file, if it is a
// reference to a stemcell, else the image as it is.
func (s Store) Image(image string) string {
	if n, ok := strings.CutPrefix(image, reference); ok && fileName.MatchString(n) {
		return filepath.Join(s.Dir, n)
	}
	return image
}

// Refer undoes Image.
func (s Store) Refer(image string) string {
	if dir, n := filepath.Split(image); filepath.Clean(dir) == filepath.Clean(s.Dir) && fileName.MatchString(n) {
		return reference + n
	}
	return image
}

// Check reports whether a stemcell can be had: it is here already, or its file on
// this machine is what the manifest says. One that must be fetched is not looked at.
// It changes nothing.
func (s Store) Check(x *manifests.Stemcell) error {
	if _, err := os.Stat(filepath.Join(s.Dir, name(x))); err == nil || x.URL != "" {
		return nil
	}
	f, err := s.open(x)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	digest, err := digestOf(f)
	if err != nil {
		return problem(x.SourceRange, "Cannot read stemcell", "Stemcell %q: %v.", x.Name, err)
	}
	return compare(x, digest)
}

// Ensure has a stemcell in the store, and returns its file. A copy that is damaged
// is made anew.
func (s Store) Ensure(ctx context.Context, x *manifests.Stemcell) (string, error) {
	target := filepath.Join(s.Dir, name(x))
	if f, err := os.Open(target); err == nil {
		digest, err := digestOf(f)
		_ = f.Close()
		if err == nil && digest == x.SHA256 {
			return target, nil
		}
	}
	var in io.ReadCloser
	var err error
	if x.URL != "" {
		in, err = fetch(ctx, x)
	} else {
		in, err = s.open(x)
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = in.Close() }()
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return "", fmt.Errorf("cannot keep stemcell %s: %w", x, err)
	}
	out, err := os.CreateTemp(s.Dir, ".incoming-")
	if err != nil {
		return "", fmt.Errorf("cannot keep stemcell %s: %w", x, err)
	}
	defer func() {
		_ = out.Close()
		_ = os.Remove(out.Name()) // unless it was renamed
	}()
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(out, hash), in); err != nil {
		return "", problem(x.SourceRange, "Cannot read stemcell", "Stemcell %q could not be copied to %s: %v. See that the disk has room and apply again.", x.Name, s.Dir, err)
	}
	if err := compare(x, hex.EncodeToString(hash.Sum(nil))); err != nil {
		return "", err
	}
	// libvirt and others that read it may be another user's.
	err = errors.Join(out.Chmod(0o444), out.Sync(), out.Close())
	if err == nil {
		err = os.Rename(out.Name(), target)
	}
	if err != nil {
		return "", fmt.Errorf("cannot keep stemcell %s: %w", x, err)
	}
	return target, nil
}

// Keep removes the files of the store whose digest is not needed any more.
func (s Store) Keep(needed func(digest string) bool) error {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot look for old stemcells: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if n := e.Name(); !fileName.MatchString(n) && !strings.HasPrefix(n, ".incoming-") || fileName.MatchString(n) && needed(n[:64]) {
			continue
		}
		if err := os.Remove(filepath.Join(s.Dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("cannot remove an old stemcell: %w", err))
		}
	}
	return errors.Join(errs...)
}

// open opens a stemcell's file on this machine.
func (s Store) open(x *manifests.Stemcell) (*os.File, error) {
	path := filepath.FromSlash(x.Path)
	if rest, ok := strings.CutPrefix(x.Path, "~/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("cannot find stemcell %s: %w", x, err)
		}
		path = filepath.Join(home, rest)
	} else if !filepath.IsAbs(path) {
		path = filepath.Join(s.Base, path)
	}
	f, err := os.Open(path)
	if err == nil {
		var info fs.FileInfo
		if info, err = f.Stat(); err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s is not a file", path)
		}
		if err != nil {
			_ = f.Close()
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, problem(x.SourceRange, "Stemcell not found", "Stemcell %q: there is no file %s. Build one with make stemcell, which prints its path, or correct this.", x.Name, path)
	}
	if err != nil {
		return nil, problem(x.SourceRange, "Cannot read stemcell", "Stemcell %q: %v.", x.Name, err)
	}
	return f, nil
}

func digestOf(r io.Reader) (string, error) {
	hash := sha256.New()
	_, err := io.Copy(hash, r)
	return hex.EncodeToString(hash.Sum(nil)), err
}

func compare(x *manifests.Stemcell, digest string) error {
	if digest == x.SHA256 {
		return nil
	}
	source := x.Path
	if source == "" {
		source = x.URL
	}
	return problem(x.SHA256Range, "Another stemcell than was pinned",
		"%s has the sha256 %s, not this one. If that image is wanted, put its digest and version here, and its VMs are replaced; else get the right file. Nothing was changed.", source, digest)
}

// fetch begins to download a stemcell. What is read of it fails if nothing arrives
// for a while.
func fetch(ctx context.Context, x *manifests.Stemcell) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	watch := time.AfterFunc(silenceLimit, func() { cancel(fmt.Errorf("nothing arrived for %s", silenceLimit)) })
	fail := func(err error) error {
		watch.Stop()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return problem(x.SourceRange, "Cannot fetch stemcell", "Stemcell %q: %v. Nothing was changed; correct the url, or fetch it by hand and name the file (path).", x.Name, err)
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, x.URL, nil)
	if err != nil {
		return nil, fail(err)
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, fail(err)
	}
	if r.StatusCode != http.StatusOK {
		_ = r.Body.Close()
		return nil, fail(fmt.Errorf("%s answers %s", x.URL, r.Status))
	}
	watch.Reset(silenceLimit)
	return &download{body: r.Body, watch: watch, ctx: ctx, cancel: cancel}, nil
}

// download is a body that may not be silent for long.
type download struct {
	body   io.ReadCloser
	watch  *time.Timer
	ctx    context.Context // to learn why it was ended
	cancel context.CancelCauseFunc
}

// Read implements io.Reader.
func (d *download) Read(p []byte) (int, error) {
	n, err := d.body.Read(p)
	if n > 0 {
		d.watch.Reset(silenceLimit)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := context.Cause(d.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

// Close implements io.Closer.
func (d *download) Close() error {
	d.watch.Stop()
	d.cancel(nil)
	return d.body.Close()
}

// problem is an error with its place in the manifest.
func problem(at hcl.Range, summary, format string, args ...any) error {
	return Problem{&hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...), Subject: &at}}
}

// Problem is a stemcell that cannot be used, with the place that says it.
type Problem struct{ Diagnostic *hcl.Diagnostic }

// Error implements error.
func (p Problem) Error() string {
	return fmt.Sprintf("%s:%d: %s: %s", p.Diagnostic.Subject.Filename, p.Diagnostic.Subject.Start.Line, p.Diagnostic.Summary, p.Diagnostic.Detail)
}
