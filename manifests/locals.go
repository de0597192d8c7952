package manifests

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/manifests/internal/graph"
	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// local is one attribute of a locals block.
type local struct {
	name string
	attr *hcl.Attribute
	// dynamic: depends on Facts, so it is evaluated with them.
	dynamic bool
	// groups and uses are the groups and locals that it refers to, directly or
	// through other locals.
	groups map[string]hcl.Range
	uses   map[string]bool
}

func (l *loader) decodeLocals() {
	l.locals = map[string]*local{}
	var names []string
	for _, b := range l.blocks["locals"] {
		attrs, diags := b.Body.JustAttributes()
		l.Report(diags...)
		for _, attr := range attrs {
			if first := l.locals[attr.Name]; first != nil {
				later := attr
				if before(attr.Range, first.attr.Range) {
					first.attr, later = attr, first.attr
				}
				l.Report(syntax.Duplicate("local", attr.Name, later.NameRange, first.attr.Range))
				continue
			}
			l.locals[attr.Name] = &local{name: attr.Name, attr: attr, groups: map[string]hcl.Range{}, uses: map[string]bool{}}
			names = append(names, attr.Name)
		}
	}
	slices.Sort(names)

	ns := maps.Clone(l.Constants)
	ns["local"] = &syntax.Root{Noun: "local", Names: names}
	ns["deployment"] = &syntax.Root{Noun: "attribute of the deployment", Names: []string{"name", "id", "domain"}}
	ns["secret"] = l.secretRoot()
	ns["group"] = l.groupRoot
	ns["vm"] = syntax.Refused("Locals cannot refer to VM sizes. Refer to the vm block where it is used.")
	ns["stemcell"] = syntax.Refused("Locals cannot refer to stemcells. Refer to the stemcell block in a vm block.")
	ns["disk"] = syntax.Refused("Locals cannot refer to disks. Refer to the disk block where it is used.")
	requires := map[string][]string{}
	for _, name := range names {
		diags := ns.Check(l.locals[name].attr.Expr)
		l.Report(diags...)
		if diags.HasErrors() {
			// Expressions that use it must not fail for the same reason again.
			l.locals[name].attr = &hcl.Attribute{Name: name, Expr: hcl.StaticExpr(cty.DynamicVal, l.locals[name].attr.Range), Range: l.locals[name].attr.Range}
		}
		requires[name] = syntax.SortedKeys(syntax.Referred(l.locals[name].attr.Expr, "local"))
	}
	waves, cycles := graph.Waves(names, requires)
	for _, cycle := range cycles {
		l.Report(syntax.Problem("Locals depend on each other",
			fmt.Sprintf("%s. Break the cycle.", arrows(cycle)), l.locals[cycle[0]].attr.Range))
	}
	values := map[string]cty.Value{}
	for _, name := range names {
		values[name] = cty.DynamicVal
	}
	for _, name := range slices.Concat(waves...) {
		x := l.locals[name]
		expr := x.attr.Expr
		x.groups = syntax.Referred(expr, "group")
		_, id := syntax.Referred(expr, "deployment")["id"]
		x.dynamic = id || len(x.groups) > 0 || syntax.RefersTo(expr, "secret")
		x.uses[name] = true
		for _, other := range requires[name] {
			o := l.locals[other]
			x.dynamic = x.dynamic || o.dynamic
			maps.Copy(x.uses, o.uses)
			for g := range o.groups {
				if _, seen := x.groups[g]; !seen {
					x.groups[g] = syntax.Referred(expr, "local")[other]
				}
			}
		}
		if x.dynamic {
			l.m.locals = append(l.m.locals, x)
			continue
		}
		l.Context.Variables["local"] = cty.ObjectVal(values)
		v, diags := expr.Value(l.Context)
		l.Report(syntax.Redact(diags, expr, l.Context)...)
		if !diags.HasErrors() {
			values[name] = v
		}
	}
	l.Context.Variables["local"] = cty.ObjectVal(values)
	l.Constants["local"] = &syntax.Root{Noun: "local", Names: names, Refuse: func(name string) string {
		if x := l.locals[name]; x != nil && x.dynamic {
			return fmt.Sprintf("local.%s depends on secrets, instances or the deployment's id, which are not known when the manifest is read. Use it in the properties of a job.", name)
		}
		return ""
	}}
}

func before(a, b hcl.Range) bool {
	return a.Filename < b.Filename || a.Filename == b.Filename && a.Start.Byte < b.Start.Byte
}

// arrows shows a cycle: "a -> b -> a".
func arrows(cycle []string) string {
	return strings.Join(append(slices.Clone(cycle), cycle[0]), " -> ")
}
