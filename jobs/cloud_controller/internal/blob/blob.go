// Package blob keeps apps' packages, their droplets, and single files by their
// sha1, in folders: on a disk of this controller, or shared by all of them.
package blob

import (
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/archive"
)

// Kind describes what a blob is of an app.
type Kind string

// The kinds, as their folders are called.
const (
	Package Kind = "app"     // what was uploaded, a zip
	Droplet Kind = "droplet" // what was staged, a tar.gz
)

func (k Kind) extension() string {
	if k == Package {
		return ".zip"
	}
	return ".tgz"
}

// Blob names one.
type Blob struct {
	Kind Kind
	App  int64
	SHA1 string
}

var sha1Hex = regexp.MustCompile(`^[0-9a-f]{40}$`)

// Validate says why there can be no such blob. It is for names from outside.
func (b Blob) Validate() error {
	if b.Kind != Package && b.Kind != Droplet || b.App < 1 || !sha1Hex.MatchString(b.SHA1) {
		return errors.New("no such blob can exist")
	}
	return nil
}

// Store is the folders. Several controllers may use the same ones.
type Store struct {
	droplets, resources, temporary string
}

// Open makes the folders.
func Open(droplets, resources, temporary string) (*Store, error) {
	s := &Store{droplets: droplets, resources: resources, temporary: temporary}
	for _, folder := range []string{droplets, resources, temporary} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return nil, fmt.Errorf("cannot keep apps: %w", err)
		}
	}
	return s, nil
}

// Path returns where a blob lies, or would. It is told to DEAs, which may share the
// folder.
func (s *Store) Path(b Blob) string {
	return filepath.Join(s.droplets, fmt.Sprintf("%s_%d", b.Kind, b.App), b.SHA1+b.Kind.extension())
}

// Has says whether a blob is here.
func (s *Store) Has(b Blob) bool {
	_, err := os.Stat(s.Path(b))
	return err == nil
}

// Get opens a blob; fs.ErrNotExist if it is not here.
func (s *Store) Get(b Blob) (*os.File, error) {
	if err := b.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	}
	return os.Open(s.Path(b))
}

// Put keeps what write writes as a blob of an app, and returns its name. It is on
// the disk then.
func (s *Store) Put(kind Kind, app int64, write func(io.Writer) error) (Blob, error) {
	b := Blob{Kind: kind, App: app}
	folder := filepath.Dir(s.Path(b))
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return Blob{}, fmt.Errorf("cannot keep a %s of app %d: %w", kind, app, err)
	}
	f, err := os.CreateTemp(folder, ".incoming-*")
	if err != nil {
		return Blob{}, fmt.Errorf("cannot keep a %s of app %d: %w", kind, app, err)
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	defer f.Close()
	hash := sha1.New()
	if err := write(io.MultiWriter(f, hash)); err != nil {
		return Blob{}, err
	}
	b.SHA1 = hex.EncodeToString(hash.Sum(nil))
	// DEAs may read a shared folder as another user.
	err = errors.Join(f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.Path(b))
	}
	if err == nil {
		err = syncFolder(folder)
	}
	if err != nil {
		return Blob{}, fmt.Errorf("cannot keep a %s of app %d: %w", kind, app, err)
	}
	return b, nil
}

// ErrWrongSum says that a blob is not what it was said to be.
var ErrWrongSum = errors.New("the sha1 is another one")

// PutExpected keeps what is read as that very blob; ErrWrongSum if it is not.
func (s *Store) PutExpected(b Blob, r io.Reader) error {
	if err := b.Validate(); err != nil {
		return err
	}
	_, err := s.Put(b.Kind, b.App, func(w io.Writer) error {
		hash := sha1.New()
		if _, err := io.Copy(io.MultiWriter(w, hash), r); err != nil {
			return fmt.Errorf("cannot read a %s of app %d: %w", b.Kind, b.App, err)
		}
		if sum := hex.EncodeToString(hash.Sum(nil)); sum != b.SHA1 {
			return fmt.Errorf("cannot keep a %s of app %d: %w: want %s, have %s", b.Kind, b.App, ErrWrongSum, b.SHA1, sum)
		}
		return nil
	})
	return err
}

// keptUnnamed is the number of blobs of an app that Sweep leaves there although they are not
// kept: what was uploaded last is named a moment later, and who uploads again and again
// must not fill the disk.
const keptUnnamed = 8

// Sweep removes blobs that keep does not want, but for the newest of each app that
// were changed since a time, and what an interrupted upload left behind.
func (s *Store) Sweep(before time.Time, keep func(Blob) bool) error {
	folders, err := os.ReadDir(s.droplets)
	if err != nil {
		return fmt.Errorf("cannot sweep: %w", err)
	}
	var problems []error
	for _, folder := range folders {
		kind, id, ok := strings.Cut(folder.Name(), "_")
		app, err := strconv.ParseInt(id, 10, 64)
		if !ok || err != nil || !folder.IsDir() {
			continue
		}
		dir := filepath.Join(s.droplets, folder.Name())
		files, err := os.ReadDir(dir)
		problems = append(problems, err)
		var unnamed []fs.FileInfo
		for _, file := range files {
			info, err := file.Info()
			if err != nil {
				continue
			}
			b := Blob{Kind: Kind(kind), App: app, SHA1: strings.TrimSuffix(file.Name(), Kind(kind).extension())}
			switch {
			case b.Validate() == nil && !keep(b):
				unnamed = append(unnamed, info)
			case b.Validate() != nil && info.ModTime().Before(before):
				problems = append(problems, os.Remove(filepath.Join(dir, file.Name())))
			}
		}
		slices.SortFunc(unnamed, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
		for i, info := range unnamed {
			if i >= keptUnnamed || info.ModTime().Before(before) {
				problems = append(problems, os.Remove(filepath.Join(dir, info.Name())))
			}
		}
		if info, err := folder.Info(); err == nil && info.ModTime().Before(before) {
			_ = os.Remove(dir) // fails unless it is empty
		}
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("cannot sweep: %w", err)
	}
	return nil
}

// Temporary makes a file that is gone when it is closed.
func (s *Store) Temporary() (*os.File, error) {
	f, err := os.CreateTemp(s.temporary, "upload-*")
	if err != nil {
		return nil, fmt.Errorf("cannot take an upload: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot take an upload: %w", err)
	}
	return f, nil
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// MinResource is the size of the smallest file that a pool keeps, in bytes, as in
// later versions of Cloud Foundry: it costs little to upload a smaller one again,
// and its content could be guessed.
const MinResource = 64 << 10

// Pool has the files of one owner by their sha1, so that they need not be uploaded
// again. Nobody else's uploads can refer to them. It implements archive.Pool.
type Pool struct {
	store *Store
	owner int64
}

// Pool returns the pool of an owner, by the id of the account.
func (s *Store) Pool(owner int64) Pool { return Pool{s, owner} }

// path has the original's two levels of folders from the sha1 as a number, below
// one of the owner.
func (p Pool) path(sha1 string) string {
	n, _ := new(big.Int).SetString(sha1, 16)
	level := func(m int64) string { return new(big.Int).Mod(n, big.NewInt(m)).String() }
	return filepath.Join(p.store.resources, fmt.Sprintf("owner_%d", p.owner), level(269), level(251), sha1)
}

// Open implements archive.Pool.
func (p Pool) Open(sha1 string, size int64) (io.ReadCloser, error) {
	if size < MinResource || !sha1Hex.MatchString(sha1) {
		return nil, fs.ErrNotExist
	}
	f, err := os.Open(p.path(sha1))
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if info.Size() != size {
		f.Close()
		return nil, fs.ErrNotExist
	}
	// What was used last is kept longest.
	now := time.Now()
	_ = os.Chtimes(f.Name(), now, now)
	return f, nil
}

// Add implements archive.Pool. Small files are not kept.
func (p Pool) Add(size int64) (archive.PoolWriter, error) {
	if size < MinResource {
		return nothing{}, nil
	}
	f, err := os.CreateTemp(p.store.resources, ".incoming-*")
	if err != nil {
		return nil, fmt.Errorf("cannot keep a resource: %w", err)
	}
	return &resource{File: f, pool: p}, nil
}

type nothing struct{}

func (nothing) Write(p []byte) (int, error) { return len(p), nil }
func (nothing) Commit(string) error         { return nil }
func (nothing) Discard()                    {}

type resource struct {
	*os.File
	pool Pool
}

// Commit keeps the file. It need not survive a crash of the machine whole: the
// size is compared, and a package has all its files in itself.
func (r *resource) Commit(sha1 string) error {
	path := r.pool.path(sha1)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), r.Close()); err != nil {
		return fmt.Errorf("cannot keep a resource: %w", err)
	}
	if err := os.Rename(r.Name(), path); err != nil {
		return fmt.Errorf("cannot keep a resource: %w", err)
	}
	return nil
}

func (r *resource) Discard() {
	r.Close()
	os.Remove(r.Name())
}

// SweepResources removes the resources that were not used for longest, until
// what is left is no larger than max bytes.
func (s *Store) SweepResources(max int64) error {
	type file struct {
		path string
		size int64
		used time.Time
	}
	var files []file
	total := int64(0)
	err := filepath.WalkDir(s.resources, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another controller sweeps too
		}
		if err != nil {
			return err
		}
		files = append(files, file{path, info.Size(), info.ModTime()})
		total += info.Size()
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot sweep the resources: %w", err)
	}
	slices.SortFunc(files, func(a, b file) int { return a.used.Compare(b.used) })
	for _, f := range files {
		if total <= max {
			break
		}
		if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot sweep the resources: %w", err)
		}
		total -= f.size
	}
	return nil
}
