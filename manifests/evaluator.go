package manifests

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/clusterworks/deploy/manifests/internal/jobspec"
	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// Evaluator evaluates a manifest against facts. What instances share is
// evaluated once. It may be used from several goroutines.
type Evaluator struct {
	m *Manifest
	// assumed: the facts are those of no time in particular, so zones are not
	// known either.
	assumed bool
	facts   Facts

	root       *hcl.EvalContext // what properties may refer to, without instance
	deployment cty.Value
	instances  map[string]cty.Value // by group, list of jobspec.InstanceType
	leaving    map[string]cty.Value // by group, the same
	found      map[instanceKey]evaluatedInstance
	localDiags map[string]hcl.Diagnostics
	domains    cty.Value // see domainValues

	mu     sync.Mutex
	shared map[*GroupJob]evaluatedProperties // of jobs that do not differ by instance
	links  map[*GroupJob]cty.Value
}

type instanceKey struct {
	group string
	index int
}

type evaluatedInstance struct {
	Instance
	value cty.Value
}

type evaluatedProperties struct {
	values map[string]cty.Value
	diags  hcl.Diagnostics
}

// Evaluator prepares the evaluation against facts, which must not change
// afterwards.
func (m *Manifest) Evaluator(f Facts) *Evaluator { return m.evaluator(f, false) }

func (m *Manifest) evaluator(f Facts, assumed bool) *Evaluator {
	e := &Evaluator{
		m: m, assumed: assumed, facts: f,
		deployment: m.Deployment.value(f.DeploymentID),
		instances:  map[string]cty.Value{},
		leaving:    map[string]cty.Value{},
		found:      map[instanceKey]evaluatedInstance{},
		localDiags: map[string]hcl.Diagnostics{},
		shared:     map[*GroupJob]evaluatedProperties{},
		links:      map[*GroupJob]cty.Value{},
	}
	groups := map[string]cty.Value{}
	for _, g := range m.Groups {
		list, listed := f.Instances[g.Name]
		values := make([]cty.Value, len(list))
		for i, in := range list {
			values[i] = e.instance(g, in)
			e.found[instanceKey{g.Name, in.Index}] = evaluatedInstance{in, values[i]}
		}
		switch {
		case listed || g.Instances == 0:
			e.instances[g.Name] = instanceList(values)
		default:
			e.instances[g.Name] = cty.UnknownVal(cty.List(jobspec.InstanceType)).RefineNotNull()
		}
		groups[g.Name] = cty.ObjectVal(map[string]cty.Value{"instances": e.instances[g.Name]})
		var leaving []cty.Value
		for _, in := range f.Leaving[g.Name] {
			leaving = append(leaving, e.instance(g, in))
		}
		e.leaving[g.Name] = instanceList(leaving)
	}
	e.domains = e.domainValues()
	secrets := map[string]cty.Value{}
	for name, s := range m.Secrets {
		secrets[name] = jobspec.Attributes(f.Secrets[name], secretAttributes(s.Type))
	}
	variables := map[string]cty.Value{}
	for name, v := range m.base.Variables {
		variables[name] = v
	}
	variables["deployment"] = e.deployment
	variables["group"] = cty.ObjectVal(groups)
	variables["secret"] = cty.ObjectVal(secrets)
	e.root = &hcl.EvalContext{Variables: variables, Functions: m.base.Functions}
	for _, x := range m.locals {
		v, diags := x.attr.Expr.Value(e.root)
		if diags.HasErrors() {
			e.localDiags[x.name] = syntax.Redact(diags, x.attr.Expr, e.root)
			v = cty.DynamicVal
		}
		locals := variables["local"].AsValueMap()
		locals[x.name] = v
		variables["local"] = cty.ObjectVal(locals)
	}
	return e
}

func instanceList(values []cty.Value) cty.Value {
	if len(values) == 0 {
		return cty.ListValEmpty(jobspec.InstanceType)
	}
	return cty.ListVal(values)
}

// serving returns the instances that the users of a group must know. They include
// instances on VMs that are about to be deleted.
func (e *Evaluator) serving(group string) cty.Value {
	list, leaving := e.instances[group], e.leaving[group]
	if !list.IsKnown() || leaving.LengthInt() == 0 {
		return list
	}
	return instanceList(append(list.AsValueSlice(), leaving.AsValueSlice()...))
}

// instance returns an instance as an object for expressions.
func (e *Evaluator) instance(g *Group, in Instance) cty.Value {
	az := cty.StringVal(in.AZ)
	if in.AZ == "" && e.assumed && len(g.AZs) > 0 {
		az = jobspec.Known("")
	}
	return cty.ObjectVal(map[string]cty.Value{
		"id":      cty.StringVal(g.Name + "/" + strconv.Itoa(in.Index)),
		"group":   cty.StringVal(g.Name),
		"index":   cty.NumberIntVal(int64(in.Index)),
		"az":      az,
		"address": jobspec.Known(in.Address),
	})
}

// JobContext evaluates the properties of a job for one instance and returns
// the context for the expressions of its spec; see Job for what is in it.
//
// What the facts do not hold yet is unknown in it; what must not be shown
// carries the mark Sensitive. Diagnostics are about the properties.
func (e *Evaluator) JobContext(group string, index int, job *GroupJob) (*hcl.EvalContext, hcl.Diagnostics) {
	in, ok := e.found[instanceKey{group, index}]
	if !ok {
		in.Instance = Instance{Group: group, Index: index}
		g := e.m.Group(group)
		if g == nil {
			g = &Group{Name: group}
		}
		in.value = e.instance(g, in.Instance)
	}
	var diags hcl.Diagnostics
	for _, x := range e.m.locals {
		if job.locals[x.name] {
			diags = append(diags, e.localDiags[x.name]...)
		}
	}
	properties := e.properties(group, job, in.value)
	diags = append(diags, properties.diags...)
	bus, d := e.busUsers(group, job)
	diags = append(diags, d...)
	ctx := &hcl.EvalContext{
		Functions: e.root.Functions,
		Variables: map[string]cty.Value{
			"property":    cty.ObjectVal(properties.values),
			"instance":    in.value,
			"group":       e.ownGroup(group),
			"deployment":  e.deployment,
			"path":        jobspec.Paths(in.AgentDir, in.ImageDir, job.Spec.Name),
			"package":     e.packages(in.AgentDir, job.Spec),
			"link":        ownBusUser(e.link(job), group, index, job.Spec),
			"certificate": e.certificates(in.Instance, group, job.Spec),
			"bus":         bus,
		},
	}
	return ctx, diags
}

// ownGroup is group.* of a job: the instances of its own group.
func (e *Evaluator) ownGroup(name string) cty.Value {
	instances, ok := e.instances[name]
	leaving := e.leaving[name]
	if !ok {
		instances, leaving = cty.UnknownVal(cty.List(jobspec.InstanceType)).RefineNotNull(), instanceList(nil)
	}
	return cty.ObjectVal(map[string]cty.Value{"instances": instances, "leaving": leaving})
}

// JobContext is Evaluator(f).JobContext, for callers that need just one.
func (m *Manifest) JobContext(f Facts, group string, index int, job *GroupJob) (*hcl.EvalContext, hcl.Diagnostics) {
	return m.Evaluator(f).JobContext(group, index, job)
}

// properties evaluates the properties of a group's job. instance may be
// cty.NilVal for jobs that do not differ by instance.
func (e *Evaluator) properties(group string, job *GroupJob, instance cty.Value) evaluatedProperties {
	if job.perInstance {
		return e.evaluateProperties(group, job, instance)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	p, done := e.shared[job]
	if !done {
		p = e.evaluateProperties(group, job, instance)
		e.shared[job] = p
	}
	return p
}

func (e *Evaluator) evaluateProperties(group string, job *GroupJob, instance cty.Value) evaluatedProperties {
	ctx := e.root.NewChild()
	ctx.Variables = map[string]cty.Value{"instance": instance}
	p := evaluatedProperties{values: map[string]cty.Value{}}
	for _, spec := range job.Spec.Properties {
		v, diags := e.property(spec, job, ctx)
		p.diags = append(p.diags, diags...)
		if spec.Sensitive {
			v = v.Mark(Sensitive)
		}
		p.values[spec.Name] = v
	}
	if p.diags.HasErrors() {
		return p
	}
	rules := &hcl.EvalContext{
		Variables: map[string]cty.Value{"property": syntax.Unmarked(cty.ObjectVal(p.values)), "group": e.ownGroup(group)},
		Functions: e.root.Functions,
	}
	for _, spec := range job.Spec.Properties {
		at := job.Range
		if attr := job.properties[spec.Name]; attr != nil {
			at = attr.Expr.Range()
		}
		what := fmt.Sprintf("property %q of job %q", spec.Name, job.Spec.Name)
		p.diags = append(p.diags, syntax.Broken(spec.Validations, what, rules, at)...)
		if v := syntax.Unmarked(p.values[spec.Name]); len(spec.Levels) > 0 && v.IsKnown() && !v.IsNull() && !slices.Contains(spec.Levels, v.AsString()) {
			p.diags = append(p.diags, syntax.Problem("Invalid value for "+what, fmt.Sprintf("One of %s.", strings.Join(spec.Levels, ", ")), at))
		}
	}
	return p
}

// Level says what a fact of a job's process must be at least.
type Level struct {
	Job, Name string
	// Least is one of Levels, which begin with the weakest.
	Least  string
	Levels []string
}

// LevelsOf returns what facts a job requires, by the context that JobContext
// returned for it; properties without a value require nothing.
func LevelsOf(job *Job, ctx *hcl.EvalContext) []Level {
	var list []Level
	for _, p := range job.Properties {
		if len(p.Levels) == 0 {
			continue
		}
		if v := syntax.Unmarked(ctx.Variables["property"].GetAttr(p.Name)); v.IsKnown() && !v.IsNull() {
			list = append(list, Level{Job: job.Name, Name: p.Name, Least: v.AsString(), Levels: p.Levels})
		}
	}
	return list
}

// property returns the value of one property in the declared type: what the
// manifest says of it, or else what it comes from, or else the default.
func (e *Evaluator) property(p *Property, job *GroupJob, ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	if p.From == "" || job.properties[p.Name] != nil {
		return evaluateProperty(p, e.byDefault(p), job, ctx)
	}
	from := e.domains
	if p.From == jobspec.FromInstances {
		from = e.everyInstance()
	}
	v, err := p.Convert(from)
	if err != nil {
		return cty.UnknownVal(p.Type), hcl.Diagnostics{syntax.Problem("Wrong type of property",
			fmt.Sprintf("Property %q of job %q takes the manifest's %s, and its type %s is not one that they have: %s.", p.Name, job.Spec.Name, p.From, syntax.TypeName(p.Type), syntax.ConversionProblem(err)), p.Range)}
	}
	return v, nil
}

// everyInstance returns the instances of all groups, in the order of the manifest.
func (e *Evaluator) everyInstance() cty.Value {
	var all []cty.Value
	for _, g := range e.m.Groups {
		list := e.serving(g.Name)
		if !list.IsKnown() {
			return cty.UnknownVal(cty.List(jobspec.InstanceType)).RefineNotNull()
		}
		all = append(all, list.AsValueSlice()...)
	}
	return instanceList(all)
}

// byDefault returns the default of a property in this deployment, cty.NilVal: none.
func (e *Evaluator) byDefault(p *Property) cty.Value {
	if e.facts.Earlier && p.Earlier != cty.NilVal {
		return p.Earlier
	}
	return p.Default
}

// evaluateProperty returns the value of one property in the declared type: what
// the manifest says, or else the default.
func evaluateProperty(p *Property, otherwise cty.Value, job *GroupJob, ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	attr := job.properties[p.Name]
	if attr == nil {
		if otherwise == cty.NilVal {
			return cty.NullVal(p.Type), nil
		}
		return otherwise, nil
	}
	v, diags := attr.Expr.Value(ctx)
	if diags.HasErrors() {
		return cty.UnknownVal(p.Type), syntax.Redact(diags, attr.Expr, ctx)
	}
	given := v.Type()
	v, err := p.Convert(v)
	if err != nil {
		detail := fmt.Sprintf("Property %q of job %q must be of type %s: %s.", p.Name, job.Spec.Name, syntax.TypeName(p.Type), syntax.ConversionProblem(err))
		if given.IsObjectType() && p.Type.IsPrimitiveType() {
			detail += fmt.Sprintf(" An attribute of it may be meant: %s.", strings.Join(syntax.SortedKeys(given.AttributeTypes()), ", "))
		}
		return cty.UnknownVal(p.Type), hcl.Diagnostics{syntax.Problem("Wrong type of property", detail, attr.Expr.Range(), attr.Range)}
	}
	if v.IsNull() {
		switch {
		case otherwise != cty.NilVal:
			return otherwise.WithSameMarks(v), nil
		case p.Required:
			return v, hcl.Diagnostics{syntax.Problem("Missing required property",
				fmt.Sprintf("Job %q needs the property %q%s, but its value is null.", job.Spec.Name, p.Name, describe(p)), attr.Expr.Range(), attr.Range)}
		}
	}
	return v, nil
}

// packages is package.*: where their programs are.
func (e *Evaluator) packages(agentDir string, job *Job) cty.Value {
	packages := map[string]cty.Value{}
	for _, p := range job.Packages {
		where := p.System
		if digest, ok := FindPackage(job, p.Program, e.facts.Packages); ok && p.Program != "" && agentDir != "" {
			where = path.Join(agentDir, "store", digest)
		}
		packages[p.Name] = cty.ObjectVal(map[string]cty.Value{"path": jobspec.Known(where)})
	}
	return cty.ObjectVal(packages)
}

func (e *Evaluator) certificates(in Instance, group string, job *Job) cty.Value {
	certificates := map[string]cty.Value{}
	for _, c := range job.Certificates {
		key := CertificateKey{Group: group, Index: in.Index, Job: job.Name, Name: c.Name}
		certificates[c.Name] = jobspec.Attributes(e.facts.Certificates[key], jobspec.CertificateAttributes())
	}
	return cty.ObjectVal(certificates)
}

// link is link.*, the same for all instances of a group. A link that nobody
// provides is null.
func (e *Evaluator) link(job *GroupJob) cty.Value {
	e.mu.Lock()
	v, done := e.links[job]
	e.mu.Unlock()
	if done {
		return v
	}
	links := map[string]cty.Value{}
	for _, c := range job.Spec.Consumes {
		p, provided := job.links[c.Name]
		if !provided {
			links[c.Name] = cty.NullVal(cty.DynamicPseudoType)
			continue
		}
		// Published properties do not refer to instance, so no instance is right.
		all := e.properties(p.group.Name, p.job, cty.UnknownVal(jobspec.InstanceType)).values
		published := map[string]cty.Value{}
		for _, name := range p.provide.Properties {
			published[name] = all[name]
		}
		links[c.Name] = cty.ObjectVal(map[string]cty.Value{
			"instances": e.serving(p.group.Name),
			"property":  cty.ObjectVal(published),
		})
	}
	v = cty.ObjectVal(links)
	e.mu.Lock()
	e.links[job] = v
	e.mu.Unlock()
	return v
}

// EarlierDefault is a property that a manifest does not set and that has another
// value than in new deployments where an earlier version made the deployment.
type EarlierDefault struct {
	Group, Job, Property string
	Value                string // as JSON
	Now                  string // what to set to have what new deployments have, as JSON
}

// jsonText returns a default, which is known, as JSON.
func jsonText(v cty.Value) string {
	text, err := ctyjson.Marshal(v, v.Type())
	if err != nil {
		return v.GoString()
	}
	return string(text)
}

// EarlierDefaults returns them in the order of the manifest.
func (m *Manifest) EarlierDefaults() []EarlierDefault {
	var list []EarlierDefault
	for _, g := range m.Groups {
		for _, job := range g.Jobs {
			for _, p := range job.Spec.Properties {
				if p.Earlier == cty.NilVal || job.properties[p.Name] != nil {
					continue
				}
				now := p.Default
				switch {
				case now == cty.NilVal && p.Earlier.Type() == cty.Bool:
					now = p.Earlier.Not() // null: true or false, as others need it
				case now == cty.NilVal:
					now = cty.NullVal(p.Type)
				}
				list = append(list, EarlierDefault{Group: g.Name, Job: job.Spec.Name, Property: p.Name, Value: jsonText(p.Earlier), Now: jsonText(now)})
			}
		}
	}
	return list
}
