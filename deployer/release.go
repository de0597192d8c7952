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
	"slices"

	"github.com/google/renameio/v2"
	"github.com/hashicorp/hcl/v2"

	"github.com/clusterworks/deploy/deployer/internal/packages"
	"github.com/clusterworks/deploy/deployer/internal/release"
	"github.com/clusterworks/deploy/manifests"
)

// ReleaseRequest says what to make a release of.
type ReleaseRequest struct {
	Jobs     string // folder of job folders
	Out      string // the archive
	Version  string // "": made from the content
	Packages string // folder of built packages
	Sign     string // file of the key that signs it; "": nobody does
	// Passphrase asks for that of an encrypted key.
	Passphrase func() (string, error)
}

// Release is an archive that was made.
type Release struct {
	Archive  string   `json:"archive"`
	Version  string   `json:"version"`
	SHA256   string   `json:"sha256"`
	Jobs     []string `json:"jobs"`
	Programs []string `json:"programs"`
	Size     int64    `json:"size"` // bytes
	// PublicKey is the key whose signature lies beside the archive; "": there is none.
	PublicKey string `json:"public_key,omitempty"`
}

// CreateRelease makes the archive of a folder of jobs with the programs that
// they need, for every platform that was built. The same jobs and programs make
// the same archive.
func CreateRelease(q ReleaseRequest) (*Release, error) {
	var key *release.Key
	if q.Sign != "" {
		var err error
		if key, err = release.LoadKey(q.Sign, q.Passphrase); err != nil {
			return nil, err
		}
	}
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
	programs, bases := map[string]bool{}, map[string]bool{}
	problems := &ManifestError{Files: map[string]*hcl.File{}}
	for _, e := range entries {
		if _, err := fs.Stat(jobs, e.Name()+"/job.hcl"); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		job, diags := manifests.LoadJob(jobs, e.Name())
		maps.Copy(problems.Files, job.Files)
		problems.Diagnostics = append(problems.Diagnostics, diags...)
		out.Jobs = append(out.Jobs, e.Name())
		for _, b := range job.Bases {
			bases[b] = true
		}
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
	source := release.Source{Jobs: jobs, Names: out.Jobs, Bases: slices.Sorted(maps.Keys(bases)), Version: q.Version, Programs: map[string]map[string]packages.Blob{}}
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
	if key == nil {
		// One of an earlier archive would be wrong now.
		if err := os.Remove(q.Out + release.SignatureSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cannot remove the signature of an earlier archive: %w", err)
		}
		return out, nil
	}
	out.PublicKey = key.Public()
	_, err = key.Sign(q.Out)
	return out, err
}

// MakeSigningKey writes a new private key that signs releases, which must not be there
// yet, and returns its public key.
func MakeSigningKey(path string) (public string, err error) {
	private, public, err := release.NewKey()
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("cannot write the signing key: %s is there already; remove it if nothing needs it any more, or choose another file", path)
	}
	if err == nil {
		_, err = f.Write(private)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		return "", fmt.Errorf("cannot write the signing key: %w", err)
	}
	return public, nil
}

// SignFiles signs each file with the key of a file and returns the signatures' paths.
func SignFiles(key string, passphrase func() (string, error), files []string) ([]string, error) {
	k, err := release.LoadKey(key, passphrase)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, file := range files {
		signature, err := k.Sign(file)
		if err != nil {
			return out, err
		}
		out = append(out, signature)
	}
	return out, nil
}
