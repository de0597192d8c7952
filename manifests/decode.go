package manifests

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// decoder reads blocks whose attributes are constant and collects what is
// wrong with them. Its readers take a block's attributes and a name; they
// return the default when the attribute is missing, null, or wrong (which is
// reported), so that decoding goes on and finds the rest.
type decoder struct {
	ns    namespace
	ctx   *hcl.EvalContext
	diags hcl.Diagnostics
}

func (d *decoder) report(diags ...*hcl.Diagnostic) { d.diags = append(d.diags, diags...) }

// content takes a body apart. Attributes are named, with a "!" behind those
// that are required; blocks too, with a label's name behind a colon.
func (d *decoder) content(body hcl.Body, attributes string, blocks ...string) *hcl.BodyContent {
	schema := &hcl.BodySchema{}
	for _, name := range strings.Fields(attributes) {
		bare, required := strings.CutSuffix(name, "!")
		schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: bare, Required: required})
	}
	for _, b := range blocks {
		kind, label, labelled := strings.Cut(b, ":")
		s := hcl.BlockHeaderSchema{Type: kind}
		if labelled {
			s.LabelNames = []string{label}
		}
		schema.Blocks = append(schema.Blocks, s)
	}
	content, diags := body.Content(schema)
	for _, x := range diags {
		explainSchema(x, schema)
	}
	d.report(diags...)
	if content == nil {
		content = &hcl.BodyContent{}
	}
	return content
}

// single returns the only block of a kind, nil if there is none.
func (d *decoder) single(blocks hcl.Blocks) *hcl.Block {
	if len(blocks) == 0 {
		return nil
	}
	for _, b := range blocks[1:] {
		d.report(problem("Duplicate "+b.Type+" block",
			fmt.Sprintf("Only one %s block is allowed here; the first is at %s. Remove one of them.", b.Type, place(blocks[0].DefRange)), b.DefRange))
	}
	return blocks[0]
}

// eval evaluates a constant to the type wanted. ok is false if it is null,
// wrong, or depends on something wrong that was reported before.
func (d *decoder) eval(attr *hcl.Attribute, want cty.Type) (cty.Value, bool) {
	return d.evalExpr(attr.Expr, want, attr.Name, attr.Range)
}

func (d *decoder) evalExpr(expr hcl.Expression, want cty.Type, name string, context hcl.Range) (cty.Value, bool) {
	if diags := d.ns.check(expr); diags.HasErrors() {
		d.report(diags...)
		return cty.NilVal, false
	}
	v, diags := expr.Value(d.ctx)
	d.report(redact(diags, expr, d.ctx)...)
	if diags.HasErrors() {
		return cty.NilVal, false
	}
	if v.ContainsMarked() {
		d.report(problem("Sensitive value not allowed here",
			fmt.Sprintf("%q ends up in places where everyone can read it, and this value is sensitive. Secrets belong into properties; a provider's credentials into its environment variables.", name),
			expr.Range(), context))
		return cty.NilVal, false
	}
	v, err := convert.Convert(v, want)
	if err != nil {
		d.report(problem("Wrong type", fmt.Sprintf("%q is not what it must be: %s.", name, conversionProblem(err)), expr.Range(), context))
		return cty.NilVal, false
	}
	return v, v.IsWhollyKnown() && !v.IsNull()
}

func (d *decoder) text(attrs hcl.Attributes, name, otherwise string) string {
	if attr := attrs[name]; attr != nil {
		if v, ok := d.eval(attr, cty.String); ok {
			return v.AsString()
		}
	}
	return otherwise
}

// choice is a text out of a few.
func (d *decoder) choice(attrs hcl.Attributes, name, otherwise string, choices ...string) string {
	s := d.text(attrs, name, otherwise)
	if s != otherwise && !slices.Contains(choices, s) {
		d.report(problem("Unknown "+name,
			fmt.Sprintf("%q cannot be %q. %s", name, s, suggest(s, choices, "choice")), attrs[name].Expr.Range(), attrs[name].Range))
		return otherwise
	}
	return s
}

func (d *decoder) flag(attrs hcl.Attributes, name string, otherwise bool) bool {
	if attr := attrs[name]; attr != nil {
		if v, ok := d.eval(attr, cty.Bool); ok {
			return v.True()
		}
	}
	return otherwise
}

// whole is a whole number of at least least and at most most.
func (d *decoder) whole(attrs hcl.Attributes, name string, otherwise, least, most int) int {
	attr := attrs[name]
	if attr == nil {
		return otherwise
	}
	v, ok := d.eval(attr, cty.Number)
	if !ok {
		return otherwise
	}
	n, exact := v.AsBigFloat().Int64()
	if exact != big.Exact || n < int64(least) || n > int64(most) {
		d.report(problem("Number out of range",
			fmt.Sprintf("%q must be a whole number from %d to %d.", name, least, most), attr.Expr.Range(), attr.Range))
		return otherwise
	}
	return int(n)
}

func (d *decoder) texts(attrs hcl.Attributes, name string) []string {
	attr := attrs[name]
	if attr == nil {
		return nil
	}
	v, ok := d.eval(attr, cty.List(cty.String))
	if !ok {
		return nil
	}
	var list []string
	for _, e := range v.AsValueSlice() {
		if e.IsNull() {
			d.report(problem("Null in a list", fmt.Sprintf("%q must not hold null.", name), attr.Expr.Range(), attr.Range))
			return nil
		}
		list = append(list, e.AsString())
	}
	return list
}

func (d *decoder) textMap(attrs hcl.Attributes, name string) map[string]string {
	attr := attrs[name]
	if attr == nil {
		return nil
	}
	v, ok := d.eval(attr, cty.Map(cty.String))
	if !ok {
		return nil
	}
	m := map[string]string{}
	for k, e := range v.AsValueMap() {
		if !e.IsNull() {
			m[k] = e.AsString()
		}
	}
	return m
}

// duration is a length of time such as "10s". least is the shortest allowed.
func (d *decoder) duration(attrs hcl.Attributes, name string, otherwise, least time.Duration) time.Duration {
	attr := attrs[name]
	if attr == nil {
		return otherwise
	}
	v, ok := d.eval(attr, cty.String)
	if !ok {
		return otherwise
	}
	t, err := time.ParseDuration(v.AsString())
	if err != nil || t < least {
		atLeast := ""
		if least > 0 {
			atLeast = ", at least " + least.String()
		}
		d.report(problem("Not a length of time",
			fmt.Sprintf("%q must be a length of time such as \"500ms\", \"10s\" or \"5m\"%s; %q is not.", name, atLeast, v.AsString()), attr.Expr.Range(), attr.Range))
		return otherwise
	}
	return t
}

// Value evaluates an expression. Unlike its own method, the diagnostics say
// nothing of sensitive values.
func Value(expr hcl.Expression, ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	v, diags := expr.Value(ctx)
	return v, redact(diags, expr, ctx)
}

// redact withholds what functions say about their arguments where one of these
// is sensitive.
func redact(diags hcl.Diagnostics, expr hcl.Expression, ctx *hcl.EvalContext) hcl.Diagnostics {
	if !diags.HasErrors() {
		return diags
	}
	sensitive := slices.ContainsFunc(expr.Variables(), func(t hcl.Traversal) bool {
		v, d := t.TraverseAbs(ctx)
		return !d.HasErrors() && v.ContainsMarked()
	})
	if !sensitive {
		return diags
	}
	for _, d := range diags {
		d.Detail = "This expression cannot be evaluated. Why is withheld, because it uses a sensitive value."
		d.Expression, d.EvalContext = nil, nil
	}
	return diags
}

// each calls f for the blocks of one kind, a second one of the same name left
// out and reported.
func (d *decoder) each(blocks hcl.Blocks, f func(b *hcl.Block, name string)) {
	first := map[string]hcl.Range{}
	for _, b := range blocks {
		name := b.Labels[0]
		if r, seen := first[name]; seen {
			d.report(duplicate(b.Type, name, b.DefRange, r))
			continue
		}
		first[name] = b.DefRange
		f(b, name)
	}
}
