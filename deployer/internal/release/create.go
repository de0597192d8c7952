package release

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/packages"
)

// Source describes what a release is made of.
type Source struct {
	Jobs    fs.FS    // a folder a job
	Names   []string // of the jobs
	Bases   []string // of the jobs, by their paths in Jobs
	Version string   // "": made from the content
	// Programs by platform, "<os>_<arch>", and name.
	Programs map[string]map[string]packages.Blob
}

// Create writes an archive and returns its version.
func Create(w io.Writer, s Source) (string, error) {
	files, err := jobFiles(s)
	if err != nil {
		return "", err
	}
	x := index{Format: format, Version: s.Version, Packages: map[string]map[string]Package{}}
	blobs := map[string]packages.Blob{}
	for platform, programs := range s.Programs {
		x.Packages[platform] = map[string]Package{}
		for name, b := range programs {
			x.Packages[platform][name] = Package{Digest: b.Digest, Size: b.Size}
			blobs[b.Digest] = b
		}
	}
	if x.Version == "" {
		x.Version = contentVersion(x, files)
	}
	content, err := json.MarshalIndent(x, "", "  ") // maps are sorted
	if err != nil {
		return "", fmt.Errorf("cannot encode the release's index: %w", err)
	}
	z := gzip.NewWriter(w)
	archive := tar.NewWriter(z)
	if err := add(archive, indexName, append(content, '\n')); err != nil {
		return "", err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := add(archive, "jobs/"+name, files[name]); err != nil {
			return "", err
		}
	}
	for _, digest := range slices.Sorted(maps.Keys(blobs)) {
		b := blobs[digest]
		if err := b.Verify(); err != nil {
			return "", err
		}
		data, err := os.ReadFile(b.File)
		if err != nil {
			return "", fmt.Errorf("cannot read a built package: %w", err)
		}
		if err := add(archive, packageName(digest), data); err != nil {
			return "", err
		}
	}
	if err := archive.Close(); err != nil {
		return "", fmt.Errorf("cannot write the release: %w", err)
	}
	if err := z.Close(); err != nil {
		return "", fmt.Errorf("cannot write the release: %w", err)
	}
	return x.Version, nil
}

// jobFiles returns what the deployer reads of jobs, by "<job>/<path>"; sources of
// programs beside them are left out.
func jobFiles(s Source) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, name := range s.Names {
		err := fs.WalkDir(s.Jobs, name, func(file string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rest := strings.TrimPrefix(file, name+"/")
			if e.IsDir() {
				if file != name && rest != "templates" && !strings.HasPrefix(rest, "templates/") {
					return fs.SkipDir
				}
				return nil
			}
			if rest != "job.hcl" && !strings.HasPrefix(rest, "templates/") {
				return nil
			}
			files[path.Join(name, rest)], err = fs.ReadFile(s.Jobs, file)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("cannot read the job %s: %w", name, err)
		}
	}
	for _, name := range s.Bases {
		var err error
		if files[name], err = fs.ReadFile(s.Jobs, name); err != nil {
			return nil, fmt.Errorf("cannot read a base of jobs: %w", err)
		}
	}
	return files, nil
}

// contentVersion is a version for who names none: another content has another.
func contentVersion(x index, files map[string][]byte) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(h, "%s %x\n", name, sha256.Sum256(files[name]))
	}
	for _, platform := range slices.Sorted(maps.Keys(x.Packages)) {
		for _, name := range slices.Sorted(maps.Keys(x.Packages[platform])) {
			fmt.Fprintf(h, "%s %s %s\n", platform, name, x.Packages[platform][name].Digest)
		}
	}
	return "0-" + hex.EncodeToString(h.Sum(nil))[:12]
}

// add writes one file. No time, owner or mode of the maker's gets in.
func add(archive *tar.Writer, name string, content []byte) error {
	err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
	if err == nil {
		_, err = archive.Write(content)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s of the release: %w", name, err)
	}
	return nil
}
