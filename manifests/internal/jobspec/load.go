package jobspec

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
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
var hookKinds = []string{"check", "pre_start", "post_start", "pre_stop", "drain", "post_stop", "post_deploy", "errand", "census"}

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

// Load reads the job in the folder name of fsys: its job.hcl, and the templates
// as far as their references go. prefix is the path of fsys, for the names of
// files in diagnostics.
//
// All problems are reported at once. The job is never nil: with errors it is
// not fit for use, but its Files hold the sources for the printer.
func Load(fsys fs.FS, name, prefix string) (*Job, hcl.Diagnostics) {
	l := &loader{
		job:    &Job{Name: name, Files: map[string]*hcl.File{}},
		folder: path.Join(prefix, name),
	}
	l.Context = &hcl.EvalContext{Functions: syntax.Functions()}
	l.Constants = syntax.Namespace{}
	for _, first := range []string{"property", "instance", "group", "deployment", "path", "package", "link", "certificate"} {
		l.Constants[first] = syntax.Refused("This must be a constant.")
	}
	l.load(fsys)
	return l.job, syntax.Tidy(l.Diags, l.job.Files)
}

// loader builds one job.
type loader struct {
	syntax.Decoder
	job    *Job
	folder string
	scope  syntax.Namespace // of expressions that are evaluated per instance
}

func (l *loader) load(fsys fs.FS) {
	filename := path.Join(l.folder, "job.hcl")
	if !syntax.NamePattern.MatchString(l.job.Name) {
		l.Report(&hcl.Diagnostic{Severity: hcl.DiagError, Summary: "Invalid job name",
			Detail: fmt.Sprintf("%q cannot be the name of a job: a lower-case letter first, then lower-case letters, digits, '_' and '-' only.", l.job.Name)})
		return
	}
	folder, err := fs.Sub(fsys, l.job.Name)
	if err == nil {
		l.job.FS = folder
		var source []byte
		if source, err = fs.ReadFile(folder, "job.hcl"); err == nil {
			l.parse(source, filename, fsys)
			return
		}
	}
	l.Report(&hcl.Diagnostic{Severity: hcl.DiagError, Summary: "Cannot read job",
		Detail: fmt.Sprintf("Job %q: %v. A job is a folder with a job.hcl.", l.job.Name, err)})
}

func (l *loader) parse(source []byte, filename string, jobs fs.FS) {
	file, body, diags := syntax.ParseConfig(source, filename)
	l.job.Files[filename] = file
	l.Report(diags...)
	if diags.HasErrors() {
		return
	}
	l.job.Range = body.MissingItemRange()
	l.addBases(body, jobs, path.Dir(l.folder))
	l.addComponent(body)
	l.addRoutes(body)
	content := l.Content(body, "description bases",
		"property:name", "provides:link", "consumes:link", "package:name", "certificate:name", "template:source",
		"process:name", "hook:kind", "listen:name", "unique:name", "mbus", "bus")
	l.job.Description = l.Text(content.Attributes, "description", "")
	blocks := content.Blocks.ByType()
	l.scope = syntax.Namespace{
		"property":    {Noun: "property", Names: syntax.Labels(blocks["property"])},
		"instance":    {Noun: "attribute of an instance", Names: syntax.InstanceAttributes},
		"deployment":  {Noun: "attribute of the deployment", Names: []string{"name", "id", "domain"}},
		"path":        {Noun: "path", Names: []string{"root", "config", "data", "log", "run", "image"}},
		"package":     {Noun: "package", Names: syntax.Labels(blocks["package"]), Attributes: syntax.Fixed("path")},
		"link":        {Noun: "link", Names: syntax.Labels(blocks["consumes"]), Attributes: syntax.Fixed("instances", "property")},
		"certificate": {Noun: "certificate", Names: syntax.Labels(blocks["certificate"]), Attributes: syntax.Fixed("ca", "certificate", "private_key")},
	}
	if slices.ContainsFunc(blocks["provides"], providesBus) {
		l.scope["bus"] = &syntax.Root{Noun: "attribute of the bus", Names: []string{"users", "shared"}}
	} else {
		l.scope["bus"] = syntax.Refused("Only the job that provides the link \"bus\" knows its users. A job's own user is link.bus.property.user.")
	}
	for _, first := range []string{"var", "local", "secret", "group", "vm", "disk", "network"} {
		l.scope[first] = syntax.Refused(fmt.Sprintf("A job does not know the manifest that uses it, so it cannot refer to %s. Declare a property, and let the manifest set it.", first))
	}
	others := l.scope["group"].Refuse
	l.scope["group"] = &syntax.Root{Noun: "attribute of the own group", Names: []string{"instances", "leaving"}, Refuse: func(name string) string {
		if name == "instances" || name == "leaving" {
			return ""
		}
		return others(name)
	}}
	l.Each(blocks["property"], l.property)
	l.Each(blocks["provides"], l.provides)
	l.Each(blocks["consumes"], l.consumes)
	l.Each(blocks["package"], l.pack)
	l.Each(blocks["certificate"], l.certificate)
	processes := syntax.Labels(blocks["process"])
	destinations := map[string]hcl.Range{}
	l.Each(blocks["template"], func(b *hcl.Block, name string) { l.template(b, processes, destinations) })
	l.Each(blocks["process"], l.process)
	hooks := map[string]hcl.Range{}
	for _, b := range blocks["hook"] {
		l.hook(b, hooks)
	}
	l.Each(blocks["listen"], l.listen)
	l.Each(blocks["unique"], l.unique)
	if b := l.Single(blocks["mbus"]); b != nil {
		l.mbus(b)
	}
	if b := l.Single(blocks["bus"]); b != nil {
		l.bus(b)
	}
	l.Report(l.job.Evaluate(l.job.unknownContext())...)
}

// expression takes an attribute to be evaluated per instance; nil if it is
// missing or refers to what is not there, which is reported.
func (l *loader) expression(attrs hcl.Attributes, name string, want cty.Type, of string) hcl.Expression {
	attr := attrs[name]
	if attr == nil {
		return nil
	}
	diags := l.scope.Check(attr.Expr)
	l.Report(diags...)
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

func (l *loader) property(b *hcl.Block, name string) {
	l.CheckIdentifier(b)
	content := l.Content(b.Body, "type default earlier_default description required sensitive on_change from levels", "validation")
	attrs := content.Attributes
	p := &Property{
		Name:        name,
		Default:     cty.NilVal,
		Description: l.Text(attrs, "description", ""),
		Required:    l.Flag(attrs, "required", false),
		Sensitive:   l.Flag(attrs, "sensitive", false),
		OnChange:    l.Choice(attrs, "on_change", "", "restart"),
		From:        l.Choice(attrs, "from", "", FromDomains, FromInstances),
		Range:       b.DefRange,
		typed:       l.Typed(attrs),
	}
	p.Type = p.typed.Type
	p.Levels = l.levels(attrs, p)
	p.Validations = l.Validations(content.Blocks, syntax.Namespace{
		"property": l.scope["property"],
		"group":    l.scope["group"],
		"instance": syntax.Refused("A validation can refer to properties and group.instances only."),
	})
	for from, to := range map[string]*cty.Value{"default": &p.Default, "earlier_default": &p.Earlier} {
		attr := attrs[from]
		if attr == nil {
			continue
		}
		if diags := l.Constants.Check(attr.Expr); diags.HasErrors() {
			l.Report(diags...)
		} else if v, diags := attr.Expr.Value(l.Context); diags.HasErrors() {
			l.Report(diags...)
		} else if v, err := p.typed.Convert(v); err != nil {
			l.Report(syntax.Problem("Wrong type", fmt.Sprintf("The default of property %q is not of type %s: %s.", name, syntax.TypeName(p.Type), syntax.ConversionProblem(err)), attr.Expr.Range(), attr.Range))
		} else if !v.IsNull() {
			*to = v
		}
		if p.Required {
			l.Report(syntax.Problem("Default of a required property",
				fmt.Sprintf("Property %q must be set by the manifest, so its default would never be used. Remove one of the two.", name), attr.NameRange, b.DefRange))
		}
	}
	l.job.Properties = append(l.job.Properties, p)
}

// levels reads the values of a property that says what a fact must be at least.
func (l *loader) levels(attrs hcl.Attributes, p *Property) []string {
	attr := attrs["levels"]
	if attr == nil {
		return nil
	}
	list := l.Texts(attrs, "levels")
	sorted := slices.Sorted(slices.Values(list))
	switch {
	case p.Type != cty.String:
		l.Report(syntax.Problem("Levels of another type", fmt.Sprintf("Property %q has levels, so its type must be string.", p.Name), attr.Expr.Range(), attr.Range))
	case p.Sensitive:
		l.Report(syntax.Problem("Sensitive levels", fmt.Sprintf("Property %q has levels, which plans show, so it cannot be sensitive.", p.Name), attr.Expr.Range(), attr.Range))
	case len(list) < 2 || len(slices.Compact(sorted)) < len(list):
		l.Report(syntax.Problem("Wrong levels", fmt.Sprintf("Levels of property %q are two or more different texts, the weakest first.", p.Name), attr.Expr.Range(), attr.Range))
	}
	return list
}

func (l *loader) provides(b *hcl.Block, name string) {
	l.CheckIdentifier(b)
	attrs := l.Content(b.Body, "type properties").Attributes
	p := &Provide{Name: name, Type: l.Text(attrs, "type", name), Properties: l.Texts(attrs, "properties"), Range: b.DefRange}
	for _, property := range p.Properties {
		if names := l.scope["property"].Names; !slices.Contains(names, property) {
			l.Report(syntax.Problem("Unknown property",
				fmt.Sprintf("This job has no property %q to publish. %s", property, syntax.Suggest(property, names, "property")), attrs["properties"].Expr.Range(), attrs["properties"].Range))
		}
	}
	l.job.Provides = append(l.job.Provides, p)
}

func (l *loader) consumes(b *hcl.Block, name string) {
	l.CheckIdentifier(b)
	attrs := l.Content(b.Body, "type optional").Attributes
	l.job.Consumes = append(l.job.Consumes, &Consume{
		Name: name, Type: l.Text(attrs, "type", name), Optional: l.Flag(attrs, "optional", false), Range: b.DefRange,
	})
}

// pack reads a package block.
func (l *loader) pack(b *hcl.Block, name string) {
	l.CheckIdentifier(b)
	attrs := l.Content(b.Body, "program system apt").Attributes
	p := &JobPackage{
		Name: name, Program: l.Text(attrs, "program", ""), System: l.Text(attrs, "system", ""), Apt: l.Texts(attrs, "apt"), Range: b.DefRange,
	}
	if (p.Program == "") == (p.System == "") {
		l.Report(syntax.Problem("Package without a source",
			fmt.Sprintf("Package %q must name either a program of the release (program = %q) or one of the VM's package manager (system = %q).", name, name, name), b.DefRange))
	}
	if attrs["apt"] != nil && p.System == "" {
		l.Report(syntax.Problem("Unsupported argument", "apt says which packages provide a system program, so it needs system beside it.", attrs["apt"].NameRange, attrs["apt"].Range))
	}
	l.job.Packages = append(l.job.Packages, p)
}

func (l *loader) certificate(b *hcl.Block, name string) {
	l.CheckIdentifier(b)
	attrs := l.Content(b.Body, "names").Attributes
	c := &Certificate{Name: name, Range: b.DefRange}
	if attrs["names"] != nil && syntax.RefersTo(attrs["names"].Expr, "certificate") {
		l.Report(syntax.Problem("Reference not allowed here", "The names in a certificate cannot depend on a certificate.", attrs["names"].Expr.Range(), attrs["names"].Range))
	} else {
		c.Names = l.expression(attrs, "names", stringsType, blockTitle(b))
	}
	l.job.Certificates = append(l.job.Certificates, c)
}

func (l *loader) template(b *hcl.Block, processes []string, destinations map[string]hcl.Range) {
	attrs := l.Content(b.Body, "destination mode on_change process raw").Attributes
	source := b.Labels[0]
	t := &Template{Source: source, Mode: defaultTemplateMode, Range: b.DefRange}
	t.Destination = l.Text(attrs, "destination", strings.TrimSuffix(strings.TrimSuffix(source, ".tmpl"), ".tftpl"))
	t.OnChange = l.Choice(attrs, "on_change", "restart", "restart", "reload", "none")
	t.Process = l.Text(attrs, "process", "")
	t.Raw = l.Flag(attrs, "raw", false)
	if attr := attrs["process"]; attr != nil && t.Process != "" && !slices.Contains(processes, t.Process) {
		l.Report(syntax.Problem("Unknown process",
			fmt.Sprintf("This job has no process %q. %s", t.Process, syntax.Suggest(t.Process, processes, "process")), attr.Expr.Range(), attr.Range))
	}
	if attr := attrs["mode"]; attr != nil {
		if v, ok := l.Eval(attr, cty.String); ok {
			mode, err := strconv.ParseUint(v.AsString(), 8, 32)
			if err != nil || mode > 0o777 || mode&0o400 == 0 {
				l.Report(syntax.Problem("Invalid mode",
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
		l.Report(syntax.Problem("Invalid destination",
			fmt.Sprintf("%q must be a path below the job's configuration folder, without \"..\" and not beginning with \"/\".", t.Destination), at, b.DefRange))
	} else if first, taken := destinations[t.Destination]; taken {
		l.Report(syntax.Problem("Duplicate destination", fmt.Sprintf("The template at %s has the destination %q too.", syntax.Place(first), t.Destination), at, b.DefRange))
	} else {
		destinations[t.Destination] = b.DefRange
	}
	l.job.Templates = append(l.job.Templates, t)
	l.templateSource(b, t)
}

// templateSource checks the file of a template.
func (l *loader) templateSource(b *hcl.Block, t *Template) {
	source := t.Source
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
		l.Report(syntax.Problem("Missing template",
			fmt.Sprintf("Cannot read the source of template %q: %v. %s", source, err, syntax.Suggest(source, known, "template")), b.LabelRanges[0], b.DefRange))
		return
	}
	filename := path.Join(l.folder, name)
	l.job.Files[filename] = &hcl.File{Bytes: text}
	switch bad := notText(text); {
	case t.Raw:
		return
	case bad >= 0:
		l.Report(syntax.Problem("Template is not text",
			fmt.Sprintf("Byte %d of the source of template %q is not UTF-8 text, so it has no expressions. Copy the file as it is with raw = true.", bad, source), b.LabelRanges[0], b.DefRange))
		return
	}
	expr, diags := syntax.ParseTemplate(text, filename)
	if !diags.HasErrors() {
		diags = append(diags, l.scope.Check(expr)...)
	}
	l.Report(diags...)
	if !diags.HasErrors() {
		l.job.expressions = append(l.job.expressions, wanted{expr, cty.String, blockTitle(b)})
	}
}

// notText returns the offset of the first byte that is not UTF-8 text, -1 if there
// is none.
func notText(text []byte) int {
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size == 1 || r == 0 {
			return i
		}
		i += size
	}
	return -1
}

func (l *loader) process(b *hcl.Block, name string) {
	l.CheckName(b)
	content := l.Content(b.Body, "command! env user dir open_files memory_mb kill_mode stop_signal stop_grace control component restart_on",
		"check:kind", "reload", "route")
	attrs, title := content.Attributes, blockTitle(b)
	p := &Process{
		Name:       name,
		Command:    l.expression(attrs, "command", stringsType, title),
		Env:        l.expression(attrs, "env", stringMapType, title),
		User:       l.expression(attrs, "user", cty.String, title),
		Dir:        l.expression(attrs, "dir", cty.String, title),
		OpenFiles:  l.Whole(attrs, "open_files", 0, 1, syntax.MostMegabytes),
		MemoryMB:   l.Whole(attrs, "memory_mb", 0, 1, syntax.MostMegabytes),
		KillMode:   l.Choice(attrs, "kill_mode", "group", "process", "group", "cgroup"),
		StopSignal: l.Choice(attrs, "stop_signal", "TERM", signals...),
		StopGrace:  l.Duration(attrs, "stop_grace", defaultStopGrace, time.Millisecond),
		Control:    l.Flag(attrs, "control", false),
		RestartOn:  l.expression(attrs, "restart_on", cty.DynamicPseudoType, title),
		Range:      b.DefRange,
	}
	l.Flag(attrs, "component", false) // see addComponent
	blocks := content.Blocks.ByType()
	for _, c := range blocks["check"] {
		l.check(p, c)
	}
	if r := l.Single(blocks["reload"]); r != nil {
		l.reload(p, r)
	}
	for _, r := range blocks["route"] {
		l.route(p, r)
	}
	l.job.Processes = append(l.job.Processes, p)
}

func (l *loader) check(p *Process, b *hcl.Block) {
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
		l.Report(syntax.Problem("Unknown kind of check",
			fmt.Sprintf("A check cannot be of the kind %q. %s", kind, syntax.Suggest(kind, []string{"http", "tcp", "exec"}, "kind")), b.LabelRanges[0], b.DefRange))
		return
	}
	attrs := l.Content(b.Body, attributes+" interval timeout failures").Attributes
	p.Checks = append(p.Checks, &Check{
		Kind:     kind,
		Target:   l.expression(attrs, "target", cty.String, title),
		Host:     l.expression(attrs, "host", cty.String, title),
		Command:  l.expression(attrs, "command", stringsType, title),
		Interval: l.Duration(attrs, "interval", defaultCheckInterval, time.Millisecond),
		Timeout:  l.Duration(attrs, "timeout", defaultCheckTimeout, time.Millisecond),
		Failures: l.Whole(attrs, "failures", defaultCheckFailures, 1, 1000),
		Range:    b.DefRange,
	})
}

func (l *loader) reload(p *Process, b *hcl.Block) {
	attrs, title := l.Content(b.Body, "signal command control verify timeout").Attributes, fmt.Sprintf("reload of process %q", p.Name)
	p.Reload = &Reload{
		Signal:  l.Choice(attrs, "signal", "", signals...),
		Command: l.expression(attrs, "command", stringsType, title),
		Control: l.Flag(attrs, "control", false),
		Verify:  l.expression(attrs, "verify", stringsType, title),
		Timeout: l.Duration(attrs, "timeout", defaultReloadTimeout, time.Millisecond),
		Range:   b.DefRange,
	}
	ways := 0
	for _, way := range []string{"signal", "command", "control"} {
		if attrs[way] != nil {
			ways++
		}
	}
	if ways != 1 {
		l.Report(syntax.Problem("One way to reload",
			"A reload block must have exactly one of signal (\"HUP\"), command, and control = true.", b.DefRange))
	}
	if p.Reload.Control && !p.Control {
		l.Report(syntax.Problem("Reload without a control socket",
			fmt.Sprintf("Process %q can be told to reload through its control socket only if it has one: set control = true in the process block.", p.Name), attrs["control"].Range, b.DefRange))
	}
}

func (l *loader) hook(b *hcl.Block, seen map[string]hcl.Range) {
	kind := b.Labels[0]
	if !slices.Contains(hookKinds, kind) {
		l.Report(syntax.Problem("Unknown kind of hook",
			fmt.Sprintf("A hook cannot be of the kind %q. %s", kind, syntax.Suggest(kind, hookKinds, "kind")), b.LabelRanges[0], b.DefRange))
		return
	}
	attributes := "command! env timeout on_timeout"
	switch kind {
	case "errand":
		attributes += " name!"
	case "pre_start":
		attributes += " rollback"
	}
	attrs, title := l.Content(b.Body, attributes).Attributes, blockTitle(b)
	h := &Hook{
		Kind:      kind,
		Name:      l.Text(attrs, "name", ""),
		Command:   l.expression(attrs, "command", stringsType, title),
		Env:       l.expression(attrs, "env", stringMapType, title),
		Timeout:   l.Duration(attrs, "timeout", defaultHookTimeout, time.Millisecond),
		OnTimeout: l.Choice(attrs, "on_timeout", "fail", "fail", "continue"),
		Range:     b.DefRange,

		RollbackCompatible: l.Choice(attrs, "rollback", "incompatible", "incompatible", "compatible") == "compatible",
	}
	if attr := attrs["name"]; attr != nil && h.Name != "" && !syntax.NamePattern.MatchString(h.Name) {
		l.Report(syntax.Problem("Invalid name",
			fmt.Sprintf("%q cannot be the name of an errand: a lower-case letter first, then lower-case letters, digits, '_' and '-' only.", h.Name), attr.Expr.Range(), attr.Range))
	}
	key := kind + " " + h.Name
	if first, again := seen[key]; again {
		l.Report(syntax.Duplicate("hook", strings.TrimSpace(key), b.DefRange, first))
		return
	}
	seen[key] = b.DefRange
	l.job.Hooks = append(l.job.Hooks, h)
}

func (l *loader) listen(b *hcl.Block, name string) {
	attrs := l.Content(b.Body, "port! network").Attributes
	l.job.Listens = append(l.job.Listens, &Listen{
		Name:    name,
		Network: l.Choice(attrs, "network", "tcp", "tcp", "udp"),
		Port:    l.expression(attrs, "port", cty.Number, blockTitle(b)),
		Range:   b.DefRange,
	})
}

func (l *loader) unique(b *hcl.Block, name string) {
	attrs := l.Content(b.Body, "value!").Attributes
	l.job.Uniques = append(l.job.Uniques, &Unique{
		Name:  name,
		Value: l.expression(attrs, "value", cty.String, blockTitle(b)),
		Range: b.DefRange,
	})
}

func (l *loader) mbus(b *hcl.Block) {
	attrs, title := l.Content(b.Body, "files! servers user password scheme").Attributes, "mbus block"
	m := &Mbus{
		Files:    l.Texts(attrs, "files"),
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
			l.Report(diags...)
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
		l.Report(syntax.Problem("Missing servers",
			"An mbus block must say where the bus is: let the job consume the link \"bus\", or set servers, a list of \"host:port\".", b.DefRange))
	}
	for _, pattern := range l.job.Mbus.Files {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			l.Report(syntax.Problem("Invalid pattern",
				fmt.Sprintf("%q is not a pattern of file names, such as \"config/*.yml\".", pattern), attrs["files"].Expr.Range(), attrs["files"].Range))
		}
	}
}
