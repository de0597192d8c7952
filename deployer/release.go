package deployer

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/google/renameio/v2"
	"github.com/hashicorp/hcl/v2"

	"github.com/clusterworks/deploy/deployer/internal/packages"
	"github.com/clusterworks/deploy/deployer/internal/release"
	"github.com/clusterworks/deploy/deployer/internal/render"
	"github.com/clusterworks/deploy/manifests"
)

// ReleaseRequest is what to make a release of.
type ReleaseRequest struct {
	Jobs     string // folder of job folders
	Out      string // the archive
	Version  string // "": made from the content
	Packages string // folder of built packages
}

// Release is an archive that was made.
type Release struct {
	Archive  string   `json:"archive"`
	Version  string   `json:"version"`
	SHA256   string   `json:"sha256"`
	Jobs     []string `json:"jobs"`
	Programs []string `json:"programs"`
	Size     int64    `json:"size"` // bytes
}

// CreateRelease makes the archive of a folder of jobs with the programs that
// they need, for every platform that was built. The same jobs and programs make
// the same archive.
func CreateRelease(q ReleaseRequest) (*Release, error) {
	index, err := packages.Open(q.Packages)
	if err != nil {
		return nil, fmt.Errorf("cannot find the packages for VMs: %w", err)
	}
	jobs := os.DirFS(q.Jobs)
	entries, err := fs.ReadDir(jobs, ".")
	if err != nil {
		return nil, fmt.Errorf("cannot list the jobs: %w", err)
	}
	out := &Release{Archive: q.Out}
	programs := map[string]bool{}
	problems := &ManifestError{Files: map[string]*hcl.File{}}
	for _, e := range entries {
		if _, err := fs.Stat(jobs, e.Name()+"/job.hcl"); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		job, diags := manifests.LoadJob(jobs, e.Name())
		maps.Copy(problems.Files, job.Files)
		problems.Diagnostics = append(problems.Diagnostics, diags...)
		out.Jobs = append(out.Jobs, e.Name())
		for _, p := range job.Packages {
			if p.Program != "" {
				programs[p.Program] = true
			}
		}
	}
	if problems.Diagnostics.HasErrors() {
		return nil, problems
	}
	if len(out.Jobs) == 0 {
		return nil, fmt.Errorf("cannot make a release of %s: none of its folders has a job.hcl", q.Jobs)
	}
	out.Programs = slices.Sorted(maps.Keys(programs))
	source := release.Source{Jobs: jobs, Names: out.Jobs, Version: q.Version, Programs: map[string]map[string]packages.Blob{}}
	for _, p := range index.Platforms() {
		found := map[string]packages.Blob{}
		for _, name := range out.Programs {
			if found[name], err = p.Program(name); err != nil {
				return nil, err
			}
		}
		source.Programs[p.OS+"_"+p.Arch] = found
	}
	f, err := renameio.NewPendingFile(q.Out, renameio.WithPermissions(0o644))
	if err != nil {
		return nil, fmt.Errorf("cannot write the release: %w", err)
	}
	defer f.Cleanup()
	sum := sha256.New()
	if out.Version, err = release.Create(io.MultiWriter(f, sum), source); err != nil {
		return nil, err
	}
	if out.Size, err = f.Seek(0, io.SeekCurrent); err != nil {
		return nil, fmt.Errorf("cannot write the release: %w", err)
	}
	out.SHA256 = hex.EncodeToString(sum.Sum(nil))
	if err := f.CloseAtomicallyReplace(); err != nil {
		return nil, fmt.Errorf("cannot write the release: %w", err)
	}
	return out, nil
}

// archives are the releases that were opened, by block name, and the lock of
// what is unpacked from them.
type archives struct {
	opened map[string]*release.Archive
	mu     sync.Mutex
}

// builtPackages are the programs for the VMs' platform, those of releases as
// "<release>/<program>". All VMs of a deployment share a platform, which is
// that of the VMs there are, or this machine's.
func (r *run) builtPackages() (map[string]render.Package, error) {
	if r.revision != nil {
		return r.revision.content.Programs, nil
	}
	goos, goarch := r.platform()
	p, err := r.packages.For(goos, goarch)
	if err != nil {
		return nil, err
	}
	out := map[string]render.Package{}
	for _, name := range p.Programs() {
		b, err := p.Program(name)
		if err != nil {
			return nil, err
		}
		out[name] = render.Package{Digest: b.Digest, Size: b.Size}
	}
	for name, archive := range r.archives.opened {
		for program, p := range archive.Packages(goos, goarch) {
			out[name+"/"+program] = render.Package{Digest: p.Digest, Size: p.Size}
		}
	}
	return out, nil
}

// blob finds a package by its digest: among those built, those kept, or in a
// release, from which it is unpacked to where it will be kept.
func (r *run) blob(digest string) (packages.Blob, error) {
	p, err := r.packages.For(r.platform())
	if err != nil {
		return packages.Blob{}, err
	}
	for _, name := range p.Programs() {
		b, err := p.Program(name)
		if err == nil && b.Digest == digest {
			return b, nil
		}
	}
	r.archives.mu.Lock()
	defer r.archives.mu.Unlock()
	kept := r.keptPackage(digest)
	if _, err := os.Stat(kept); err == nil {
		return packages.FileBlob(kept, digest)
	}
	if err := os.MkdirAll(r.store.Packages(), 0o700); err != nil {
		return packages.Blob{}, fmt.Errorf("cannot make the folder for packages: %w", err)
	}
	for _, archive := range r.archives.opened {
		found, err := archive.Extract(digest, kept)
		if err != nil {
			return packages.Blob{}, err
		}
		if found {
			return packages.FileBlob(kept, digest)
		}
	}
	return packages.Blob{}, fmt.Errorf("cannot find a package with digest %.12s, neither built nor in a release nor kept: run make build", digest)
}

func (r *run) keptPackage(digest string) string {
	return filepath.Join(r.store.Packages(), digest+".tar.gz")
}

// keepPackage puts a package into the state folder: a link where that can be,
// since built files are replaced and never written into.
func (r *run) keepPackage(digest string) error {
	kept := r.keptPackage(digest)
	b, err := r.blob(digest)
	if err != nil || b.File == kept {
		return err
	}
	if err := os.Link(b.File, kept); err == nil || errors.Is(err, fs.ErrExist) {
		return nil
	}
	data, err := os.ReadFile(b.File)
	if err == nil {
		err = renameio.WriteFile(kept, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot keep a package for rollback: %w", err)
	}
	return nil
}

// dropPackages removes the packages that no kept revision needs.
func (r *run) dropPackages() error {
	needed := map[string]bool{}
	for _, v := range r.state.Revisions {
		for _, digest := range v.Packages {
			needed[filepath.Base(r.keptPackage(digest))] = true
		}
	}
	entries, err := os.ReadDir(r.store.Packages())
	if err != nil {
		return fmt.Errorf("cannot list the kept packages: %w", err)
	}
	for _, e := range entries {
		if !needed[e.Name()] {
			if err := os.Remove(filepath.Join(r.store.Packages(), e.Name())); err != nil {
				return fmt.Errorf("cannot remove a package that is not needed any more: %w", err)
			}
		}
	}
	return nil
}

// manifestDigest covers the sources of the manifest, wherever they lie.
func (r *run) manifestDigest() string {
	var sums []string
	for _, f := range r.manifest.Files {
		if f != nil {
			sum := sha256.Sum256(f.Bytes)
			sums = append(sums, hex.EncodeToString(sum[:]))
		}
	}
	slices.Sort(sums)
	h := sha256.New()
	for _, s := range sums {
		fmt.Fprintln(h, s)
	}
	return hex.EncodeToString(h.Sum(nil))
}
