package source

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/hcl/v2"

	"github.com/clusterworks/deploy/deployer/internal/release"
	"github.com/clusterworks/deploy/manifests"
)

// read reads the manifest's files and loads them. The manifest is never
// nil; see manifests.Load.
func (s *Source) read() (*manifests.Manifest, hcl.Diagnostics) {
	o := manifests.Options{
		Vars: s.Vars, Environ: s.Environ, Values: s.Values, Jobs: s.Jobs, OpenRelease: s.archives.open,
	}
	var unreadable hcl.Diagnostics
	for _, path := range s.VarFiles {
		source, err := os.ReadFile(path)
		if err != nil {
			unreadable = append(unreadable, &hcl.Diagnostic{
				Severity: hcl.DiagError, Summary: "Cannot read file", Detail: fmt.Sprintf("%v. Check its path and permissions.", err),
			})
			continue
		}
		o.VarFiles = append(o.VarFiles, manifests.VarFile{Path: path, Source: source})
	}
	fsys, name, prefix := manifestFiles(s.Manifest)
	o.Prefix = prefix
	m, diags := manifests.Load(fsys, name, o)
	return m, append(unreadable, diags...)
}

// manifestFiles returns the folder of a manifest, the manifest's name in it, and
// what precedes the names of files there in the paths that the user sees.
func manifestFiles(path string) (fsys fs.FS, name, prefix string) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		if prefix = filepath.Clean(path) + "/"; prefix == "./" {
			prefix = ""
		}
		return os.DirFS(path), ".", prefix
	}
	prefix, name = filepath.Split(path)
	return os.DirFS(cmp.Or(prefix, ".")), name, prefix
}

// open is manifests.Options.OpenRelease. An archive is verified once a
// process.
func (a *archives) open(r manifests.Release) (fs.FS, error) {
	if !r.Archive {
		if info, err := os.Stat(r.Path); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("%s is not a folder. The path is taken from the manifest's folder and must lead to a folder of job folders", r.Path)
		}
		return os.DirFS(r.Path), nil
	}
	if had := a.opened[r.Name]; had != nil {
		return had.Jobs, nil
	}
	opened, err := release.Open(r.Path, r.SHA256, r.Version, r.PublicKeys)
	if err != nil {
		return nil, err
	}
	if a.opened == nil {
		a.opened = map[string]*release.Archive{}
	}
	a.opened[r.Name] = opened
	return opened.Jobs, nil
}
