package deployer

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

// readManifest reads the manifest's files and loads them. The manifest is never
// nil; see manifests.Load.
func (c Config) readManifest(openRelease func(manifests.Release) (fs.FS, error)) (*manifests.Manifest, hcl.Diagnostics) {
	o := manifests.Options{
		Vars: c.Vars, Environ: c.Environ, Values: c.Values, Jobs: c.Jobs, OpenRelease: openRelease,
	}
	var unreadable hcl.Diagnostics
	for _, path := range c.VarFiles {
		source, err := os.ReadFile(path)
		if err != nil {
			unreadable = append(unreadable, &hcl.Diagnostic{
				Severity: hcl.DiagError, Summary: "Cannot read file", Detail: fmt.Sprintf("%v. Check its path and permissions.", err),
			})
			continue
		}
		o.VarFiles = append(o.VarFiles, manifests.VarFile{Path: path, Source: source})
	}
	fsys, name, prefix := manifestFiles(c.Manifest)
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

// openRelease is manifests.Options.OpenRelease. An archive is verified once a
// process.
func (d *Deployer) openRelease(r manifests.Release) (fs.FS, error) {
	if !r.Archive {
		if info, err := os.Stat(r.Path); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("%s is not a folder. The path is taken from the manifest's folder and must lead to a folder of job folders", r.Path)
		}
		return os.DirFS(r.Path), nil
	}
	if had := d.archives.opened[r.Name]; had != nil {
		return had.Jobs, nil
	}
	opened, err := release.Open(r.Path, r.SHA256, r.Version)
	if err != nil {
		return nil, err
	}
	if d.archives.opened == nil {
		d.archives.opened = map[string]*release.Archive{}
	}
	d.archives.opened[r.Name] = opened
	return opened.Jobs, nil
}
