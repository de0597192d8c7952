package manifests

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/clusterworks/deploy/manifests/internal/jobspec"
	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// release is a folder of jobs.
type release struct {
	name string // "": the built-in jobs
	path string
	fsys fs.FS
}

// findJobs opens the releases and lists the jobs there are.
func (l *loader) findJobs() {
	l.jobs = map[string]*Job{}
	l.Each(l.blocks["release"], l.decodeRelease)
	if l.options.Jobs != nil {
		l.releases = append(l.releases, release{fsys: l.options.Jobs})
	}
	for _, r := range l.releases {
		entries, err := fs.ReadDir(r.fsys, ".")
		if err != nil {
			l.Report(&hcl.Diagnostic{
				Severity: hcl.DiagError, Summary: "Cannot list jobs", Detail: fmt.Sprintf("Release %q: %v. Check its path and permissions.", r.name, err),
			})
		}
		for _, e := range entries {
			if _, err := fs.Stat(r.fsys, e.Name()+"/job.hcl"); err == nil {
				l.jobNames = append(l.jobNames, e.Name())
			}
		}
	}
}

// decodeRelease opens a release: a folder of jobs, or an archive.
func (l *loader) decodeRelease(b *hcl.Block, name string) {
	attrs := l.Content(b.Body, "path archive version sha256 public_keys").Attributes
	folder, archive := attrs["path"], attrs["archive"]
	if (folder == nil) == (archive == nil) {
		l.Report(syntax.Problem("Release without a source",
			fmt.Sprintf("Release %q must name either a folder of jobs (path) or an archive that deploy release create has made (archive, with its sha256).", name), b.DefRange))
		return
	}
	attr := folder
	if archive != nil {
		attr = archive
	}
	r := Release{
		Name: name, Path: l.Text(attrs, attr.Name, "."), Archive: archive != nil,
		Version: l.Text(attrs, "version", ""), SHA256: strings.ToLower(l.Text(attrs, "sha256", "")),
		PublicKeys: l.Texts(attrs, "public_keys"),
	}
	if !path.IsAbs(r.Path) {
		r.Path = path.Join(l.options.Prefix, r.Path)
	}
	if jobs := l.openRelease(attrs, r, attr); jobs != nil {
		l.releases = append(l.releases, release{name: name, path: r.Path, fsys: jobs})
	} else {
		l.incomplete = true
	}
}

// openRelease returns nil if the release cannot be used, which is reported.
func (l *loader) openRelease(attrs hcl.Attributes, r Release, attr *hcl.Attribute) fs.FS {
	pin, keys := attrs["sha256"], attrs["public_keys"]
	switch {
	case !r.Archive:
		for _, a := range []*hcl.Attribute{attrs["version"], pin, keys} {
			if a != nil {
				l.Report(syntax.Problem("Unsupported argument", fmt.Sprintf("A folder of jobs has no %s, only an archive has. Make one with deploy release create, or remove this.", a.Name), a.NameRange, a.Range))
			}
		}
	case pin == nil:
		l.Report(syntax.Problem("Missing sha256", fmt.Sprintf("The archive of release %q is pinned by its sha256, which deploy release create prints.", r.Name), attr.Expr.Range(), attr.Range))
		return nil
	case !sha256Pattern.MatchString(r.SHA256):
		l.Report(syntax.Problem("Not a sha256", "A sha256 has 64 hexadecimal digits.", pin.Expr.Range(), pin.Range))
		return nil
	}
	if keys != nil && r.Archive && (len(r.PublicKeys) == 0 || slices.ContainsFunc(r.PublicKeys, func(k string) bool { return !publicKeyPattern.MatchString(k) })) {
		l.Report(syntax.Problem("Not a public key", "A list of one or more public keys of minisign, such as \"RW...\" with 56 characters; deploy release key prints one. To accept an archive that is not signed, remove public_keys.", keys.Expr.Range(), keys.Range))
		return nil
	}
	if l.options.OpenRelease == nil {
		l.Report(syntax.Problem("Cannot read release", "Releases cannot be read here.", attr.Expr.Range(), attr.Range))
		return nil
	}
	jobs, err := l.options.OpenRelease(r)
	if err != nil {
		l.Report(syntax.Problem("Cannot read release", fmt.Sprintf("Release %q: %v.", r.Name, err), attr.Expr.Range(), attr.Range))
		return nil
	}
	return jobs
}

var (
	sha256Pattern = regexp.MustCompile(`^[0-9a-f]{64}$`)
	// publicKeyPattern matches 42 bytes that begin with "Ed", in base64.
	publicKeyPattern = regexp.MustCompile(`^RW[A-Za-z0-9+/]{54}$`)
)

// job returns the spec of a job, loaded once; nil if there is none or it is
// wrong, which is reported.
func (l *loader) job(b *hcl.Block) *Job {
	name := b.Labels[0]
	if job, done := l.jobs[name]; done {
		return job
	}
	l.jobs[name] = nil
	if !syntax.NamePattern.MatchString(name) || !slices.Contains(l.jobNames, name) {
		l.Report(syntax.Problem("Unknown job",
			fmt.Sprintf("No release has a job %q. %s", name, syntax.Suggest(name, l.jobNames, "job")), b.LabelRanges[0], b.DefRange))
		return nil
	}
	for _, r := range l.releases {
		if _, err := fs.Stat(r.fsys, name+"/job.hcl"); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		job, diags := jobspec.Load(r.fsys, name, r.path)
		job.Release = r.name
		for name, file := range job.Files {
			l.m.Files[name] = file
		}
		l.Report(diags...)
		if !diags.HasErrors() {
			l.jobs[name] = job
		}
		break
	}
	return l.jobs[name]
}
