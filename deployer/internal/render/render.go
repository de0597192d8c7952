// Package render turns a manifest, with what is known of its instances, into
// the specs that agents receive: templates to files, expressions to commands,
// and keyed digests over both. It is deterministic, and checks that it is: All
// renders everything twice.
package render

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"sync"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/manifests"
)

// Package is a built program as it goes to VMs.
type Package struct {
	Digest string
	Size   int64
}

// Instance is one rendered instance.
type Instance struct {
	// Spec is complete if Known; else its Generation and the digests of what is
	// unknown are empty.
	Spec  api.Spec
	Known bool
	// Files are the texts by job and path, for diffs.
	Files map[FileKey]Text
	// Sources are the inputs (as in api.Job.Inputs) that each part of a job refers
	// to.
	Sources map[Part][]string
	// Levels are lower bounds for facts of the jobs' processes.
	Levels []manifests.Level
}

// FileKey names a rendered file.
type FileKey struct{ Job, Path string }

// Renderer renders instances of one manifest against one set of facts. What it
// has rendered it keeps, by a digest of all that went into it, also for the
// renderers that With derives from it. It may be used from several goroutines.
type Renderer struct {
	manifest  *manifests.Manifest
	facts     manifests.Facts
	evaluator *manifests.Evaluator
	key       []byte
	packages  map[string]Package // by name, see manifests.FindPackage
	inputs    *inputs
	cache     *cache
}

type templateKey struct {
	job    *manifests.Job
	source string
}

type parsedTemplate struct {
	expr   hclsyntax.Expression
	source []byte
	diags  hcl.Diagnostics
}

// cache describes what outlives facts.
type cache struct {
	mu         sync.Mutex
	templates  map[templateKey]*parsedTemplate
	references map[*manifests.Job]*references
	jobs       map[jobKey]renderedJob // nil: rendered jobs are not kept
}

// jobKey is a job on an instance.
type jobKey struct {
	group string
	index int
	job   *manifests.Job
}

// renderedJob describes what a job adds to its instance, and of what it was made. It is
// shared and never changed.
type renderedJob struct {
	inputs string // digest of all that went in
	job    api.Job
	part   Instance
	diags  hcl.Diagnostics
}

// New makes a renderer. key keys the digests; packages are the built programs
// by name (see manifests.FindPackage).
func New(m *manifests.Manifest, f manifests.Facts, key []byte, packages map[string]Package) *Renderer {
	r := &Renderer{manifest: m, key: key, cache: newCache()}
	return r.With(f, packages)
}

func newCache() *cache {
	return &cache{
		templates: map[templateKey]*parsedTemplate{}, references: map[*manifests.Job]*references{}, jobs: map[jobKey]renderedJob{},
	}
}

// With is the renderer for other facts and packages of the same manifest.
func (r *Renderer) With(f manifests.Facts, packages map[string]Package) *Renderer {
	f.Packages = make(map[string]string, len(packages))
	for name, p := range packages {
		f.Packages[name] = p.Digest
	}
	next := *r
	next.facts, next.packages, next.evaluator = f, packages, r.manifest.Evaluator(f)
	next.inputs = &inputs{shared: map[sharedInput]input{}}
	return &next
}

// Instance renders one instance of a group. All problems are reported, not
// just the first.
func (r *Renderer) Instance(g *manifests.Group, in manifests.Instance) (*Instance, hcl.Diagnostics) {
	out, _, diags := r.instance(g, in)
	return out, diags
}

// instance also tells whether anything was rendered that was not kept.
func (r *Renderer) instance(g *manifests.Group, in manifests.Instance) (out *Instance, anew bool, diags hcl.Diagnostics) {
	out = &Instance{
		Known:   in.Address != "" && in.AgentDir != "",
		Files:   map[FileKey]Text{},
		Sources: map[Part][]string{},
		Spec: api.Spec{
			Deployment: r.manifest.Deployment.Name,
			Instance:   api.InstanceID(g.Name, in.Index),
			Group:      g.Name,
			Index:      in.Index,
			AZ:         in.AZ,
			Address:    in.Address,
		},
	}
	for _, job := range g.Jobs {
		ctx, d := r.evaluator.JobContext(g.Name, in.Index, job)
		diags = append(diags, d...)
		if d.HasErrors() {
			continue
		}
		rendered, fresh := r.job(g, in, job, ctx)
		anew = anew || fresh
		diags = append(diags, rendered.diags...)
		out.add(rendered)
		out.Levels = append(out.Levels, manifests.LevelsOf(job.Spec, ctx)...)
	}
	out.bound(r.manifest.Deployment.Firewall, g, in)
	slices.SortFunc(out.Spec.Packages, func(a, b api.Package) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(out.Spec.SystemPackages, func(a, b api.SystemPackage) int { return cmp.Compare(a.Name, b.Name) })
	if out.Known {
		out.Spec.Generation = r.digest("generation", unordered(out.Spec))
	}
	return out, anew, diags
}

// add puts a job to its instance.
func (out *Instance) add(j renderedJob) {
	out.Spec.Jobs = append(out.Spec.Jobs, j.job)
	out.Known = out.Known && j.part.Known
	maps.Copy(out.Files, j.part.Files)
	maps.Copy(out.Sources, j.part.Sources)
	for _, p := range j.part.Spec.Packages {
		if !slices.Contains(out.Spec.Packages, p) {
			out.Spec.Packages = append(out.Spec.Packages, p)
		}
	}
	for _, p := range j.part.Spec.SystemPackages {
		if !slices.ContainsFunc(out.Spec.SystemPackages, func(x api.SystemPackage) bool { return x.Name == p.Name && x.Program == p.Program }) {
			out.Spec.SystemPackages = append(out.Spec.SystemPackages, p)
		}
	}
}

// job renders a job of an instance, unless that was done from the same inputs.
func (r *Renderer) job(g *manifests.Group, in manifests.Instance, job *manifests.GroupJob, ctx *hcl.EvalContext) (out renderedJob, anew bool) {
	refs := r.references(job.Spec)
	values, digest := r.inputsOf(in, job, ctx, refs)
	key := jobKey{g.Name, in.Index, job.Spec}
	r.cache.mu.Lock()
	had, ok := r.cache.jobs[key]
	r.cache.mu.Unlock()
	if ok && had.inputs == digest {
		return had, false
	}
	jr := jobRenderer{Renderer: r, ctx: ctx, spec: job.Spec, out: &Instance{
		Known: true, Files: map[FileKey]Text{}, Sources: map[Part][]string{},
		Spec: api.Spec{Index: in.Index, Address: in.Address},
	}}
	out = renderedJob{inputs: digest, job: jr.job()}
	out.job.Inputs = values
	for part, names := range refs.parts {
		jr.out.Sources[part] = names
	}
	out.part, out.diags = *jr.out, jr.diags
	r.cache.mu.Lock()
	if r.cache.jobs != nil {
		r.cache.jobs[key] = out
	}
	r.cache.mu.Unlock()
	return out, true
}

// digest is the keyed digest of a value's canonical JSON.
func (r *Renderer) digest(purpose string, v any) string {
	data, err := json.Marshal(v) // maps are sorted, so this is canonical
	if err != nil {
		panic(fmt.Sprintf("%s does not encode: %v", purpose, err)) // plain data; cannot fail
	}
	mac := r.mac(purpose)
	mac.Write(data)
	return hex.EncodeToString(mac.Sum(nil))
}

func (r *Renderer) mac(purpose string) hash.Hash {
	mac := hmac.New(sha256.New, r.key)
	mac.Write([]byte(purpose))
	mac.Write([]byte{0})
	return mac
}

// jobRenderer renders one job of one instance and collects what goes wrong.
type jobRenderer struct {
	*Renderer
	ctx   *hcl.EvalContext
	spec  *manifests.Job
	out   *Instance
	diags hcl.Diagnostics
}

func (r *jobRenderer) job() api.Job {
	job := api.Job{Name: r.spec.Name}
	r.collectPackages()
	owners := map[string]string{} // file -> process; "" is all
	for _, t := range r.spec.Templates {
		f, ok := r.file(t)
		if !ok {
			continue
		}
		job.Files = append(job.Files, f)
		owners[f.Path] = t.Process
	}
	known := r.out.Known
	r.out.Known = true
	if m := r.spec.Mbus; m != nil {
		job.Mbus = &api.Mbus{
			Folder: r.imageDir(), Files: m.Files, Servers: r.strings(m.Servers),
			User: r.text(m.User), Password: r.text(m.Password), Scheme: r.text(m.Scheme), Choice: r.out.Spec.Index,
		}
	}
	mbusKnown := r.out.Known
	for _, p := range r.spec.Processes {
		r.out.Known = mbusKnown
		job.Processes = append(job.Processes, r.process(p, job, owners))
		if shown := r.shownStrings(p.Command); shown != nil {
			if job.Commands == nil {
				job.Commands = map[string][]string{}
			}
			job.Commands[p.Name] = shown
		}
		known = known && r.out.Known
	}
	r.out.Known = known && mbusKnown
	for _, h := range r.spec.Hooks {
		job.Hooks = append(job.Hooks, api.Hook{
			Kind: api.HookKind(h.Kind), Name: h.Name,
			Command: r.strings(h.Command), Env: r.stringMap(h.Env),
			TimeoutMS: h.Timeout.Milliseconds(), OnTimeout: h.OnTimeout, RollbackCompatible: h.RollbackCompatible,
		})
	}
	for _, l := range r.spec.Listens {
		v, opened := r.eval(l.Port, cty.String)
		if !opened && v != cty.NilVal {
			continue // its port is null: it is not opened
		}
		port := ""
		if opened {
			port = v.AsString()
		}
		job.Listens = append(job.Listens, api.Listen{
			Name: l.Name, Network: l.Network, Address: r.out.Spec.Address + ":" + port,
		})
	}
	return job
}

func (r *jobRenderer) collectPackages() {
	for _, p := range r.spec.Packages {
		switch {
		case p.System != "":
			sp := api.SystemPackage{Name: p.Name, Program: p.System, Apt: p.Apt}
			if !slices.ContainsFunc(r.out.Spec.SystemPackages, func(x api.SystemPackage) bool { return x.Name == sp.Name && x.Program == sp.Program }) {
				r.out.Spec.SystemPackages = append(r.out.Spec.SystemPackages, sp)
			}
		default:
			built, ok := manifests.FindPackage(r.spec, p.Program, r.packages)
			if !ok {
				r.diags = append(r.diags, &hcl.Diagnostic{
					Severity: hcl.DiagError, Summary: "Package is not built",
					Detail:  fmt.Sprintf("Job %q needs the program %q, which is neither in its release nor among the built packages. Run make build.", r.spec.Name, p.Program),
					Subject: p.Range.Ptr(),
				})
				continue
			}
			pkg := api.Package{Name: p.Program, Digest: built.Digest, Size: built.Size, Format: api.PackageTarGz}
			if !slices.Contains(r.out.Spec.Packages, pkg) {
				r.out.Spec.Packages = append(r.out.Spec.Packages, pkg)
			}
		}
	}
}

func (r *jobRenderer) file(t *manifests.Template) (api.File, bool) {
	parsed := r.template(r.spec, t)
	if parsed.diags.HasErrors() {
		r.diags = append(r.diags, parsed.diags...)
		return api.File{}, false
	}
	text, diags := Text{{Text: string(parsed.source)}}, hcl.Diagnostics(nil)
	if parsed.expr != nil {
		text, diags = segments(parsed.expr, r.ctx)
	}
	r.diags = append(r.diags, diags...)
	if diags.HasErrors() {
		return api.File{}, false
	}
	r.out.Files[FileKey{r.spec.Name, t.Destination}] = text
	content, sensitive := text.Bytes()
	f := api.File{
		Path: t.Destination, Mode: t.Mode, Content: content,
		OnChange: api.OnChange(t.OnChange), Sensitive: sensitive,
	}
	if len(sensitive) > 0 {
		f.Mode &^= 0o027 // whatever the job says, no secret is for others to read
	}
	if !text.Known() {
		r.out.Known = false
		return f, true
	}
	mac := r.mac("file")
	fmt.Fprintf(mac, "%o\n", f.Mode)
	mac.Write(content)
	f.Digest = hex.EncodeToString(mac.Sum(nil))
	return f, true
}

func (r *Renderer) template(job *manifests.Job, t *manifests.Template) *parsedTemplate {
	r.cache.mu.Lock()
	defer r.cache.mu.Unlock()
	key := templateKey{job, t.Source}
	if p := r.cache.templates[key]; p != nil {
		return p
	}
	p := &parsedTemplate{}
	r.cache.templates[key] = p
	name := path.Join("templates", t.Source)
	source, err := fs.ReadFile(job.FS, name)
	if err != nil {
		p.diags = hcl.Diagnostics{{
			Severity: hcl.DiagError, Summary: "Cannot read template",
			Detail: fmt.Sprintf("Job %q: %v.", job.Name, err), Subject: t.Range.Ptr(),
		}}
		return p
	}
	p.source = source
	if t.Raw {
		return p
	}
	filename := path.Join(path.Dir(job.Range.Filename), name) // as manifests calls it
	p.expr, p.diags = hclsyntax.ParseTemplate(source, filename, hcl.InitialPos)
	// Remembered with the job's sources, so that diagnostics can show the line.
	job.Files[filename] = &hcl.File{Bytes: source}
	r.manifest.Files[filename] = job.Files[filename]
	return p
}

// imageDir is the job's path.image, "" while it is unknown.
func (r *jobRenderer) imageDir() string {
	if dir := r.ctx.Variables["path"].GetAttr("image"); dir.IsKnown() {
		return dir.AsString()
	}
	return ""
}

func (r *jobRenderer) process(p *manifests.Process, job api.Job, owners map[string]string) api.Process {
	out := api.Process{
		Name: p.Name, Command: r.strings(p.Command), Env: r.stringMap(p.Env),
		User: r.text(p.User), Dir: r.text(p.Dir),
		Limits:   api.Limits{OpenFiles: uint64(p.OpenFiles), MemoryBytes: uint64(p.MemoryMB) << 20},
		KillMode: api.KillMode(p.KillMode), StopSignal: p.StopSignal, StopGrace: p.StopGrace.Milliseconds(),
		Control: p.Control,
	}
	known := r.out.Known // its checks and routes do not count: they touch no process
	out.Routes = r.routes(p)
	for _, c := range p.Checks {
		out.Checks = append(out.Checks, api.Check{
			Kind: api.CheckKind(c.Kind), Target: r.text(c.Target), Host: r.text(c.Host), Command: r.strings(c.Command),
			IntervalMS: c.Interval.Milliseconds(), TimeoutMS: c.Timeout.Milliseconds(), Failures: c.Failures,
		})
	}
	if rl := p.Reload; rl != nil {
		out.Reload = &api.Reload{
			Signal: rl.Signal, Command: r.strings(rl.Command), Control: rl.Control,
			Verify: r.strings(rl.Verify), TimeoutMS: rl.Timeout.Milliseconds(),
		}
	}
	if len(out.Command) == 0 && out.Command != nil {
		r.diags = append(r.diags, &hcl.Diagnostic{
			Severity: hcl.DiagError, Summary: "Empty command",
			Detail:  fmt.Sprintf("Process %q of job %q has nothing to run.", p.Name, r.spec.Name),
			Subject: p.Range.Ptr(),
		})
	}
	restartOn, restartKnown := r.restartOn(p)
	r.processDigests(&out, job, owners, restartOn, known && restartKnown)
	return out
}

// restartOn returns a keyed digest of the values that the process must be
// restarted for although it was not started with them: the properties with
// on_change = "restart", and restart_on. It is empty if there are none. known
// reports whether all these values are.
func (r *jobRenderer) restartOn(p *manifests.Process) (digest string, known bool) {
	mac, found := r.mac("restart on"), false
	known = true
	add := func(name string, v cty.Value) {
		fmt.Fprintf(mac, "%s=", name)
		known = hashValue(mac, v) && known
		found = true
	}
	properties := slices.SortedFunc(slices.Values(r.spec.Properties), func(a, b *manifests.Property) int { return cmp.Compare(a.Name, b.Name) })
	for _, property := range properties {
		if property.OnChange == "restart" {
			add(property.Name, r.ctx.Variables["property"].GetAttr(property.Name))
		}
	}
	if p.RestartOn != nil {
		v, diags := manifests.Value(p.RestartOn, r.ctx)
		r.diags = append(r.diags, diags...)
		if diags.HasErrors() {
			return "", false
		}
		add("", v)
	}
	if !known {
		r.out.Known = false
	}
	if !found {
		return "", true
	}
	return hex.EncodeToString(mac.Sum(nil)), known
}

// processDigests covers what a restart, and what a reload, would have to renew.
// Either stays empty while something of it is unknown; known tells whether the
// process itself is known.
func (r *jobRenderer) processDigests(p *api.Process, job api.Job, owners map[string]string, restartOn string, known bool) {
	var restart, reload []string
	reloadKnown := true
	for _, f := range job.Files {
		if owner := owners[f.Path]; owner != "" && owner != p.Name {
			continue
		}
		entry := f.Path + "=" + f.Digest
		switch {
		case f.OnChange == api.OnChangeRestart, f.OnChange == api.OnChangeReload && p.Reload == nil:
			known = known && f.Digest != ""
			restart = append(restart, entry)
		case f.OnChange == api.OnChangeReload:
			reloadKnown = reloadKnown && f.Digest != ""
			reload = append(reload, entry)
		}
	}
	slices.Sort(restart) // template blocks may stand in any order
	slices.Sort(reload)
	if reloadKnown {
		p.ReloadDigest = r.digest("reload", reload)
	}
	if !known {
		return
	}
	// Checks, grace periods and the reload command are the agent's business and
	// change without touching the process.
	p.Digest = r.digest("process", struct {
		Command []string
		Env     map[string]string
		User    string
		Dir     string
		Limits  api.Limits
		Control bool
		Files   []string
		Mbus    *api.Mbus `json:",omitempty"` // rewrites what the process reads when it starts

		RestartOn string `json:",omitempty"`
		OwnUser   bool   `json:",omitempty"` // on the bus: a connection keeps its user
	}{p.Command, p.Env, p.User, p.Dir, p.Limits, p.Control, restart, job.Mbus, restartOn, r.spec.Bus != nil})
}

// eval evaluates an expression to a known, unmarked value. ok is false if it
// is nil, in error, or not known yet.
func (r *jobRenderer) eval(e hcl.Expression, want cty.Type) (cty.Value, bool) {
	if e == nil {
		return cty.NilVal, false
	}
	v, diags := manifests.Value(e, r.ctx)
	r.diags = append(r.diags, diags...)
	if diags.HasErrors() {
		return cty.NilVal, false
	}
	v, _ = v.UnmarkDeep()
	if want == cty.String && v.Type() == cty.Number && v.IsKnown() && !v.IsNull() {
		return cty.StringVal(numberText(v)), true
	}
	v, err := convert.Convert(v, want)
	if err != nil {
		r.diags = append(r.diags, &hcl.Diagnostic{
			Severity: hcl.DiagError, Summary: "Wrong type",
			Detail:  fmt.Sprintf("Job %q: %s.", r.spec.Name, err),
			Subject: e.Range().Ptr(),
		})
		return cty.NilVal, false
	}
	if !v.IsWhollyKnown() {
		r.out.Known = false
		return cty.NilVal, false
	}
	return v, !v.IsNull()
}

func (r *jobRenderer) text(e hcl.Expression) string {
	v, ok := r.eval(e, cty.String)
	if !ok {
		return ""
	}
	return v.AsString()
}

func (r *jobRenderer) strings(e hcl.Expression) []string {
	v, ok := r.eval(e, cty.List(cty.String))
	if !ok {
		return nil
	}
	out := make([]string, 0, v.LengthInt())
	for i, s := range v.AsValueSlice() {
		if s.IsNull() {
			r.diags = append(r.diags, &hcl.Diagnostic{
				Severity: hcl.DiagError, Summary: "Null in a command",
				Detail:  "Element " + strconv.Itoa(i) + " of this list is null.",
				Subject: e.Range().Ptr(),
			})
			continue
		}
		out = append(out, s.AsString())
	}
	return out
}

func (r *jobRenderer) stringMap(e hcl.Expression) map[string]string {
	v, ok := r.eval(e, cty.Map(cty.String))
	if !ok {
		return nil
	}
	out := map[string]string{}
	for k, s := range maps.All(v.AsValueMap()) {
		if !s.IsNull() {
			out[k] = s.AsString()
		}
	}
	return out
}
