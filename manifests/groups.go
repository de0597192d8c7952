package manifests

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/manifests/internal/graph"
	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

func (l *loader) decodeGroups() {
	update := DefaultUpdate()
	if b := l.Single(l.blocks["update"]); b != nil {
		update = l.update(b, update)
	}
	l.Each(l.blocks["group"], func(b *hcl.Block, name string) {
		l.m.Groups = append(l.m.Groups, l.group(b, update))
	})
}

func (l *loader) group(b *hcl.Block, update Update) *Group {
	l.CheckName(b)
	content := l.Content(b.Body, "instances vm azs disk network depends_on prevent_destroy",
		"update", "job:name", "instance:index")
	attrs := content.Attributes
	byType := content.Blocks.ByType()
	g := &Group{
		Name:           b.Labels[0],
		Instances:      l.Whole(attrs, "instances", 1, 0, mostInstances),
		AZs:            l.Texts(attrs, "azs"),
		Update:         update,
		Exceptions:     map[int]*Exception{},
		PreventDestroy: l.Flag(attrs, "prevent_destroy", false),
		Range:          b.DefRange,
	}
	if attr := attrs["azs"]; attr != nil {
		g.AZsRange = attr.Range
	}
	l.edges[g.Name] = map[string]hcl.Range{}
	g.VM = l.vms["default"]
	if g.VM == nil {
		g.VM = defaultVM()
	}
	if name, ok := l.named(attrs["vm"]); ok {
		g.VM = l.vms[name]
	}
	if name, ok := l.named(attrs["disk"]); ok {
		g.Disk = l.disks[name]
	}
	if name, ok := l.named(attrs["network"]); ok {
		g.Network = l.networks[name]
		if n := len(g.Network.Static); n > 0 && n < g.Instances {
			l.Report(syntax.Problem("Too few addresses",
				fmt.Sprintf("Group %q has %d instances, but network %q only %d static addresses. Add addresses, or take instances away.", g.Name, g.Instances, name, n),
				attrs["network"].Expr.Range(), attrs["network"].Range))
		}
	}
	for i, az := range g.AZs {
		if az == "" || slices.Contains(g.AZs[:i], az) {
			l.Report(syntax.Problem("Invalid zones", fmt.Sprintf("The zones of group %q must have names, each once; %q does not fit.", g.Name, az), attrs["azs"].Expr.Range(), attrs["azs"].Range))
		}
	}
	if attr := attrs["depends_on"]; attr != nil {
		l.dependsOn(g, attr)
	}
	if u := l.Single(byType["update"]); u != nil {
		g.Update = l.update(u, update)
		l.checkMinAvailable(g, u)
	}
	l.Each(byType["instance"], func(b *hcl.Block, index string) { l.exception(g, b, index) })
	l.Each(byType["job"], func(b *hcl.Block, name string) {
		if job := l.groupJob(g, b); job.Spec != nil {
			g.Jobs = append(g.Jobs, job)
		} else {
			l.incomplete = true
		}
	})
	return g
}

// named reads an attribute that must be a block of the kind that the attribute
// is called after: vm = vm.small, or an expression that chooses among such.
func (l *loader) named(attr *hcl.Attribute) (string, bool) {
	if attr == nil {
		return "", false
	}
	v, ok := l.Eval(attr, cty.DynamicPseudoType)
	if !ok {
		return "", false
	}
	for name, candidate := range l.Context.Variables[attr.Name].AsValueMap() {
		if v.RawEquals(candidate) {
			return name, true
		}
	}
	r := l.Constants[attr.Name]
	detail := fmt.Sprintf("%q must refer to a %s block, without quotes: %s.<name>. %s", attr.Name, r.Noun, attr.Name, syntax.Suggest("", r.Names, r.Noun))
	if v.Type() == cty.String {
		detail = fmt.Sprintf("%q must refer to a %s block, without quotes: %s.%s. %s", attr.Name, r.Noun, attr.Name, v.AsString(), syntax.Suggest(v.AsString(), r.Names, r.Noun))
	}
	l.Report(syntax.Problem("Not a reference", detail, attr.Expr.Range(), attr.Range))
	return "", false
}

// requires notes that a group needs another one before it.
func (l *loader) requires(g *Group, other string, at hcl.Range) {
	if _, seen := l.edges[g.Name][other]; !seen && other != g.Name {
		l.edges[g.Name][other] = at
		g.Requires = append(g.Requires, other)
	}
}

func (l *loader) dependsOn(g *Group, attr *hcl.Attribute) {
	exprs, diags := hcl.ExprList(attr.Expr)
	if diags.HasErrors() {
		l.Report(syntax.Problem("Not a list of groups", "depends_on must be a list of references: [group.nats, group.db].", attr.Expr.Range(), attr.Range))
		return
	}
	for _, expr := range exprs {
		name, d := l.groupRoot.Reference(expr, "group")
		switch {
		case d != nil:
			d.Context = attr.Range.Ptr()
			l.Report(d)
		case name == g.Name:
			l.Report(syntax.Problem("Group depends on itself", fmt.Sprintf("Group %q cannot start after itself. Remove it from depends_on.", name), expr.Range(), attr.Range))
		default:
			l.requires(g, name, expr.Range())
		}
	}
}

func (l *loader) exception(g *Group, b *hcl.Block, label string) {
	attrs := l.Content(b.Body, "vm").Attributes
	index, err := strconv.Atoi(label)
	if err != nil || index < 0 || strconv.Itoa(index) != label {
		l.Report(syntax.Problem("Invalid index",
			fmt.Sprintf("The label of an instance block is an index, such as \"0\"; %q is not.", label), b.LabelRanges[0], b.DefRange))
		return
	}
	if index >= g.Instances {
		d := syntax.Problem("Exception without an instance",
			fmt.Sprintf("Group %q has %d instances, so there is none with the index %d and this block has no effect.", g.Name, g.Instances, index), b.LabelRanges[0], b.DefRange)
		d.Severity = hcl.DiagWarning
		l.Report(d)
	}
	x := &Exception{Index: index, Range: b.DefRange}
	if name, ok := l.named(attrs["vm"]); ok {
		x.VM = l.vms[name]
	}
	g.Exceptions[index] = x
}

// propertyScope returns the names that the properties of a job may refer to.
func (l *loader) propertyScope() syntax.Namespace {
	return syntax.Namespace{
		"var":        l.Constants["var"],
		"local":      {Noun: "local", Names: syntax.SortedKeys(l.locals)},
		"deployment": {Noun: "attribute of the deployment", Names: []string{"name", "id", "domain"}},
		"secret":     l.secretRoot(),
		"group":      l.groupRoot,
		"vm":         l.Constants["vm"],
		"disk":       l.Constants["disk"],
		"network":    l.Constants["network"],
		"instance":   {Noun: "attribute of an instance", Names: syntax.InstanceAttributes},
		"property":   syntax.Refused("A property cannot refer to the others. Put what they share into a local."),
		"link":       syntax.Refused("Links belong to the job: use this in its job.hcl or templates. Here, group.<name>.instances says who is there."),
	}
}

func (l *loader) groupJob(g *Group, b *hcl.Block) *GroupJob {
	content := l.Content(b.Body, "links", "properties")
	job := &GroupJob{
		Spec:       l.job(b),
		Links:      map[string]string{},
		Range:      b.DefRange,
		properties: hcl.Attributes{},
		locals:     map[string]bool{},
		links:      map[string]provider{},
	}
	if p := l.Single(content.Blocks); p != nil {
		attrs, diags := p.Body.JustAttributes()
		l.Report(diags...)
		job.properties = attrs
	}
	scope := l.propertyScope()
	for _, name := range syntax.SortedKeys(job.properties) {
		attr := job.properties[name]
		if job.Spec != nil && job.Spec.Property(name) == nil {
			var names []string
			for _, p := range job.Spec.Properties {
				names = append(names, p.Name)
			}
			l.Report(syntax.Problem("Unknown property",
				fmt.Sprintf("Job %q has no property %q. %s", job.Spec.Name, name, syntax.Suggest(name, names, "property")), attr.NameRange, attr.Range))
		}
		for other, at := range syntax.Referred(attr.Expr, "group") {
			if slices.Contains(l.groupRoot.Names, other) {
				l.requires(g, other, at)
			}
		}
		for name, at := range syntax.Referred(attr.Expr, "local") {
			if x := l.locals[name]; x != nil {
				maps.Copy(job.locals, x.uses)
				for other := range x.groups {
					if slices.Contains(l.groupRoot.Names, other) {
						l.requires(g, other, at)
					}
				}
			}
		}
		job.perInstance = job.perInstance || syntax.RefersTo(attr.Expr, "instance")
		if diags := scope.Check(attr.Expr); diags.HasErrors() {
			l.Report(diags...)
			// Not evaluated: that would only fail again.
			attr = &hcl.Attribute{Name: name, Range: attr.Range, NameRange: attr.NameRange, Expr: hcl.StaticExpr(cty.DynamicVal, attr.Expr.Range())}
			job.properties[name] = attr
		}
	}
	if job.Spec == nil {
		return job
	}
	for _, p := range job.Spec.Properties {
		if p.Required && job.properties[p.Name] == nil {
			l.Report(syntax.Problem("Missing required property",
				fmt.Sprintf("Job %q needs the property %q%s. Set it in the job's properties block.", job.Spec.Name, p.Name, describe(p)), b.DefRange))
			job.properties[p.Name] = &hcl.Attribute{Name: p.Name, Range: b.DefRange, NameRange: b.DefRange, Expr: hcl.StaticExpr(cty.DynamicVal, b.DefRange)}
		}
		if attr := job.properties[p.Name]; attr != nil && syntax.RefersTo(attr.Expr, "instance") {
			for _, provide := range job.Spec.Provides {
				if slices.Contains(provide.Properties, p.Name) {
					l.Report(syntax.Problem("Published property differs by instance",
						fmt.Sprintf("Job %q publishes property %q through %q, where it stands for all instances, so it cannot refer to instance.", job.Spec.Name, p.Name, provide.Name),
						attr.Expr.Range(), attr.Range))
				}
			}
		}
	}
	if attr := content.Attributes["links"]; attr != nil {
		l.chosenLinks(job, attr)
	}
	return job
}

func describe(p *Property) string {
	if p.Description == "" {
		return ""
	}
	return fmt.Sprintf(" (%s)", strings.TrimSuffix(p.Description, "."))
}

// order sets the waves of the start order.
func (l *loader) order() {
	var names []string
	requires := map[string][]string{}
	for _, g := range l.m.Groups {
		slices.Sort(g.Requires)
		names = append(names, g.Name)
		requires[g.Name] = g.Requires
	}
	waves, cycles := graph.Waves(names, requires)
	for _, cycle := range cycles {
		var why []string
		for i, name := range cycle {
			next := cycle[(i+1)%len(cycle)]
			why = append(why, fmt.Sprintf("%s needs %s at %s", name, next, syntax.Place(l.edges[name][next])))
		}
		l.Report(syntax.Problem("Cycle in the start order",
			fmt.Sprintf("%s: %s. Groups start after those they refer to, so one of these references must go.", arrows(cycle), strings.Join(why, ", ")),
			l.edges[cycle[0]][cycle[1%len(cycle)]]))
	}
	for _, wave := range waves {
		var groups []*Group
		for _, name := range wave {
			groups = append(groups, l.m.Group(name))
		}
		l.m.Order = append(l.m.Order, groups)
	}
}
