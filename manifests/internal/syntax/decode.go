package syntax

import (
	"fmt"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// MostMegabytes bounds amounts of memory, disk and the like.
const MostMegabytes = math.MaxInt32

// Decoder reads blocks whose attributes are constant and collects what is
// wrong with them. Its readers take a block's attributes and a name; they
// return the default when the attribute is missing, null, or wrong (which is
// reported), so that decoding goes on and finds the rest.
type Decoder struct {
	// Constants lists the names that expressions may refer to; Context has their
	// values.
	Constants Namespace
	Context   *hcl.EvalContext
	Diags     hcl.Diagnostics
}

// Report collects diagnostics.
func (d *Decoder) Report(diags ...*hcl.Diagnostic) { d.Diags = append(d.Diags, diags...) }

// Content takes a body apart. Attributes are named, with a "!" behind those
// that are required; blocks too, with a label's name behind a colon.
func (d *Decoder) Content(body hcl.Body, attributes string, blocks ...string) *hcl.BodyContent {
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
	d.Report(diags...)
	if content == nil {
		content = &hcl.BodyContent{}
	}
	return content
}

// Single returns the only block of a kind, nil if there is none.
func (d *Decoder) Single(blocks hcl.Blocks) *hcl.Block {
	if len(blocks) == 0 {
		return nil
	}
	for _, b := range blocks[1:] {
		d.Report(Problem("Duplicate "+b.Type+" block",
			fmt.Sprintf("Only one %s block is allowed here; the first is at %s. Remove one of them.", b.Type, Place(blocks[0].DefRange)), b.DefRange))
	}
	return blocks[0]
}

// Eval evaluates a constant to the type wanted. ok is false if it is null,
// wrong, or depends on something wrong that was reported before.
func (d *Decoder) Eval(attr *hcl.Attribute, want cty.Type) (cty.Value, bool) {
	return d.EvalExpr(attr.Expr, want, attr.Name, attr.Range)
}

// EvalExpr is Eval for an expression; name and context are for diagnostics.
func (d *Decoder) EvalExpr(expr hcl.Expression, want cty.Type, name string, context hcl.Range) (cty.Value, bool) {
	if diags := d.Constants.Check(expr); diags.HasErrors() {
		d.Report(diags...)
		return cty.NilVal, false
	}
	v, diags := expr.Value(d.Context)
	d.Report(Redact(diags, expr, d.Context)...)
	if diags.HasErrors() {
		return cty.NilVal, false
	}
	if v.ContainsMarked() {
		d.Report(Problem("Sensitive value not allowed here",
			fmt.Sprintf("%q ends up in places where everyone can read it, and this value is sensitive. Secrets belong into properties; a provider's credentials into its environment variables.", name),
			expr.Range(), context))
		return cty.NilVal, false
	}
	v, err := convert.Convert(v, want)
	if err != nil {
		d.Report(Problem("Wrong type", fmt.Sprintf("%q is not what it must be: %s.", name, ConversionProblem(err)), expr.Range(), context))
		return cty.NilVal, false
	}
	return v, v.IsWhollyKnown() && !v.IsNull()
}

// Text reads a string.
func (d *Decoder) Text(attrs hcl.Attributes, name, otherwise string) string {
	if attr := attrs[name]; attr != nil {
		if v, ok := d.Eval(attr, cty.String); ok {
			return v.AsString()
		}
	}
	return otherwise
}

// Choice is a text out of a few.
func (d *Decoder) Choice(attrs hcl.Attributes, name, otherwise string, choices ...string) string {
	s := d.Text(attrs, name, otherwise)
	if s != otherwise && !slices.Contains(choices, s) {
		d.Report(Problem("Unknown "+name,
			fmt.Sprintf("%q cannot be %q. %s", name, s, Suggest(s, choices, "choice")), attrs[name].Expr.Range(), attrs[name].Range))
		return otherwise
	}
	return s
}

// Flag reads a bool.
func (d *Decoder) Flag(attrs hcl.Attributes, name string, otherwise bool) bool {
	if attr := attrs[name]; attr != nil {
		if v, ok := d.Eval(attr, cty.Bool); ok {
			return v.True()
		}
	}
	return otherwise
}

// Whole is a whole number of at least least and at most most.
func (d *Decoder) Whole(attrs hcl.Attributes, name string, otherwise, least, most int) int {
	attr := attrs[name]
	if attr == nil {
		return otherwise
	}
	v, ok := d.Eval(attr, cty.Number)
	if !ok {
		return otherwise
	}
	n, exact := v.AsBigFloat().Int64()
	if exact != big.Exact || n < int64(least) || n > int64(most) {
		d.Report(Problem("Number out of range",
			fmt.Sprintf("%q must be a whole number from %d to %d.", name, least, most), attr.Expr.Range(), attr.Range))
		return otherwise
	}
	return int(n)
}

// Texts reads a list of strings; nil if there is none.
func (d *Decoder) Texts(attrs hcl.Attributes, name string) []string {
	attr := attrs[name]
	if attr == nil {
		return nil
	}
	v, ok := d.Eval(attr, cty.List(cty.String))
	if !ok {
		return nil
	}
	var list []string
	for _, e := range v.AsValueSlice() {
		if e.IsNull() {
			d.Report(Problem("Null in a list", fmt.Sprintf("%q must not hold null.", name), attr.Expr.Range(), attr.Range))
			return nil
		}
		list = append(list, e.AsString())
	}
	return list
}

// TextMap reads a map of strings; nil if there is none.
func (d *Decoder) TextMap(attrs hcl.Attributes, name string) map[string]string {
	attr := attrs[name]
	if attr == nil {
		return nil
	}
	v, ok := d.Eval(attr, cty.Map(cty.String))
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

// Duration is a length of time such as "10s". least is the shortest allowed.
func (d *Decoder) Duration(attrs hcl.Attributes, name string, otherwise, least time.Duration) time.Duration {
	attr := attrs[name]
	if attr == nil {
		return otherwise
	}
	v, ok := d.Eval(attr, cty.String)
	if !ok {
		return otherwise
	}
	t, err := time.ParseDuration(v.AsString())
	if err != nil || t < least {
		atLeast := ""
		if least > 0 {
			atLeast = ", at least " + least.String()
		}
		d.Report(Problem("Not a length of time",
			fmt.Sprintf("%q must be a length of time such as \"500ms\", \"10s\" or \"5m\"%s; %q is not.", name, atLeast, v.AsString()), attr.Expr.Range(), attr.Range))
		return otherwise
	}
	return t
}

// Value evaluates an expression. Unlike its own method, the diagnostics say
// nothing of sensitive values.
func Value(expr hcl.Expression, ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	v, diags := expr.Value(ctx)
	return v, Redact(diags, expr, ctx)
}

// Redact withholds what functions say about their arguments where one of these
// is sensitive.
func Redact(diags hcl.Diagnostics, expr hcl.Expression, ctx *hcl.EvalContext) hcl.Diagnostics {
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

// Each calls f for the blocks of one kind, a second one of the same name left
// out and reported.
func (d *Decoder) Each(blocks hcl.Blocks, f func(b *hcl.Block, name string)) {
	first := map[string]hcl.Range{}
	for _, b := range blocks {
		name := b.Labels[0]
		if r, seen := first[name]; seen {
			d.Report(Duplicate(b.Type, name, b.DefRange, r))
			continue
		}
		first[name] = b.DefRange
		f(b, name)
	}
}

// NamePattern matches the names that groups, jobs and deployments may have. They
// become parts of paths, host names and message subjects.
var NamePattern = regexp.MustCompile(`^[a-z][a-z0-9_-]*$`)

// CheckName reports a label that is no name in the sense of namePattern.
func (d *Decoder) CheckName(b *hcl.Block) {
	if !NamePattern.MatchString(b.Labels[0]) {
		d.Report(Problem("Invalid name",
			fmt.Sprintf("%q cannot be the name of a %s: a lower-case letter first, then lower-case letters, digits, '_' and '-' only.", b.Labels[0], b.Type),
			b.LabelRanges[0], b.DefRange))
	}
}

// CheckIdentifier reports a label that expressions could not refer to.
func (d *Decoder) CheckIdentifier(b *hcl.Block) {
	if !hclsyntax.ValidIdentifier(b.Labels[0]) {
		d.Report(Problem("Invalid name",
			fmt.Sprintf("%q cannot be the name of a %s: a letter first, then letters, digits, '_' and '-' only.", b.Labels[0], b.Type),
			b.LabelRanges[0], b.DefRange))
	}
}
