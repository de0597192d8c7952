package source

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/google/renameio/v2"

	"github.com/clusterworks/deploy/deployer/internal/packages"
	"github.com/clusterworks/deploy/deployer/internal/render"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// Packages finds packages and the agent for a session's VMs.
type Packages struct {
	source *Source
	s      *session.Session
	index  *packages.Index
}

// Packages opens the folder of built packages.
func (s *Source) Packages(of *session.Session) (*Packages, error) {
	index, err := packages.Open(s.Options.Packages)
	if err != nil {
		return nil, fmt.Errorf("cannot find the packages for VMs: %w", err)
	}
	return &Packages{source: s, s: of, index: index}, nil
}

// Dir returns the folder of built packages.
func (p *Packages) Dir() string { return p.source.Options.Packages }

// Platform returns the os and arch of the VMs. All VMs of a deployment share a
// platform: that of the VMs there are, or this machine's.
func (p *Packages) Platform() (goos, goarch string) {
	for _, id := range p.s.VMIDs() {
		if vm := p.s.VM(state.Own(id)); vm.OS != "" {
			return vm.OS, vm.Arch
		}
	}
	return runtime.GOOS, runtime.GOARCH
}

// Agent returns the agent program for the VMs.
func (p *Packages) Agent() (packages.Blob, error) {
	built, err := p.index.For(p.Platform())
	if err != nil {
		return packages.Blob{}, err
	}
	return built.Agent()
}

// Programs returns the programs for the VMs' platform, those of releases as
// "<release>/<program>". A revision has those that it was made with.
func (p *Packages) Programs() (map[string]render.Package, error) {
	if p.source.revision != nil {
		return p.source.revision.content.Programs, nil
	}
	goos, goarch := p.Platform()
	built, err := p.index.For(goos, goarch)
	if err != nil {
		return nil, err
	}
	out := map[string]render.Package{}
	for _, name := range built.Programs() {
		b, err := built.Program(name)
		if err != nil {
			return nil, err
		}
		out[name] = render.Package{Digest: b.Digest, Size: b.Size}
	}
	for name, archive := range p.source.archives.opened {
		for program, x := range archive.Packages(goos, goarch) {
			out[name+"/"+program] = render.Package{Digest: x.Digest, Size: x.Size}
		}
	}
	return out, nil
}

// Blob finds a package by its digest: among those built, those kept, or in a
// release, from which it is unpacked to where it will be kept.
func (p *Packages) Blob(digest string) (packages.Blob, error) {
	built, err := p.index.For(p.Platform())
	if err != nil {
		return packages.Blob{}, err
	}
	for _, name := range built.Programs() {
		b, err := built.Program(name)
		if err == nil && b.Digest == digest {
			return b, nil
		}
	}
	p.source.archives.mu.Lock()
	defer p.source.archives.mu.Unlock()
	kept := p.kept(digest)
	if _, err := os.Stat(kept); err == nil {
		return packages.FileBlob(kept, digest)
	}
	if err := os.MkdirAll(p.s.Store.Packages(), 0o700); err != nil {
		return packages.Blob{}, fmt.Errorf("cannot make the folder for packages: %w", err)
	}
	for _, archive := range p.source.archives.opened {
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

func (p *Packages) kept(digest string) string {
	return filepath.Join(p.s.Store.Packages(), digest+".tar.gz")
}

// keep puts a package into the state folder: a link where that is possible, since
// built files are replaced and never written into.
func (p *Packages) keep(digest string) error {
	kept := p.kept(digest)
	b, err := p.Blob(digest)
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

// drop removes the packages that no kept revision needs.
func (p *Packages) drop() error {
	needed := map[string]bool{}
	for _, v := range p.s.State.Revisions {
		for _, digest := range v.Packages {
			needed[filepath.Base(p.kept(digest))] = true
		}
	}
	entries, err := os.ReadDir(p.s.Store.Packages())
	if err != nil {
		return fmt.Errorf("cannot list the kept packages: %w", err)
	}
	for _, e := range entries {
		if !needed[e.Name()] {
			if err := os.Remove(filepath.Join(p.s.Store.Packages(), e.Name())); err != nil {
				return fmt.Errorf("cannot remove a package that is not needed any more: %w", err)
			}
		}
	}
	return nil
}
