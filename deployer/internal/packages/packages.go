// Package packages answers what `make build` made for an operating system and
// architecture: the agent, and one archive a program, each with its digest.
//
// The folder has one subfolder a platform, <os>_<arch>, with an index.json that
// Pack writes (docs/upgrading.md). Open reads all indexes;
// nothing else is read until a Blob is verified.
package packages

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/clusterworks/deploy/agent/api"
)

// EnvDir names the environment variable that says where the packages are.
const EnvDir = "DEPLOY_PACKAGES"

// DefaultDir returns where the packages of this executable are: $DEPLOY_PACKAGES,
// else the folder "packages" beside the executable.
func DefaultDir() (string, error) {
	if dir := os.Getenv(EnvDir); dir != "" {
		return dir, nil
	}
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("cannot find this program's folder, and so its packages: %w; set %s", err, EnvDir)
	}
	if exe, err = filepath.EvalSymlinks(exe); err != nil {
		return "", fmt.Errorf("cannot find this program's folder, and so its packages: %w; set %s", err, EnvDir)
	}
	return filepath.Join(filepath.Dir(exe), "packages"), nil
}

// Index is everything that was built, for all platforms.
type Index struct {
	dir       string
	platforms []*Platform
}

// Platform describes what was built for one operating system and architecture.
type Platform struct {
	OS, Arch string

	dir      string
	agent    Blob
	programs map[string]Blob
}

// Blob is one built file. Nothing is known of its bytes until Verify.
type Blob struct {
	File   string // absolute path
	Digest string // sha256, 64 hex
	Size   int64  // bytes

	verify func() error
}

// Verify reads the file, once a process, and says whether it is what the index
// promises.
func (b Blob) Verify() error { return b.verify() }

// indexFile is index.json.
type indexFile struct {
	OS   string `json:"os"`
	Arch string `json:"arch"`
	// API is the version of the agents' API that the agent speaks.
	API      int                    `json:"api,omitempty"`
	Agent    *indexEntry            `json:"agent,omitempty"`
	Packages map[string]*indexEntry `json:"packages"`
}

type indexEntry struct {
	File   string `json:"file"` // name in the index's own folder
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
	// Program is the sha256 of the program inside the archive (of the agent's own
	// and, after a "+", the shim's), by which Pack sees that it has nothing to do.
	Program string `json:"program,omitempty"`
}

const indexName = "index.json"

// Open reads the indexes of all platforms below dir.
func Open(dir string) (*Index, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot find the packages in %s: %w", dir, err)
	}
	files, err := filepath.Glob(filepath.Join(globEscape(dir), "*", indexName))
	if err != nil {
		return nil, fmt.Errorf("cannot look for packages in %s: %w", dir, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("there are no built packages in %s: type `make build` in the project's folder, or set %s to where they are", dir, EnvDir)
	}
	x := &Index{dir: dir}
	for _, file := range files {
		p, err := openPlatform(file)
		if err != nil {
			return nil, fmt.Errorf("cannot use the package index %s: %w; type `make build` in the project's folder to build it again", file, err)
		}
		x.platforms = append(x.platforms, p)
	}
	return x, nil
}

// globEscape makes a path stand for itself in a pattern.
func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func openPlatform(file string) (*Platform, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	f, err := parseIndex(content)
	if err != nil {
		return nil, err
	}
	if f.Agent != nil && f.API != api.Version {
		return nil, fmt.Errorf("its agent speaks version %d of the agents' API, this deploy version %d", f.API, api.Version)
	}
	p := &Platform{OS: f.OS, Arch: f.Arch, dir: filepath.Dir(file), programs: map[string]Blob{}}
	if f.Agent != nil {
		p.agent = p.blob(f.Agent)
	}
	for name, e := range f.Packages {
		p.programs[name] = p.blob(e)
	}
	return p, nil
}

// parseIndex decodes an index and refuses what could lead out of its folder or
// is no digest: names and digests become paths, here and on VMs.
func parseIndex(content []byte) (*indexFile, error) {
	var f indexFile
	if err := json.Unmarshal(content, &f); err != nil {
		return nil, err
	}
	if f.OS == "" || f.Arch == "" {
		return nil, errors.New("it names no os and arch")
	}
	entries := map[string]*indexEntry{}
	for name, e := range f.Packages {
		entries["package "+name] = e
	}
	if f.Agent != nil {
		entries["agent"] = f.Agent
	}
	for what, e := range entries {
		switch {
		case e == nil:
			return nil, fmt.Errorf("%s is null", what)
		case e.File == "" || e.File != filepath.Base(e.File) || e.File == "." || e.File == ".." || e.File == string(filepath.Separator):
			return nil, fmt.Errorf("%s: %q is not the name of a file beside the index", what, e.File)
		case !isDigest(e.Digest):
			return nil, fmt.Errorf("%s: %q is not a sha256 digest", what, e.Digest)
		case e.Size < 0:
			return nil, fmt.Errorf("%s: negative size %d", what, e.Size)
		}
	}
	return &f, nil
}

func isDigest(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size && strings.ToLower(s) == s
}

func (p *Platform) blob(e *indexEntry) Blob {
	return newBlob(filepath.Join(p.dir, e.File), e.Digest, e.Size)
}

// FileBlob is a file that shall have this digest, outside of any index.
func FileBlob(file, digest string) (Blob, error) {
	info, err := os.Stat(file)
	if err != nil {
		return Blob{}, fmt.Errorf("cannot read a package: %w", err)
	}
	return newBlob(file, digest, info.Size()), nil
}

func newBlob(file, digest string, size int64) Blob {
	b := Blob{File: file, Digest: digest, Size: size}
	b.verify = sync.OnceValue(func() error {
		digest, size, err := hashFile(b.File)
		if err != nil {
			return fmt.Errorf("cannot read the built file %s: %w; type `make build`", b.File, err)
		}
		if digest != b.Digest || size != b.Size {
			return fmt.Errorf("the built file %s is not what its index says (sha256 %s, %d bytes; expected %s, %d bytes): type `make build` to build it again",
				b.File, digest, size, b.Digest, b.Size)
		}
		return nil
	})
	return b
}

func hashFile(path string) (digest string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	if size, err = io.Copy(h, f); err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}

// For returns what was built for an operating system and architecture, both as
// in Go ("linux", "amd64").
func (x *Index) For(os, arch string) (*Platform, error) {
	var have []string
	for _, p := range x.platforms {
		if p.OS == os && p.Arch == arch {
			return p, nil
		}
		have = append(have, p.OS+"/"+p.Arch)
	}
	slices.Sort(have)
	return nil, fmt.Errorf("nothing was built for %s/%s, only for %s: type `make build PLATFORMS=%q` in the project's folder",
		os, arch, strings.Join(have, ", "), strings.Join(append(have, os+"/"+arch), " "))
}

// Platforms are all platforms that something was built for.
func (x *Index) Platforms() []*Platform { return x.platforms }

// Agent is the agent's program itself, not an archive.
func (p *Platform) Agent() (Blob, error) {
	if p.agent.File == "" {
		return Blob{}, fmt.Errorf("the agent was not built for %s/%s: type `make build` in the project's folder", p.OS, p.Arch)
	}
	return p.agent, nil
}

// Program is the archive of a program: a tar.gz with the program as "./<name>".
// The error of an unknown name answers errors.Is(err, fs.ErrNotExist).
func (p *Platform) Program(name string) (Blob, error) {
	b, ok := p.programs[name]
	if !ok {
		return Blob{}, fmt.Errorf("there is no package %q among those built for %s/%s (%s): %w; if its program exists, type `make build`",
			name, p.OS, p.Arch, strings.Join(p.Programs(), ", "), fs.ErrNotExist)
	}
	return b, nil
}

// Programs are the names of the packages, sorted.
func (p *Platform) Programs() []string {
	var names []string
	for name := range p.programs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
