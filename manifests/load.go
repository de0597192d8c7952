package manifests

import (
	"fmt"
	"io/fs"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// Options are the inputs of Load beside the manifest's files.
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
	// Prefix precedes the names of files in the paths that the user typed: "" or
	// "clusters/". Diagnostics show these paths, and the path of a release is
	// relative to it.
	Prefix string
	// Files are the files that domains' certificates are read from, by their paths
	// from the manifest's folder; nil: the file system that Load is given.
	Files fs.FS
	// OpenRelease returns the jobs of a release, a folder each; it verifies an
	// archive. Nil: manifests with releases are refused.
	OpenRelease func(Release) (fs.FS, error)
}

// VarFile is a file of variables that was read.
type VarFile struct {
	Path   string // for diagnostics
	Source []byte
}

// Release is a release block: a folder of jobs, or an archive of them.
type Release struct {
	Name    string // the block's label
	Path    string // of folder or archive, as the user would type it
	Archive bool
	Version string // of an archive; "": any
	SHA256  string // of an archive: 64 hex digits
	// PublicKeys are those of minisign by one of which an archive must be signed; nil:
	// it need not be signed.
	PublicKeys []string
}

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
			Functions: syntax.Functions(),
		},
	}
	files := &reader{m: m, prefix: o.Prefix}
	if !files.read(fsys, name) {
		return m, syntax.Tidy(files.diags, m.Files)
	}
	l := &loader{m: m, options: o, folder: certificateFolder(fsys, name, o.Files), bodies: files.bodies, edges: map[string]map[string]hcl.Range{}}
	l.Context = m.base
	l.Report(files.diags...)
	l.load()
	return m, syntax.Tidy(l.Diags, m.Files)
}

// loader builds one manifest.
type loader struct {
	syntax.Decoder
	m       *Manifest
	options Options
	folder  fs.FS // of the files that domains name

	bodies    []*hclsyntax.Body // of the files, overrides merged
	blocks    map[string]hcl.Blocks
	vms       map[string]*VM
	stemcells map[string]*Stemcell
	disks     map[string]*Disk
	networks  map[string]*Network
	releases  []release
	jobs      map[string]*Job // nil: could not be loaded
	jobNames  []string
	// incomplete: some job could not be loaded, so what others miss need not be
	// missing.
	incomplete bool
	unresolved map[*GroupJob]bool // a link of theirs has no provider
	locals     map[string]*local
	groupRoot  *syntax.Root
	// edges say where a group came to require another one.
	edges map[string]map[string]hcl.Range
}

// load decodes what was read, in the order in which things may refer to each
// other.
func (l *loader) load() {
	l.blocks = map[string]hcl.Blocks{}
	for _, body := range l.bodies {
		content := l.Content(body, "",
			"deployment:name", "infrastructure:template", "variable:name", "locals", "secret:name", "stemcell:name", "vm:name",
			"disk:name", "network:name", "update", "pki", "release:name", "domain:name", "acme", "group:name", "moved")
		for _, b := range content.Blocks {
			l.blocks[b.Type] = append(l.blocks[b.Type], b)
		}
	}
	l.groupRoot = &syntax.Root{Noun: "group", Names: syntax.Labels(l.blocks["group"]), Attributes: syntax.Fixed("instances")}
	l.decodeVariables()
	l.decodeDeployment()
	l.decodeLocals()
	l.decodeSecrets()
	decodeStemcells(l)
	l.decodeVMs()
	l.decodeDisks()
	l.decodeNetworks()
	l.decodeInfrastructure()
	l.decodePKI()
	l.findJobs()
	l.decodeGroups()
	l.decodeMoves()
	domains := domainLoader{l}
	domains.decode()
	l.checkNetworks()
	l.resolveLinks()
	l.order()
	domains.findPorts()
	l.evaluate()
}

// setScope prepares what constant expressions may refer to. The other roots
// are added as their blocks are decoded.
func (l *loader) setScope() {
	l.Constants = syntax.Namespace{
		"var":      {Noun: "variable", Names: syntax.Labels(l.blocks["variable"])},
		"secret":   syntax.Refused("The value of a secret is not known when the manifest is read. Use it in the properties of a job."),
		"group":    syntax.Refused("What is known of a group's instances is not known when the manifest is read. Use it in the properties of a job."),
		"instance": syntax.Refused("This is the same for all instances. Use instance in the properties of a job."),
	}
	for _, name := range []string{"deployment", "local", "stemcell", "vm", "disk", "network"} {
		l.Constants[name] = syntax.Refused(fmt.Sprintf("A %s cannot be referred to here.", name))
	}
}

// refuseAll has every root of the manifest language, each refused.
func refuseAll(why string) syntax.Namespace {
	ns := syntax.Namespace{}
	for _, name := range []string{"var", "local", "deployment", "secret", "group", "instance", "stemcell", "vm", "disk", "network"} {
		ns[name] = syntax.Refused(why)
	}
	return ns
}
