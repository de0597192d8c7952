package release

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"aead.dev/minisign"
	"github.com/google/renameio/v2"

	"github.com/clusterworks/deploy/deployer/internal/memfs"
)

// Archive is a release that was verified.
type Archive struct {
	Version string
	Jobs    fs.FS // a folder a job

	path  string
	index *index
}

// Open verifies an archive, reads its jobs, and leaves its packages where they
// are. It writes nothing. version "" accepts any. With keys the archive must be signed
// by one of them.
func Open(path, digest, version string, keys []string) (*Archive, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the archive: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	message := minisign.NewReader(f)
	if _, err := io.Copy(h, message); err != nil {
		return nil, fmt.Errorf("cannot read the archive: %w", err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != digest {
		return nil, fmt.Errorf("%s is not the archive that is pinned: its sha256 is %s, not %s; get the right one, or pin this one", path, got, digest)
	}
	if len(keys) > 0 {
		if err := verify(path, message, keys); err != nil {
			return nil, err
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("cannot read the archive: %w", err)
	}
	a, err := read(f)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", path, err)
	}
	if version != "" && version != a.Version {
		return nil, fmt.Errorf("%s is version %q, and %q is pinned; correct one of version and archive", path, a.Version, version)
	}
	a.path = path
	return a, nil
}

// read reads an archive up to its packages.
func read(r io.Reader) (*Archive, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("it is not a tar.gz file: %w", err)
	}
	a := &Archive{}
	files := memfs.FS{}
	left := int64(maxJobs)
	for archive := tar.NewReader(z); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) || err == nil && strings.HasPrefix(h.Name, "packages/") {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("it is damaged: %w", err)
		}
		name, isJob := strings.CutPrefix(h.Name, "jobs/")
		_, twice := files[name]
		if h.Typeflag != tar.TypeReg || !isJob && h.Name != indexName || !fs.ValidPath(name) || twice {
			return nil, fmt.Errorf("it holds %q, which no release does; make one with deploy release create", h.Name)
		}
		if left -= h.Size; left < 0 {
			return nil, fmt.Errorf("its jobs are larger than %d MiB", maxJobs>>20)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			return nil, fmt.Errorf("it is damaged: %w", err)
		}
		if isJob {
			files[name] = content
		} else if a.index, err = parseIndex(content); err != nil {
			return nil, err
		}
	}
	if a.index == nil {
		return nil, fmt.Errorf("it has no %s; make one with deploy release create", indexName)
	}
	a.Version, a.Jobs = a.index.Version, files
	return a, nil
}

// Packages are its programs for a platform by name, both os and arch as in Go.
func (a *Archive) Packages(goos, goarch string) map[string]Package {
	return a.index.Packages[goos+"_"+goarch]
}

// Extract writes a package to a file, if it has the one with this digest.
func (a *Archive) Extract(digest, to string) (found bool, err error) {
	for _, programs := range a.index.Packages {
		for _, p := range programs {
			found = found || p.Digest == digest
		}
	}
	if !found {
		return false, nil
	}
	f, err := os.Open(a.path)
	if err != nil {
		return true, fmt.Errorf("cannot read the release: %w", err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return true, fmt.Errorf("cannot read the release %s: %w", a.path, err)
	}
	for archive := tar.NewReader(z); ; {
		h, err := archive.Next()
		if err != nil {
			return true, fmt.Errorf("cannot find a package in the release %s: %w", a.path, err)
		}
		if h.Name != packageName(digest) {
			continue
		}
		out, err := renameio.NewPendingFile(to, renameio.WithStaticPermissions(0o600))
		if err != nil {
			return true, fmt.Errorf("cannot unpack a package: %w", err)
		}
		defer out.Cleanup()
		sum := sha256.New()
		if _, err := io.Copy(io.MultiWriter(out, sum), archive); err != nil {
			return true, fmt.Errorf("cannot unpack a package: %w", err)
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != digest {
			return true, fmt.Errorf("cannot use the release %s: its package %.12s has the sha256 %s; it was made wrong, or changed since it was verified", a.path, digest, got)
		}
		return true, out.CloseAtomicallyReplace()
	}
}
