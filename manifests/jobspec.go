package manifests

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// The defaults of a job.hcl, beside those that the agent has.
const (
	defaultTemplateMode  = 0o640
	defaultStopGrace     = 10 * time.Second
	defaultCheckInterval = time.Second
	defaultCheckTimeout  = time.Second
	defaultCheckFailures = 3
	defaultReloadTimeout = 10 * time.Second
	defaultHookTimeout   = 60 * time.Second
)

// signals are those that a job may name, as kill(1) calls them.
var signals = []string{"TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH", "KILL", "ABRT", "ALRM", "CONT", "TTIN", "TTOU"}

// hookKinds are the moments of an instance's life at which a hook may run.
var hookKinds = []string{"check", "pre_start", "post_start", "pre_stop", "drain", "post_stop", "post_deploy", "errand"}

var (
	stringsType   = cty.List(cty.String)
	stringMapType = cty.Map(cty.String)
)

// wanted is an expression of a job with the type it must have.
type wanted struct {
	expr hcl.Expression
	want cty.Type
	what string // "the command of process \"router\""
}

// LoadJob reads the job in the folder name of fsys: its job.hcl, and the
// templates as far as their references go.
//
// All problems are reported at once. The job is never nil: with errors it is
// not fit for use, but its Files hold the sources for the printer.
func LoadJob(fsys fs.FS, name string) (*Job, hcl.Diagnostics) {
	return loadJob(fsys, name, "")
}

// loadJob is LoadJob with the path of fsys, for the names of files in
// diagnostics.
func loadJob(fsys fs.FS, name, prefix string) (*Job, hcl.Diagnostics) {
	l := &jobLoader{
		job:    &Job{Name: name, Files: map[string]*hcl.File{}},
		folder: path.Join(prefix, name),
	}
	l.ctx = &hcl.EvalContext{Functions: Functions()}
	l.ns = namespace{}
	for _, first := range []string{"property", "instance", "group", "deployment", "path", "package", "link", "certificate"} {
		l.ns[first] = refused("This must be a constant.")
	}
	l.load(fsys)
	return l.job, tidy(l.diags, l.job.Files)
}

// jobLoader builds one job.
type jobLoader struct {
	decoder
	job    *Job
	folder string
	scope  namespace // of expressions that are evaluated per instance
}

func (l *jobLoader) load(fsys fs.FS) {
	filename := path.Join(l.folder, "job.hcl")
	if !namePattern.MatchString(l.job.Name) {
		l.report(&hcl.Diagnostic{Severity: hcl.DiagError, Summary: "Invalid job name",
			Detail: fmt.Sprintf("%q cannot be the name of a job: a lower-case letter first, then lower-case letters, digits, '_' and '-' only.", l.job.Name)})
		return
	}
	folder, err := fs.Sub(fsys, l.job.Name)
	if err == nil {
		l.job.FS = folder
		var source []byte
		if source, err = fs.ReadFile(folder, "job.hcl"); err == nil {
			l.parse(source, filename)
			return
		}
	}
	l.report(&hcl.Diagnostic{Severity: hcl.DiagError, Summary: "Cannot read job",
		Detail: fmt.Sprintf("Job %q: %v. A job is a folder with a job.hcl.", l.job.Name, err)})
}

func (l *jobLoader) parse(source []byte, filename string) {
	file, body, diags := parseConfig(source, filename)
	l.job.Files[filename] = file
	l.report(diags...)
	if diags.HasErrors() {
		return
	}
	l.job.Range = body.MissingItemRange()
	content := l.content(body, "description",
		"property:name", "provides:link", "consumes:link", "package:name", "certificate:name", "template:source",
		"process:name", "hook:kind", "listen:name", "mbus")
	l.job.Description = l.text(content.Attributes, "description", "")
	blocks := content.Blocks.ByType()
	l.scope = namespace{
		"property":    {noun: "property", names: labels(blocks["property"])},
		"instance":    {noun: "attribute of an instance", names: instanceAttributes},
		"deployment":  {noun: "attribute of the deployment", names: []string{"name", "id", "domain"}},
		"path":        {noun: "path", names: []string{"root", "config", "data", "log", "run", "image"}},
		"package":     {noun: "package", names: labels(blocks["package"]), attributes: fixed("path")},
		"link":        {noun: "link", names: labels(blocks["consumes"]), attributes: fixed("instances", "property")},
		"certificate": {noun: "certificate", names: labels(blocks["certificate"]), attributes: fixed("ca", "certificate", "private_key")},
	}
	for _, first := range []string{"var", "local", "secret", "group", "vm", "disk", "network"} {
		l.scope[first] = refused(fmt.Sprintf("A job does not know the manifest that uses it, so it cannot refer to %s. Declare a property, and let the manifest set it.", first))
	}
	others := l.scope["group"].refuse
	l.scope["group"] = &root{noun: "attribute of the own group", names: []string{"instances", "leaving"}, refuse: func(name string) string {
		if name == "instances" || name == "leaving" {
			return ""
		}
		return others(name)
	}}
	l.each(blocks["property"], l.property)
	l.each(blocks["provides"], l.provides)
	l.each(blocks["consumes"], l.consumes)
	l.each(blocks["package"], l.pack)
	l.each(blocks["certificate"], l.certificate)
	processes := labels(blocks["process"])
	destinations := map[string]hcl.Range{}
	l.each(blocks["template"], func(b *hcl.Block, name string) { l.template(b, processes, destinations) })
	l.each(blocks["process"], l.process)
	hooks := map[string]hcl.Range{}
	for _, b := range blocks["hook"] {
		l.hook(b, hooks)
	}
	l.each(blocks["listen"], l.listen)
	if b := l.single(blocks["mbus"]); b != nil {
		l.mbus(b)
	}
	l.report(l.job.evaluate(l.job.unknownContext())...)
}

func (j *Job) property(name string) *Property {
	for _, p := range j.Properties {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// expression takes an attribute to be evaluated per instance; nil if it is
// missing or refers to what is not there, which is reported.
func (l *jobLoader) expression(attrs hcl.Attributes, name string, want cty.Type, of string) hcl.Expression {
	attr := attrs[name]
	if attr == nil {
		return nil
	}
	diags := l.scope.check(attr.Expr)
	l.report(diags...)
	if diags.HasErrors() {
		return nil
	}
	l.job.expressions = append(l.job.expressions, wanted{attr.Expr, want, name + " of " + of})
	return attr.Expr
}

func blockTitle(b *hcl.Block) string {
	title := b.Type
	for _, label := range b.Labels {
		title += " " + strconv.Quote(label)
	}
	return title
}

func (l *jobLoader) property(b *hcl.Block, name string) {
	l.checkIdentifier(b)
	content := l.content(b.Body, "type default description required sensitive", "validation")
	attrs := content.Attributes
	p := &Property{
		Name:        name,
		Default:     cty.NilVal,
		Description: l.text(attrs, "description", ""),
		Required:    l.flag(attrs, "required", false),
		Sensitive:   l.flag(attrs, "sensitive", false),
		Range:       b.DefRange,
		typed:       l.typed(attrs),
	}
	p.Type = p.typed.Type
	p.Validations = l.validations(content.Blocks, namespace{
		"property": l.scope["property"],
		"group":    l.scope["group"],
		"instance": refused("A validation can refer to properties and group.instances only."),
	})
	if attr := attrs["default"]; attr != nil {
		if diags := l.ns.check(attr.Expr); diags.HasErrors() {
			l.report(diags...)
		} else if v, diags := attr.Expr.Value(l.ctx); diags.HasErrors() {
			l.report(diags...)
		} else if v, err := p.typed.convert(v); err != nil {
			l.report(problem("Wrong type", fmt.Sprintf("The default of property %q is not of type %s: %s.", name, typeName(p.Type), conversionProblem(err)), attr.Expr.Range(), attr.Range))
		} else if !v.IsNull() {
			p.Default = v
		}
		if p.Required {
			l.report(problem("Default of a required property",
				fmt.Sprintf("Property %q must be set by the manifest, so its default would never be used. Remove one of the two.", name), attr.NameRange, b.DefRange))
		}
	}
	l.job.Properties = append(l.job.Properties, p)
}

// typeName is a type in the words of the language.
func typeName(t cty.Type) string { return typeexpr.TypeString(t) }

func (l *jobLoader) provides(b *hcl.Block, name string) {
	l.checkIdentifier(b)
	attrs := l.content(b.Body, "type properties").Attributes
	p := &Provide{Name: name, Type: l.text(attrs, "type", name), Properties: l.texts(attrs, "properties"), Range: b.DefRange}
	for _, property := range p.Properties {
		if names := l.scope["property"].names; !slices.Contains(names, property) {
			l.report(problem("Unknown property",
				fmt.Sprintf("This job has no property %q to publish. %s", property, suggest(property, names, "property")), attrs["properties"].Expr.Range(), attrs["properties"].Range))
		}
	}
	l.job.Provides = append(l.job.Provides, p)
}

func (l *jobLoader) consumes(b *hcl.Block, name string) {
	l.checkIdentifier(b)
	attrs := l.content(b.Body, "type optional").Attributes
	l.job.Consumes = append(l.job.Consumes, &Consume{
		Name: name, Type: l.text(attrs, "type", name), Optional: l.flag(attrs, "optional", false), Range: b.DefRange,
	})
}

// pack reads a package block.
func (l *jobLoader) pack(b *hcl.Block, name string) {
	l.checkIdentifier(b)
	attrs := l.content(b.Body, "program system apt").Attributes
	p := &JobPackage{
		Name: name, Program: l.text(attrs, "program", ""), System: l.text(attrs, "system", ""), Apt: l.texts(attrs, "apt"), Range: b.DefRange,
	}
	if (p.Program == "") == (p.System == "") {
		l.report(problem("Package without a source",
			fmt.Sprintf("Package %q must name either a program of the release (program = %q) or one of the VM's package manager (system = %q).", name, name, name), b.DefRange))
	}
	if attrs["apt"] != nil && p.System == "" {
		l.report(problem("Unsupported argument", "apt says which packages provide a system program, so it needs system beside it.", attrs["apt"].NameRange, attrs["apt"].Range))
	}
	l.job.Packages = append(l.job.Packages, p)
}

func (l *jobLoader) certificate(b *hcl.Block, name string) {
	l.checkIdentifier(b)
	attrs := l.content(b.Body, "names").Attributes
	c := &Certificate{Name: name, Range: b.DefRange}
	if attrs["names"] != nil && refersTo(attrs["names"].Expr, "certificate") {
		l.report(problem("Reference not allowed here", "The names in a certificate cannot depend on a certificate.", attrs["names"].Expr.Range(), attrs["names"].Range))
	} else {
		c.Names = l.expression(attrs, "names", stringsType, blockTitle(b))
	}
	l.job.Certificates = append(l.job.Certificates, c)
}

func (l *jobLoader) template(b *hcl.Block, processes []string, destinations map[string]hcl.Range) {
	attrs := l.content(b.Body, "destination mode on_change process").Attributes
	source := b.Labels[0]
	t := &Template{Source: source, Mode: defaultTemplateMode, Range: b.DefRange}
	t.Destination = l.text(attrs, "destination", strings.TrimSuffix(strings.TrimSuffix(source, ".tmpl"), ".tftpl"))
	t.OnChange = l.choice(attrs, "on_change", "restart", "restart", "reload", "none")
	t.Process = l.text(attrs, "process", "")
	if attr := attrs["process"]; attr != nil && t.Process != "" && !slices.Contains(processes, t.Process) {
		l.report(problem("Unknown process",
			fmt.Sprintf("This job has no process %q. %s", t.Process, suggest(t.Process, processes, "process")), attr.Expr.Range(), attr.Range))
	}
	if attr := attrs["mode"]; attr != nil {
		if v, ok := l.eval(attr, cty.String); ok {
			mode, err := strconv.ParseUint(v.AsString(), 8, 32)
			if err != nil || mode > 0o777 || mode&0o400 == 0 {
				l.report(problem("Invalid mode",
					fmt.Sprintf("%q is not the mode of a file that its owner can read: write permission bits in octal and in quotes, such as \"0640\".", v.AsString()), attr.Expr.Range(), attr.Range))
			} else {
				t.Mode = uint32(mode)
			}
		}
	}
	at := b.DefRange
	if attr := attrs["destination"]; attr != nil {
		at = attr.Expr.Range()
	}
	if !fs.ValidPath(t.Destination) || t.Destination == "." {
		l.report(problem("Invalid destination",
			fmt.Sprintf("%q must be a path below the job's configuration folder, without \"..\" and not beginning with \"/\".", t.Destination), at, b.DefRange))
	} else if first, taken := destinations[t.Destination]; taken {
		l.report(problem("Duplicate destination", fmt.Sprintf("The template at %s has the destination %q too.", place(first), t.Destination), at, b.DefRange))
	} else {
		destinations[t.Destination] = b.DefRange
	}
	l.job.Templates = append(l.job.Templates, t)
	l.templateSource(b, source)
}

// templateSource checks the file of a template.
func (l *jobLoader) templateSource(b *hcl.Block, source string) {
	name := path.Join("templates", source)
	var text []byte
	err := error(nil)
	if !fs.ValidPath(source) {
		err = fmt.Errorf("%q is not a path below templates/", source)
	} else {
		text, err = fs.ReadFile(l.job.FS, name)
	}
	if err != nil {
		var known []string
		if entries, err := fs.ReadDir(l.job.FS, "templates"); err == nil {
			for _, e := range entries {
				known = append(known, e.Name())
			}
		}
		l.report(problem("Missing template",
			fmt.Sprintf("Cannot read the source of template %q: %v. %s", source, err, suggest(source, known, "template")), b.LabelRanges[0], b.DefRange))
		return
	}
	filename := path.Join(l.folder, name)
	l.job.Files[filename] = &hcl.File{Bytes: text}
	expr, diags := parseTemplate(text, filename)
	if !diags.HasErrors() {
		diags = append(diags, l.scope.check(expr)...)
	}
	l.report(diags...)
	if !diags.HasErrors() {
		l.job.expressions = append(l.job.expressions, wanted{expr, cty.String, blockTitle(b)})
	}
}

func (l *jobLoader) process(b *hcl.Block, name string) {
	l.checkName(b)
	content := l.content(b.Body, "command! env user dir open_files memory_mb kill_mode stop_signal stop_grace control",
		"check:kind", "reload")
	attrs, title := content.Attributes, blockTitle(b)
	p := &Process{
		Name:       name,
		Command:    l.expression(attrs, "command", stringsType, title),
		Env:        l.expression(attrs, "env", stringMapType, title),
		User:       l.expression(attrs, "user", cty.String, title),
		Dir:        l.expression(attrs, "dir", cty.String, title),
		OpenFiles:  l.whole(attrs, "open_files", 0, 1, mostMegabytes),
		MemoryMB:   l.whole(attrs, "memory_mb", 0, 1, mostMegabytes),
		KillMode:   l.choice(attrs, "kill_mode", "group", "process", "group", "cgroup"),
		StopSignal: l.choice(attrs, "stop_signal", "TERM", signals...),
		StopGrace:  l.duration(attrs, "stop_grace", defaultStopGrace, time.Millisecond),
		Control:    l.flag(attrs, "control", false),
		Range:      b.DefRange,
	}
	blocks := content.Blocks.ByType()
	for _, c := range blocks["check"] {
		l.check(p, c)
	}
	if r := l.single(blocks["reload"]); r != nil {
		l.reload(p, r)
	}
	l.job.Processes = append(l.job.Processes, p)
}

func (l *jobLoader) check(p *Process, b *hcl.Block) {
	kind, title := b.Labels[0], fmt.Sprintf("%s of process %q", blockTitle(b), p.Name)
	var attributes string
	switch kind {
	case "http":
		attributes = "target! host"
	case "tcp":
		attributes = "target!"
	case "exec":
		attributes = "command!"
	default:
		l.report(problem("Unknown kind of check",
			fmt.Sprintf("A check cannot be of the kind %q. %s", kind, suggest(kind, []string{"http", "tcp", "exec"}, "kind")), b.LabelRanges[0], b.DefRange))
		return
	}
	attrs := l.content(b.Body, attributes+" interval timeout failures").Attributes
	p.Checks = append(p.Checks, &Check{
		Kind:     kind,
		Target:   l.expression(attrs, "target", cty.String, title),
		Host:     l.expression(attrs, "host", cty.String, title),
		Command:  l.expression(attrs, "command", stringsType, title),
		Interval: l.duration(attrs, "interval", defaultCheckInterval, time.Millisecond),
		Timeout:  l.duration(attrs, "timeout", defaultCheckTimeout, time.Millisecond),
		Failures: l.whole(attrs, "failures", defaultCheckFailures, 1, 1000),
		Range:    b.DefRange,
	})
}

func (l *jobLoader) reload(p *Process, b *hcl.Block) {
	attrs, title := l.content(b.Body, "signal command control verify timeout").Attributes, fmt.Sprintf("reload of process %q", p.Name)
	p.Reload = &Reload{
		Signal:  l.choice(attrs, "signal", "", signals...),
		Command: l.expression(attrs, "command", stringsType, title),
		Control: l.flag(attrs, "control", false),
		Verify:  l.expression(attrs, "verify", stringsType, title),
		Timeout: l.duration(attrs, "timeout", defaultReloadTimeout, time.Millisecond),
		Range:   b.DefRange,
	}
	ways := boolInt(attrs["signal"] != nil) + boolInt(attrs["command"] != nil) + boolInt(attrs["control"] != nil)
	if ways != 1 {
		l.report(problem("One way to reload",
			"A reload block must have exactly one of signal (\"HUP\"), command, and control = true.", b.DefRange))
	}
	if p.Reload.Control && !p.Control {
		l.report(problem("Reload without a control socket",
			fmt.Sprintf("Process %q can be told to reload through its control socket only if it has one: set control = true in the process block.", p.Name), attrs["control"].Range, b.DefRange))
	}
}

func (l *jobLoader) hook(b *hcl.Block, seen map[string]hcl.Range) {
	kind := b.Labels[0]
	if !slices.Contains(hookKinds, kind) {
		l.report(problem("Unknown kind of hook",
			fmt.Sprintf("A hook cannot be of the kind %q. %s", kind, suggest(kind, hookKinds, "kind")), b.LabelRanges[0], b.DefRange))
		return
	}
	attributes := "command! env timeout on_timeout"
	switch kind {
	case "errand":
		attributes += " name!"
	case "pre_start":
		attributes += " rollback"
	}
	attrs, title := l.content(b.Body, attributes).Attributes, blockTitle(b)
	h := &Hook{
		Kind:      kind,
		Name:      l.text(attrs, "name", ""),
		Command:   l.expression(attrs, "command", stringsType, title),
		Env:       l.expression(attrs, "env", stringMapType, title),
		Timeout:   l.duration(attrs, "timeout", defaultHookTimeout, time.Millisecond),
		OnTimeout: l.choice(attrs, "on_timeout", "fail", "fail", "continue"),
		Range:     b.DefRange,

		RollbackCompatible: l.choice(attrs, "rollback", "incompatible", "incompatible", "compatible") == "compatible",
	}
	if attr := attrs["name"]; attr != nil && h.Name != "" && !namePattern.MatchString(h.Name) {
		l.report(problem("Invalid name",
			fmt.Sprintf("%q cannot be the name of an errand: a lower-case letter first, then lower-case letters, digits, '_' and '-' only.", h.Name), attr.Expr.Range(), attr.Range))
	}
	key := kind + " " + h.Name
	if first, again := seen[key]; again {
		l.report(duplicate("hook", strings.TrimSpace(key), b.DefRange, first))
		return
	}
	seen[key] = b.DefRange
	l.job.Hooks = append(l.job.Hooks, h)
}

func (l *jobLoader) listen(b *hcl.Block, name string) {
	attrs := l.content(b.Body, "port! network").Attributes
	l.job.Listens = append(l.job.Listens, &Listen{
		Name:    name,
		Network: l.choice(attrs, "network", "tcp", "tcp", "udp"),
		Port:    l.expression(attrs, "port", cty.Number, blockTitle(b)),
		Range:   b.DefRange,
	})
}

func (l *jobLoader) mbus(b *hcl.Block) {
	attrs, title := l.content(b.Body, "files! servers user password scheme").Attributes, "mbus block"
	m := &Mbus{
		Files:    l.texts(attrs, "files"),
		Servers:  l.expression(attrs, "servers", stringsType, title),
		User:     l.expression(attrs, "user", cty.String, title),
		Password: l.expression(attrs, "password", cty.String, title),
		Scheme:   l.expression(attrs, "scheme", cty.String, title),
		Range:    b.DefRange,
	}
	l.job.Mbus = m
	link := slices.IndexFunc(l.job.Consumes, func(c *Consume) bool { return c.Type == BusLink })
	if link >= 0 {
		linked := func(attr string, want cty.Type, source string) hcl.Expression {
			source = strings.ReplaceAll(source, "LINK", "link."+l.job.Consumes[link].Name)
			expr, diags := hclsyntax.ParseExpression([]byte(source), b.DefRange.Filename, b.DefRange.Start)
			l.report(diags...)
			l.job.expressions = append(l.job.expressions, wanted{expr, want, attr + " of " + title})
			return expr
		}
		if attrs["servers"] == nil {
			m.Servers = linked("servers", stringsType, `[for bus in LINK.instances : "${bus.address}:${LINK.property.port}"]`)
		}
		if attrs["user"] == nil && attrs["password"] == nil {
			m.User = linked("user", cty.String, "try(LINK.property.user, null)")
			m.Password = linked("password", cty.String, "try(LINK.property.password, null)")
		}
	} else if attrs["servers"] == nil {
		l.report(problem("Missing servers",
			"An mbus block must say where the bus is: let the job consume the link \"bus\", or set servers, a list of \"host:port\".", b.DefRange))
	}
	for _, pattern := range l.job.Mbus.Files {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			l.report(problem("Invalid pattern",
				fmt.Sprintf("%q is not a pattern of file names, such as \"config/*.yml\".", pattern), attrs["files"].Expr.Range(), attrs["files"].Range))
		}
	}
}

// unknownContext is what expressions see while nothing is known but types.
func (j *Job) unknownContext() *hcl.EvalContext {
	properties, links, certificates := map[string]cty.Value{}, map[string]cty.Value{}, map[string]cty.Value{}
	for _, p := range j.Properties {
		properties[p.Name] = cty.UnknownVal(p.Type)
	}
	for _, c := range j.Consumes {
		links[c.Name] = cty.ObjectVal(map[string]cty.Value{
			"instances": cty.UnknownVal(cty.List(instanceType)), "property": cty.DynamicVal,
		})
	}
	for _, c := range j.Certificates {
		certificates[c.Name] = attributes(cty.NilVal, secretAttributes(SecretCertificate))
	}
	packages := map[string]cty.Value{}
	for _, p := range j.Packages {
		packages[p.Name] = cty.ObjectVal(map[string]cty.Value{"path": known("")})
	}
	return &hcl.EvalContext{
		Functions: Functions(),
		Variables: map[string]cty.Value{
			"property": cty.ObjectVal(properties),
			"instance": cty.UnknownVal(instanceType),
			"group": cty.ObjectVal(map[string]cty.Value{
				"instances": cty.UnknownVal(cty.List(instanceType)), "leaving": cty.UnknownVal(cty.List(instanceType)),
			}),
			"deployment": cty.ObjectVal(map[string]cty.Value{
				"name": known(""), "id": known(""), "domain": known(""),
			}),
			"path":        jobPaths("", "", j.Name),
			"package":     cty.ObjectVal(packages),
			"link":        cty.ObjectVal(links),
			"certificate": cty.ObjectVal(certificates),
		},
	}
}

// evaluate reports the expressions and templates that cannot be evaluated, or
// not to the type they must have.
func (j *Job) evaluate(ctx *hcl.EvalContext) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, x := range j.expressions {
		v, d := x.expr.Value(ctx)
		diags = append(diags, redact(d, x.expr, ctx)...)
		if d.HasErrors() {
			continue
		}
		if _, err := convert.Convert(v, x.want); err != nil {
			diags = append(diags, problem("Wrong type",
				fmt.Sprintf("The %s must be of type %s: %s.", x.what, typeName(x.want), conversionProblem(err)), x.expr.Range()))
		}
	}
	return diags
}
