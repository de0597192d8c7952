package manifests

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/manifests/internal/graph"
)

func (l *loader) decodeGroups() {
	update := DefaultUpdate()
	if b := l.single(l.blocks["update"]); b != nil {
		update = l.update(b, update)
	}
	l.each(l.blocks["group"], func(b *hcl.Block, name string) {
		l.m.Groups = append(l.m.Groups, l.group(b, update))
	})
}

func (l *loader) group(b *hcl.Block, update Update) *Group {
	l.checkName(b)
	content := l.content(b.Body, "instances vm azs disk network depends_on prevent_destroy",
		"update", "job:name", "instance:index")
	attrs := content.Attributes
	byType := content.Blocks.ByType()
	g := &Group{
		Name:           b.Labels[0],
		Instances:      l.whole(attrs, "instances", 1, 0, mostInstances),
		AZs:            l.texts(attrs, "azs"),
		Update:         update,
		Exceptions:     map[int]*Exception{},
		PreventDestroy: l.flag(attrs, "prevent_destroy", false),
		Range:          b.DefRange,
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
			l.report(problem("Too few addresses",
				fmt.Sprintf("Group %q has %d instances, but network %q only %d static addresses. Add addresses, or take instances away.", g.Name, g.Instances, name, n),
				attrs["network"].Expr.Range(), attrs["network"].Range))
		}
	}
	for i, az := range g.AZs {
		if az == "" || slices.Contains(g.AZs[:i], az) {
			l.report(problem("Invalid zones", fmt.Sprintf("The zones of group %q must have names, each once; %q does not fit.", g.Name, az), attrs["azs"].Expr.Range(), attrs["azs"].Range))
		}
	}
	if attr := attrs["depends_on"]; attr != nil {
		l.dependsOn(g, attr)
	}
	if u := l.single(byType["update"]); u != nil {
		g.Update = l.update(u, update)
		l.checkMinAvailable(g, u)
	}
	l.each(byType["instance"], func(b *hcl.Block, index string) { l.exception(g, b, index) })
	l.each(byType["job"], func(b *hcl.Block, name string) {
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
	v, ok := l.eval(attr, cty.DynamicPseudoType)
	if !ok {
		return "", false
	}
	for name, candidate := range l.ctx.Variables[attr.Name].AsValueMap() {
		if v.RawEquals(candidate) {
			return name, true
		}
	}
	r := l.ns[attr.Name]
	detail := fmt.Sprintf("%q must refer to a %s block, without quotes: %s.<name>. %s", attr.Name, r.noun, attr.Name, suggest("", r.names, r.noun))
	if v.Type() == cty.String {
		detail = fmt.Sprintf("%q must refer to a %s block, without quotes: %s.%s. %s", attr.Name, r.noun, attr.Name, v.AsString(), suggest(v.AsString(), r.names, r.noun))
	}
	l.report(problem("Not a reference", detail, attr.Expr.Range(), attr.Range))
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
		l.report(problem("Not a list of groups", "depends_on must be a list of references: [group.nats, group.db].", attr.Expr.Range(), attr.Range))
		return
	}
	for _, expr := range exprs {
		name, d := l.reference(expr, l.groupRoot, "group")
		switch {
		case d != nil:
			d.Context = attr.Range.Ptr()
			l.report(d)
		case name == g.Name:
			l.report(problem("Group depends on itself", fmt.Sprintf("Group %q cannot start after itself. Remove it from depends_on.", name), expr.Range(), attr.Range))
		default:
			l.requires(g, name, expr.Range())
		}
	}
}

func (l *loader) exception(g *Group, b *hcl.Block, label string) {
	attrs := l.content(b.Body, "vm").Attributes
	index, err := strconv.Atoi(label)
	if err != nil || index < 0 || strconv.Itoa(index) != label {
		l.report(problem("Invalid index",
			fmt.Sprintf("The label of an instance block is an index, such as \"0\"; %q is not.", label), b.LabelRanges[0], b.DefRange))
		return
	}
	if index >= g.Instances {
		d := problem("Exception without an instance",
			fmt.Sprintf("Group %q has %d instances, so there is none with the index %d and this block has no effect.", g.Name, g.Instances, index), b.LabelRanges[0], b.DefRange)
		d.Severity = hcl.DiagWarning
		l.report(d)
	}
	x := &Exception{Index: index, Range: b.DefRange}
	if name, ok := l.named(attrs["vm"]); ok {
		x.VM = l.vms[name]
	}
	g.Exceptions[index] = x
}

// propertyScope is what the properties of a job may refer to.
func (l *loader) propertyScope() namespace {
	return namespace{
		"var":        l.ns["var"],
		"local":      {noun: "local", names: sortedKeys(l.locals)},
		"deployment": {noun: "attribute of the deployment", names: []string{"name", "id", "domain"}},
		"secret":     l.secretRoot(),
		"group":      l.groupRoot,
		"vm":         l.ns["vm"],
		"disk":       l.ns["disk"],
		"network":    l.ns["network"],
		"instance":   {noun: "attribute of an instance", names: instanceAttributes},
		"property":   refused("A property cannot refer to the others. Put what they share into a local."),
		"link":       refused("Links belong to the job: use this in its job.hcl or templates. Here, group.<name>.instances says who is there."),
	}
}

func (l *loader) groupJob(g *Group, b *hcl.Block) *GroupJob {
	content := l.content(b.Body, "links", "properties")
	job := &GroupJob{
		Spec:       l.job(b),
		Links:      map[string]string{},
		Range:      b.DefRange,
		properties: hcl.Attributes{},
		locals:     map[string]bool{},
		links:      map[string]provider{},
	}
	if p := l.single(content.Blocks); p != nil {
		attrs, diags := p.Body.JustAttributes()
		l.report(diags...)
		job.properties = attrs
	}
	scope := l.propertyScope()
	for _, name := range sortedKeys(job.properties) {
		attr := job.properties[name]
		if job.Spec != nil && job.Spec.property(name) == nil {
			var names []string
			for _, p := range job.Spec.Properties {
				names = append(names, p.Name)
			}
			l.report(problem("Unknown property",
				fmt.Sprintf("Job %q has no property %q. %s", job.Spec.Name, name, suggest(name, names, "property")), attr.NameRange, attr.Range))
		}
		for other, at := range referred(attr.Expr, "group") {
			if slices.Contains(l.groupRoot.names, other) {
				l.requires(g, other, at)
			}
		}
		for name, at := range referred(attr.Expr, "local") {
			if x := l.locals[name]; x != nil {
				maps.Copy(job.locals, x.uses)
				for other := range x.groups {
					if slices.Contains(l.groupRoot.names, other) {
						l.requires(g, other, at)
					}
				}
			}
		}
		job.perInstance = job.perInstance || refersTo(attr.Expr, "instance")
		if diags := scope.check(attr.Expr); diags.HasErrors() {
			l.report(diags...)
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
			l.report(problem("Missing required property",
				fmt.Sprintf("Job %q needs the property %q%s. Set it in the job's properties block.", job.Spec.Name, p.Name, describe(p)), b.DefRange))
			job.properties[p.Name] = &hcl.Attribute{Name: p.Name, Range: b.DefRange, NameRange: b.DefRange, Expr: hcl.StaticExpr(cty.DynamicVal, b.DefRange)}
		}
		if attr := job.properties[p.Name]; attr != nil && refersTo(attr.Expr, "instance") {
			for _, provide := range job.Spec.Provides {
				if slices.Contains(provide.Properties, p.Name) {
					l.report(problem("Published property differs by instance",
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

// chosenLinks reads `links = { bus = "nats" }`.
func (l *loader) chosenLinks(job *GroupJob, attr *hcl.Attribute) {
	pairs, diags := hcl.ExprMap(attr.Expr)
	if diags.HasErrors() {
		l.report(problem("Not a map of links", "links must say for each link which group provides it: { bus = \"nats\" }.", attr.Expr.Range(), attr.Range))
		return
	}
	var known []string
	for _, c := range job.Spec.Consumes {
		known = append(known, c.Name)
	}
	for _, pair := range pairs {
		// A bare key, bus = ..., reads as its own name.
		name := hcl.ExprAsKeyword(pair.Key)
		if name == "" {
			v, ok := l.evalExpr(pair.Key, cty.String, "links", attr.Range)
			if !ok {
				continue
			}
			name = v.AsString()
		}
		if !slices.Contains(known, name) {
			l.report(problem("Unknown link",
				fmt.Sprintf("Job %q consumes no link %q. %s", job.Spec.Name, name, suggest(name, known, "link")), pair.Key.Range(), attr.Range))
			continue
		}
		group := ""
		if t, diags := hcl.AbsTraversalForExpr(pair.Value); !diags.HasErrors() && t.RootName() == "group" {
			var d *hcl.Diagnostic
			if group, d = l.reference(pair.Value, l.groupRoot, "group"); d != nil {
				l.report(d)
				continue
			}
		} else {
			v, ok := l.evalExpr(pair.Value, cty.String, "links", attr.Range)
			if !ok {
				continue
			}
			group = v.AsString()
		}
		if !slices.Contains(l.groupRoot.names, group) {
			l.report(problem("Unknown group",
				fmt.Sprintf("There is no group called %q. %s", group, suggest(group, l.groupRoot.names, "group")), pair.Value.Range(), attr.Range))
			continue
		}
		job.Links[name] = group
	}
}

// provider is a provides block of a job in a group.
type provider struct {
	group   *Group
	job     *GroupJob
	provide *Provide
}

func (l *loader) providers(kind string) []provider {
	var list []provider
	for _, g := range l.m.Groups {
		for _, job := range g.Jobs {
			for _, p := range job.Spec.Provides {
				if p.Type == kind {
					list = append(list, provider{g, job, p})
				}
			}
		}
	}
	return list
}

// resolveLinks finds the provider of everything that is consumed.
func (l *loader) resolveLinks() {
	l.unresolved = map[*GroupJob]bool{}
	for _, g := range l.m.Groups {
		for _, job := range g.Jobs {
			for _, c := range job.Spec.Consumes {
				if d := l.resolveLink(g, job, c); d != nil {
					l.report(d)
					l.unresolved[job] = true
				}
			}
		}
	}
}

// resolveLink finds the provider of one link, or says why there is none.
func (l *loader) resolveLink(g *Group, job *GroupJob, c *Consume) *hcl.Diagnostic {
	all := l.providers(c.Type)
	candidates := all
	chosen := job.Links[c.Name]
	if chosen != "" {
		candidates = slices.DeleteFunc(slices.Clone(all), func(p provider) bool { return p.group.Name != chosen })
	}
	var names []string
	for _, p := range all {
		names = append(names, fmt.Sprintf("%s (job %s)", p.group.Name, p.job.Spec.Name))
	}
	needs := fmt.Sprintf("Job %q in group %q consumes the link %q", job.Spec.Name, g.Name, c.Name)
	if c.Type != c.Name {
		needs += fmt.Sprintf(" of type %q", c.Type)
	}
	switch {
	case len(candidates) == 1:
		p := candidates[0]
		job.links[c.Name] = p
		job.Links[c.Name] = p.group.Name
		l.requires(g, p.group.Name, job.Range)
		return nil
	case slices.ContainsFunc(candidates, func(p provider) bool { return p.group != candidates[0].group }):
		return problem("Ambiguous link",
			fmt.Sprintf("%s, which several groups provide: %s. Choose one in the job block: links = { %s = %q }.", needs, strings.Join(names, ", "), c.Name, candidates[0].group.Name), job.Range)
	case len(candidates) > 1:
		return problem("Ambiguous link",
			fmt.Sprintf("%s, which group %q provides more than once: %s. Let one job of that group provide it.", needs, candidates[0].group.Name, strings.Join(names, ", ")), job.Range)
	case l.incomplete:
		l.unresolved[job] = true // its provider may be what could not be loaded
		return nil
	case chosen != "" && len(all) > 0:
		return problem("Missing link",
			fmt.Sprintf("%s, which group %q does not provide. These do: %s.", needs, chosen, strings.Join(names, ", ")), job.Range)
	case chosen != "" || !c.Optional:
		return problem("Missing link",
			fmt.Sprintf("%s, which no job of this manifest provides. Add a group with a job that provides %q.", needs, c.Type), job.Range)
	}
	return nil // optional, and nobody provides it
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
			why = append(why, fmt.Sprintf("%s needs %s at %s", name, next, place(l.edges[name][next])))
		}
		l.report(problem("Cycle in the start order",
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

// checkNetworks reports static addresses that two groups would share.
func (l *loader) checkNetworks() {
	owners := map[netip.Addr]*Group{}
	for _, g := range l.m.Groups {
		if g.Network == nil {
			continue
		}
		for _, s := range g.Network.Static[:min(len(g.Network.Static), g.Instances)] {
			a, err := netip.ParseAddr(s)
			if err != nil {
				continue
			}
			if other := owners[a]; other != nil {
				l.report(problem("Address in use",
					fmt.Sprintf("Groups %q and %q both have the static address %s. Give each group a network of its own.", other.Name, g.Name, s), g.Range))
				break
			}
			owners[a] = g
		}
	}
}

// evaluate tries every property and every expression of every job with nothing
// known but what the manifest says: wrong types are wrong whatever the values.
func (l *loader) evaluate() {
	asked := l.m.evaluator(l.m.assumed(0), true)
	for _, x := range l.m.locals {
		l.report(asked.localDiags[x.name]...)
	}
	var atLeastOne *Evaluator
	for _, g := range l.m.Groups {
		e := asked
		if g.Instances == 0 {
			// What is never rendered need not find instances of others either.
			if atLeastOne == nil {
				atLeastOne = l.m.evaluator(l.m.assumed(1), true)
			}
			e = atLeastOne
		}
		for _, job := range g.Jobs {
			ctx, diags := e.JobContext(g.Name, 0, job)
			l.report(diags...)
			if diags.HasErrors() || l.unresolved[job] {
				continue
			}
			for _, d := range job.Spec.evaluate(ctx) {
				d.Detail += fmt.Sprintf(" This is job %q as group %q runs it.", job.Spec.Name, g.Name)
				l.report(d)
			}
		}
	}
}

// assumed are the facts that hold whatever becomes of the manifest: how many
// instances there are.
func (m *Manifest) assumed(least int) Facts {
	f := Facts{Instances: map[string][]Instance{}}
	for _, g := range m.Groups {
		list := make([]Instance, max(g.Instances, least))
		for i := range list {
			list[i] = Instance{Group: g.Name, Index: i}
		}
		f.Instances[g.Name] = list
	}
	return f
}
