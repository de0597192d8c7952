package manifests

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/clusterworks/deploy/manifests/internal/graph"
)

// EnvironPrefix begins the names of environment variables that set variables.
const EnvironPrefix = "DEPLOY_VAR_"

// typed is a type with the defaults of its optional attributes.
type typed struct {
	Type     cty.Type // of values
	declared cty.Type // Type, and which attributes may be left out
	defaults *typeexpr.Defaults
}

func newTyped(declared cty.Type, defaults *typeexpr.Defaults) typed {
	return typed{Type: declared.WithoutOptionalAttributesDeep(), declared: declared, defaults: defaults}
}

// convert gives the value the type; marks are kept.
func (t typed) convert(v cty.Value) (cty.Value, error) {
	if t.defaults != nil {
		v = t.defaults.Apply(v)
	}
	return convert.Convert(v, t.declared)
}

// typed reads a type attribute; without one, anything goes.
func (d *decoder) typed(attrs hcl.Attributes) typed {
	attr := attrs["type"]
	if attr == nil {
		return newTyped(cty.DynamicPseudoType, nil)
	}
	t, defaults, diags := typeexpr.TypeConstraintWithDefaults(attr.Expr)
	if quoted := quotedType(attr.Expr); diags.HasErrors() && quoted != "" {
		diags[0].Detail += fmt.Sprintf(" Write it without quotes: type = %s.", quoted)
	}
	d.report(diags...)
	if diags.HasErrors() {
		return newTyped(cty.DynamicPseudoType, nil)
	}
	return newTyped(t, defaults)
}

// validations reads validation blocks. The conditions are checked for
// references, not evaluated.
func (d *decoder) validations(blocks hcl.Blocks, ns namespace) []*Validation {
	var list []*Validation
	for _, b := range blocks {
		content := d.content(b.Body, "condition! error_message!")
		v := &Validation{Message: d.text(content.Attributes, "error_message", ""), Range: b.DefRange}
		attr := content.Attributes["condition"]
		if attr == nil || v.Message == "" {
			continue
		}
		diags := ns.check(attr.Expr)
		d.report(diags...)
		if !diags.HasErrors() {
			v.Condition = attr.Expr
			list = append(list, v)
		}
	}
	return list
}

// broken evaluates validations and reports those that do not hold, at the
// place of the value. What depends on unknown values is left for later.
func broken(validations []*Validation, what string, ctx *hcl.EvalContext, at hcl.Range) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, v := range validations {
		holds, d := v.Condition.Value(ctx)
		if !d.HasErrors() {
			var err error
			if holds, err = convert.Convert(unmarked(holds), cty.Bool); err == nil && (!holds.IsKnown() || !holds.IsNull() && holds.True()) {
				continue
			}
		}
		detail := v.Message
		if d.HasErrors() {
			// What the expression's own message would say may hold the value.
			detail += " (The condition cannot be evaluated for this value.)"
		}
		diags = append(diags, problem("Invalid value for "+what, fmt.Sprintf("%s This was checked by the rule at %s.", detail, place(v.Range)), at))
	}
	return diags
}

// variable is a variable block with the place it was decoded from.
type variable struct {
	typed
	sensitive   bool
	validations []*Validation
	value       cty.Value
	at          hcl.Range // where the value comes from
	defRange    hcl.Range
}

func (l *loader) decodeVariables() {
	variables := map[string]*variable{}
	l.ns = refuseAll("The default of a variable must be a constant: it cannot depend on other values.")
	l.each(l.blocks["variable"], func(b *hcl.Block, name string) {
		content := l.content(b.Body, "type default description sensitive", "validation")
		l.checkIdentifier(b)
		v := &variable{
			typed:       l.typed(content.Attributes),
			sensitive:   l.flag(content.Attributes, "sensitive", false),
			validations: l.validations(content.Blocks, namespace{"var": {noun: "variable", names: []string{name}}}),
			value:       cty.NilVal,
			defRange:    b.DefRange,
		}
		l.text(content.Attributes, "description", "")
		if attr := content.Attributes["default"]; attr != nil {
			v.at = attr.Expr.Range()
			v.value = cty.UnknownVal(v.Type)
			if diags := l.ns.check(attr.Expr); diags.HasErrors() {
				l.report(diags...)
			} else if value, diags := attr.Expr.Value(l.ctx); diags.HasErrors() {
				l.report(diags...)
			} else if value, err := v.convert(value); err != nil {
				l.report(problem("Wrong type", fmt.Sprintf("The default of variable %q does not have its type: %s.", name, conversionProblem(err)), attr.Expr.Range(), attr.Range))
			} else {
				v.value = value
			}
		}
		variables[name] = v
	})
	l.setScope()

	for name, value := range l.options.Values {
		if v := variables[name]; v != nil {
			l.set(name, v, value, v.defRange)
		}
	}
	l.variablesFromEnviron(variables)
	l.variablesFromFiles(variables)
	l.variablesFromOptions(variables)

	values := map[string]cty.Value{}
	for name, v := range variables {
		if v.value == cty.NilVal {
			l.report(problem("Variable without a value",
				fmt.Sprintf("Variable %q has no default and was not set. Set it with --var %s=..., in a file named with --var-file, or as %s%s in the environment.", name, name, EnvironPrefix, name),
				v.defRange))
			v.value = cty.UnknownVal(v.Type)
		}
		ctx := &hcl.EvalContext{
			Variables: map[string]cty.Value{"var": cty.ObjectVal(map[string]cty.Value{name: unmarked(v.value)})},
			Functions: l.ctx.Functions,
		}
		l.report(broken(v.validations, fmt.Sprintf("variable %q", name), ctx, v.at)...)
		values[name] = v.value
		if v.sensitive {
			values[name] = v.value.Mark(Sensitive)
		}
	}
	l.ctx.Variables["var"] = cty.ObjectVal(values)
}

// Variable is a variable of the manifest with the value that it was loaded with.
type Variable struct {
	Value     cty.Value // without marks
	Sensitive bool
}

// Variables are all variables, by name.
func (m *Manifest) Variables() map[string]Variable {
	out := map[string]Variable{}
	all, ok := m.base.Variables["var"]
	if !ok || !all.Type().IsObjectType() {
		return out
	}
	for name := range all.Type().AttributeTypes() {
		v, marks := all.GetAttr(name).UnmarkDeep()
		out[name] = Variable{Value: v, Sensitive: len(marks) > 0}
	}
	return out
}

func unmarked(v cty.Value) cty.Value {
	v, _ = v.UnmarkDeep()
	return v
}

// set gives a variable a value that was found at a place.
func (l *loader) set(name string, v *variable, value cty.Value, at hcl.Range) {
	if v.sensitive {
		at = v.defRange // the value is not to be quoted
	}
	value, err := v.convert(value)
	if err != nil {
		l.report(problem("Wrong type", fmt.Sprintf("Variable %q is not what it must be (declared at %s): %s.", name, place(v.defRange), conversionProblem(err)), at))
		value = cty.UnknownVal(v.Type)
	}
	v.value, v.at = value, at
}

// setText gives a variable a value that was written outside of any file: as it
// stands for simple types, else as an expression.
func (l *loader) setText(name string, v *variable, text, source string) {
	filename := fmt.Sprintf("<value of var.%s from %s>", name, source)
	if !v.sensitive { // what is sensitive is never quoted
		l.m.Files[filename] = &hcl.File{Bytes: []byte(text)}
	}
	at := hcl.Range{Filename: filename, Start: hcl.InitialPos, End: hcl.Pos{Line: 1, Column: 1 + len(text), Byte: len(text)}}
	if v.Type.IsPrimitiveType() || v.Type == cty.DynamicPseudoType {
		l.set(name, v, cty.StringVal(text), at)
		return
	}
	expr, diags := parseExpression([]byte(text), filename)
	value := cty.UnknownVal(v.Type)
	if !diags.HasErrors() {
		if known, d := expr.Value(nil); d.HasErrors() {
			diags = append(diags, d...)
		} else {
			value = known
		}
	}
	l.report(diags...)
	l.set(name, v, value, at)
}

func (l *loader) variablesFromEnviron(variables map[string]*variable) {
	for _, entry := range l.options.Environ {
		name, value, _ := strings.Cut(entry, "=")
		if name, ok := strings.CutPrefix(name, EnvironPrefix); ok && variables[name] != nil {
			l.setText(name, variables[name], value, "the environment")
		}
	}
}

func (l *loader) variablesFromFiles(variables map[string]*variable) {
	for _, file := range l.options.VarFiles {
		body := l.parse(file.Source, file.Path)
		if body == nil {
			continue
		}
		attrs, diags := body.JustAttributes()
		l.report(diags...)
		for _, name := range sortedKeys(attrs) {
			attr := attrs[name]
			v := variables[name]
			if v == nil {
				l.report(problem("Unknown variable",
					fmt.Sprintf("The manifest declares no variable %q. %s", name, suggest(name, sortedKeys(variables), "variable")), attr.NameRange, attr.Range))
				continue
			}
			value, diags := attr.Expr.Value(nil)
			l.report(diags...)
			if diags.HasErrors() {
				value = cty.UnknownVal(v.Type)
			}
			l.set(name, v, value, attr.Expr.Range())
		}
	}
}

func (l *loader) variablesFromOptions(variables map[string]*variable) {
	for _, name := range sortedKeys(l.options.Vars) {
		v := variables[name]
		if v == nil {
			l.report(&hcl.Diagnostic{Severity: hcl.DiagError, Summary: "Unknown variable",
				Detail: fmt.Sprintf("The manifest declares no variable %q, which --var sets. %s", name, suggest(name, sortedKeys(variables), "variable"))})
			continue
		}
		l.setText(name, v, l.options.Vars[name], "--var")
	}
}

// local is one attribute of a locals block.
type local struct {
	name string
	attr *hcl.Attribute
	// dynamic: depends on Facts, so it is evaluated with them.
	dynamic bool
	// groups and uses are what it refers to, directly or through other locals.
	groups map[string]hcl.Range
	uses   map[string]bool
}

func (l *loader) decodeLocals() {
	l.locals = map[string]*local{}
	var names []string
	for _, b := range l.blocks["locals"] {
		attrs, diags := b.Body.JustAttributes()
		l.report(diags...)
		for _, attr := range attrs {
			if first := l.locals[attr.Name]; first != nil {
				later := attr
				if before(attr.Range, first.attr.Range) {
					first.attr, later = attr, first.attr
				}
				l.report(duplicate("local", attr.Name, later.NameRange, first.attr.Range))
				continue
			}
			l.locals[attr.Name] = &local{name: attr.Name, attr: attr, groups: map[string]hcl.Range{}, uses: map[string]bool{}}
			names = append(names, attr.Name)
		}
	}
	slices.Sort(names)

	ns := maps.Clone(l.ns)
	ns["local"] = &root{noun: "local", names: names}
	ns["deployment"] = &root{noun: "attribute of the deployment", names: []string{"name", "id", "domain"}}
	ns["secret"] = l.secretRoot()
	ns["group"] = l.groupRoot
	ns["vm"] = refused("Locals cannot refer to VM sizes. Refer to the vm block where it is used.")
	ns["disk"] = refused("Locals cannot refer to disks. Refer to the disk block where it is used.")
	requires := map[string][]string{}
	for _, name := range names {
		diags := ns.check(l.locals[name].attr.Expr)
		l.report(diags...)
		if diags.HasErrors() {
			// What uses it shall not fail again for the same reason.
			l.locals[name].attr = &hcl.Attribute{Name: name, Expr: hcl.StaticExpr(cty.DynamicVal, l.locals[name].attr.Range), Range: l.locals[name].attr.Range}
		}
		requires[name] = sortedKeys(referred(l.locals[name].attr.Expr, "local"))
	}
	waves, cycles := graph.Waves(names, requires)
	for _, cycle := range cycles {
		l.report(problem("Locals depend on each other",
			fmt.Sprintf("%s. Break the cycle.", arrows(cycle)), l.locals[cycle[0]].attr.Range))
	}
	values := map[string]cty.Value{}
	for _, name := range names {
		values[name] = cty.DynamicVal
	}
	for _, name := range slices.Concat(waves...) {
		x := l.locals[name]
		expr := x.attr.Expr
		x.groups = referred(expr, "group")
		_, id := referred(expr, "deployment")["id"]
		x.dynamic = id || len(x.groups) > 0 || refersTo(expr, "secret")
		x.uses[name] = true
		for _, other := range requires[name] {
			o := l.locals[other]
			x.dynamic = x.dynamic || o.dynamic
			maps.Copy(x.uses, o.uses)
			for g := range o.groups {
				if _, seen := x.groups[g]; !seen {
					x.groups[g] = referred(expr, "local")[other]
				}
			}
		}
		if x.dynamic {
			l.m.locals = append(l.m.locals, x)
			continue
		}
		l.ctx.Variables["local"] = cty.ObjectVal(values)
		v, diags := expr.Value(l.ctx)
		l.report(redact(diags, expr, l.ctx)...)
		if !diags.HasErrors() {
			values[name] = v
		}
	}
	l.ctx.Variables["local"] = cty.ObjectVal(values)
	l.ns["local"] = &root{noun: "local", names: names, refuse: func(name string) string {
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
