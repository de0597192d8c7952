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
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"

	"github.com/clusterworks/deploy/manifests/internal/functions"
)

// Options are what a manifest is loaded with, beside its files.
type Options struct {
	// Vars are values of variables by name, as given with --var. They come
	// before VarFiles, and these (the last one first) before Environ.
	Vars map[string]string
	// VarFiles set variables: HCL attributes.
	VarFiles []VarFile
	// Environ has the form of os.Environ; DEPLOY_VAR_<name>=<value> is read.
	Environ []string
	// Values are values of variables by name that come last of all, before the
	// defaults: those of an earlier load (Manifest.Variables).
	Values map[string]cty.Value
	// Jobs are the built-in jobs: a folder each, with job.hcl and templates/.
	Jobs fs.FS
	// Prefix is what the user puts before the names of files to get their paths:
	// "" or "clusters/". Diagnostics show these paths, and the path of a release is
	// taken from there.
	Prefix string
	// OpenRelease returns the jobs of a release, a folder each; it verifies an
	// archive. Nil: manifests with releases are refused.
	OpenRelease func(Release) (fs.FS, error)
}

// VarFile is a file of variables that was read.
type VarFile struct {
	Path   string // for diagnostics
	Source []byte
}

// Release is what a release block says: a folder of jobs, or an archive.
type Release struct {
	Name    string // the block's label
	Path    string // of folder or archive, as the user would type it
	Archive bool
	Version string // of an archive; "": any
	SHA256  string // of an archive: 64 hex digits
}

// Functions returns all functions of the manifest language by name.
func Functions() map[string]function.Function { return functions.All(Sensitive) }

// Load reads a manifest from fsys: the file called name, or all .hcl files of the
// folder called name ("." is fsys itself). In a folder, files named override.hcl
// or *_override.hcl come last and are merged into what the others declare.
//
// All problems are reported at once. The manifest is never nil: with errors it
// is not fit for use, but its Files hold the sources for the printer.
func Load(fsys fs.FS, name string, o Options) (*Manifest, hcl.Diagnostics) {
	m := &Manifest{
		Secrets: map[string]*Secret{},
		Files:   map[string]*hcl.File{},
		Sources: map[string][]byte{},
		base: &hcl.EvalContext{
			Variables: map[string]cty.Value{},
			Functions: Functions(),
		},
	}
	l := &loader{m: m, options: o, edges: map[string]map[string]hcl.Range{}}
	l.ctx = m.base
	if l.read(fsys, name) {
		l.load()
	}
	return m, tidy(l.diags, m.Files)
}

// loader builds one manifest.
type loader struct {
	decoder
	m       *Manifest
	options Options

	bodies   []*hclsyntax.Body // of the files, overrides merged
	blocks   map[string]hcl.Blocks
	vms      map[string]*VM
	disks    map[string]*Disk
	networks map[string]*Network
	releases []release
	jobs     map[string]*Job // nil: could not be loaded
	jobNames []string
	// incomplete: some job could not be loaded, so what others miss need not be
	// missing.
	incomplete bool
	unresolved map[*GroupJob]bool // a link of theirs has no provider
	locals     map[string]*local
	groupRoot  *root
	// edges say where a group came to require another one.
	edges map[string]map[string]hcl.Range
}

// path returns the path that the user knows a file of the manifest by.
func (l *loader) path(name string) string {
	if name == "." {
		return path.Clean(l.options.Prefix + name)
	}
	return l.options.Prefix + name
}

// unreadable reports a file or folder of the manifest that could not be read.
func (l *loader) unreadable(summary string, err error, do string) {
	var at *fs.PathError
	if errors.As(err, &at) {
		err = fmt.Errorf("%s: %w", l.path(at.Path), at.Err)
	}
	l.report(&hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf("%v. %s", err, do)})
}

// read parses the manifest's files; false means that there is nothing sound to
// decode.
func (l *loader) read(fsys fs.FS, name string) bool {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		l.unreadable("Cannot read manifest", err, "Name a .hcl file or a folder of .hcl files.")
		return false
	}
	files := []string{name}
	if info.IsDir() {
		entries, err := fs.ReadDir(fsys, name)
		if err != nil {
			l.unreadable("Cannot read manifest", err, "Check the folder's permissions.")
			return false
		}
		files = nil
		for _, e := range entries {
			if !e.IsDir() && strings.HasSuffix(e.Name(), ".hcl") && !strings.HasPrefix(e.Name(), ".") {
				files = append(files, path.Join(name, e.Name()))
			}
		}
		if len(files) == 0 {
			l.unreadable("No manifest", fmt.Errorf("the folder %s holds no .hcl file", l.path(name)), "A manifest begins with a deployment block.")
			return false
		}
	}
	var overrides []*hclsyntax.Body
	for _, name := range files {
		source, err := fs.ReadFile(fsys, name)
		if err != nil {
			l.unreadable("Cannot read file", err, "Check its path and permissions.")
			continue
		}
		l.m.Sources[name] = source
		body := l.parse(source, l.path(name))
		switch {
		case body == nil:
		case info.IsDir() && isOverride(name):
			overrides = append(overrides, body)
		default:
			l.bodies = append(l.bodies, body)
		}
	}
	if l.diags.HasErrors() {
		return false
	}
	for _, body := range overrides {
		l.override(body)
	}
	return true
}

func isOverride(name string) bool {
	base := path.Base(name)
	return base == "override.hcl" || strings.HasSuffix(base, "_override.hcl")
}

// parse reads one file of HCL; nil if that was not possible.
func (l *loader) parse(source []byte, filename string) *hclsyntax.Body {
	file, body, diags := parseConfig(source, filename)
	l.m.Files[filename] = file
	l.report(diags...)
	return body
}

// override merges a file into the others: blocks by kind and label.
func (l *loader) override(over *hclsyntax.Body) {
	for _, o := range over.Blocks {
		var same []*hclsyntax.Block
		var others []string
		for _, body := range l.bodies {
			for _, b := range body.Blocks {
				if b.Type != o.Type {
					continue
				}
				if slices.Equal(b.Labels, o.Labels) {
					same = append(same, b)
				}
				others = append(others, strings.Join(b.Labels, " "))
			}
		}
		switch {
		case o.Type == "locals":
			overrideLocals(same, o)
			if len(same) == 0 {
				l.bodies = append(l.bodies, &hclsyntax.Body{Blocks: hclsyntax.Blocks{o}})
			}
		case len(same) > 0:
			mergeBody(same[0].Body, o.Body)
		case o.Type == "infrastructure" && len(others) == 1:
			// Another infrastructure altogether: its settings are no addition to
			// the other one's.
			for _, body := range l.bodies {
				for i, b := range body.Blocks {
					if b.Type == o.Type {
						body.Blocks[i] = o
					}
				}
			}
		case len(o.Labels) == 0:
			l.bodies = append(l.bodies, &hclsyntax.Body{Blocks: hclsyntax.Blocks{o}})
		default:
			label := strings.Join(o.Labels, " ")
			l.report(problem("Nothing to override",
				fmt.Sprintf("No other file has a block %s %q. %s", o.Type, label, suggest(label, others, o.Type+" block")), o.DefRange()))
		}
	}
	for _, a := range over.Attributes {
		l.report(problem("Unsupported argument", fmt.Sprintf("A manifest has no argument %q outside of its blocks.", a.Name), a.NameRange))
	}
}

func overrideLocals(base []*hclsyntax.Block, over *hclsyntax.Block) {
	for name, a := range over.Body.Attributes {
		target := (*hclsyntax.Block)(nil)
		for _, b := range base {
			if target == nil || b.Body.Attributes[name] != nil {
				target = b
			}
		}
		if target != nil {
			target.Body.Attributes[name] = a
		}
	}
}

// mergeBody lets the attributes and blocks of one body replace those of
// another, block by block where kind and labels are the same.
func mergeBody(base, over *hclsyntax.Body) {
	for name, a := range over.Attributes {
		base.Attributes[name] = a
	}
	for _, o := range over.Blocks {
		i := slices.IndexFunc(base.Blocks, func(b *hclsyntax.Block) bool {
			return b.Type == o.Type && slices.Equal(b.Labels, o.Labels)
		})
		if i < 0 {
			base.Blocks = append(base.Blocks, o)
		} else {
			mergeBody(base.Blocks[i].Body, o.Body)
		}
	}
}

// load decodes what was read, in the order in which things may refer to each
// other.
func (l *loader) load() {
	l.blocks = map[string]hcl.Blocks{}
	for _, body := range l.bodies {
		content := l.content(body, "",
			"deployment:name", "infrastructure:template", "variable:name", "locals", "secret:name", "vm:name",
			"disk:name", "network:name", "update", "pki", "release:name", "group:name")
		for _, b := range content.Blocks {
			l.blocks[b.Type] = append(l.blocks[b.Type], b)
		}
	}
	l.groupRoot = &root{noun: "group", names: labels(l.blocks["group"]), attributes: fixed("instances")}
	l.decodeVariables()
	l.decodeDeployment()
	l.decodeLocals()
	l.decodeSecrets()
	l.decodeVMs()
	l.decodeDisks()
	l.decodeNetworks()
	l.decodeInfrastructure()
	l.decodePKI()
	l.findJobs()
	l.decodeGroups()
	l.checkNetworks()
	l.resolveLinks()
	l.order()
	l.evaluate()
}

// setScope prepares what constant expressions may refer to. The other roots
// are added as their blocks are decoded.
func (l *loader) setScope() {
	l.ns = namespace{
		"var":      {noun: "variable", names: labels(l.blocks["variable"])},
		"secret":   refused("The value of a secret is not known when the manifest is read. Use it in the properties of a job."),
		"group":    refused("What is known of a group's instances is not known when the manifest is read. Use it in the properties of a job."),
		"instance": refused("This is the same for all instances. Use instance in the properties of a job."),
	}
	for _, name := range []string{"deployment", "local", "vm", "disk", "network"} {
		l.ns[name] = refused(fmt.Sprintf("A %s cannot be referred to here.", name))
	}
}

// refuseAll has every root of the manifest language, each refused.
func refuseAll(why string) namespace {
	ns := namespace{}
	for _, name := range []string{"var", "local", "deployment", "secret", "group", "instance", "vm", "disk", "network"} {
		ns[name] = refused(why)
	}
	return ns
}

func labels(blocks hcl.Blocks) []string {
	var names []string
	for _, b := range blocks {
		names = append(names, b.Labels[0])
	}
	return names
}

// release is a folder of jobs.
type release struct {
	name string // "" is what is built in
	path string
	fsys fs.FS
}

// findJobs opens the releases and lists the jobs there are.
func (l *loader) findJobs() {
	l.jobs = map[string]*Job{}
	l.each(l.blocks["release"], l.decodeRelease)
	if l.options.Jobs != nil {
		l.releases = append(l.releases, release{fsys: l.options.Jobs})
	}
	for _, r := range l.releases {
		entries, err := fs.ReadDir(r.fsys, ".")
		if err != nil {
			l.unreadable("Cannot list jobs", err, "Check the release's path and permissions.")
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
	attrs := l.content(b.Body, "path archive version sha256").Attributes
	folder, archive := attrs["path"], attrs["archive"]
	if (folder == nil) == (archive == nil) {
		l.report(problem("Release without a source",
			fmt.Sprintf("Release %q must name either a folder of jobs (path) or an archive that deploy release create has made (archive, with its sha256).", name), b.DefRange))
		return
	}
	attr := folder
	if archive != nil {
		attr = archive
	}
	r := Release{
		Name: name, Path: l.text(attrs, attr.Name, "."), Archive: archive != nil,
		Version: l.text(attrs, "version", ""), SHA256: strings.ToLower(l.text(attrs, "sha256", "")),
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
	pin := attrs["sha256"]
	switch {
	case !r.Archive:
		for _, a := range []*hcl.Attribute{attrs["version"], pin} {
			if a != nil {
				l.report(problem("Unsupported argument", fmt.Sprintf("A folder of jobs has no %s, only an archive has. Make one with deploy release create, or remove this.", a.Name), a.NameRange, a.Range))
			}
		}
	case pin == nil:
		l.report(problem("Missing sha256", fmt.Sprintf("The archive of release %q is pinned by its sha256, which deploy release create prints.", r.Name), attr.Expr.Range(), attr.Range))
		return nil
	case !sha256Pattern.MatchString(r.SHA256):
		l.report(problem("Not a sha256", "A sha256 has 64 hexadecimal digits.", pin.Expr.Range(), pin.Range))
		return nil
	}
	if l.options.OpenRelease == nil {
		l.report(problem("Cannot read release", "Releases cannot be read here.", attr.Expr.Range(), attr.Range))
		return nil
	}
	jobs, err := l.options.OpenRelease(r)
	if err != nil {
		l.report(problem("Cannot read release", fmt.Sprintf("Release %q: %v.", r.Name, err), attr.Expr.Range(), attr.Range))
		return nil
	}
	return jobs
}

var sha256Pattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// job returns the spec of a job, loaded once; nil if there is none or it is
// wrong, which is reported.
func (l *loader) job(b *hcl.Block) *Job {
	name := b.Labels[0]
	if job, done := l.jobs[name]; done {
		return job
	}
	l.jobs[name] = nil
	if !namePattern.MatchString(name) || !slices.Contains(l.jobNames, name) {
		l.report(problem("Unknown job",
			fmt.Sprintf("No release has a job %q. %s", name, suggest(name, l.jobNames, "job")), b.LabelRanges[0], b.DefRange))
		return nil
	}
	for _, r := range l.releases {
		if _, err := fs.Stat(r.fsys, name+"/job.hcl"); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		job, diags := loadJob(r.fsys, name, r.path)
		job.Release = r.name
		for name, file := range job.Files {
			l.m.Files[name] = file
		}
		l.report(diags...)
		if !diags.HasErrors() {
			l.jobs[name] = job
		}
		break
	}
	return l.jobs[name]
}
