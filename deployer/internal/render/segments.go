package render

import (
	"crypto/sha256"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/manifests"
)

// Segment is a piece of a rendered text. HCL would mark a whole string as
// secret or unknown when a part of it is; segments keep the parts apart, so
// that a diff can redact, or leave open, just what must be.
type Segment struct {
	Text      string
	Sensitive bool
	Unknown   bool // Text is empty: not known before the VMs exist
}

// Text is a rendered text.
type Text []Segment

// Known tells whether no segment is unknown.
func (t Text) Known() bool {
	for _, s := range t {
		if s.Unknown {
			return false
		}
	}
	return true
}

// Bytes is the text with nothing in place of what is unknown, and the ranges
// of the sensitive parts.
func (t Text) Bytes() ([]byte, []api.Range) {
	var b []byte
	var ranges []api.Range
	for _, s := range t {
		if s.Sensitive && s.Text != "" {
			if n := len(ranges); n > 0 && ranges[n-1].End == len(b) {
				ranges[n-1].End += len(s.Text)
			} else {
				ranges = append(ranges, api.Range{Start: len(b), End: len(b) + len(s.Text)})
			}
		}
		b = append(b, s.Text...)
	}
	return b, ranges
}

// String shows the text to people: secrets and unknowns replaced.
func (t Text) String() string {
	var b strings.Builder
	for _, s := range t {
		switch {
		case s.Unknown:
			b.WriteString(UnknownText)
		case s.Sensitive:
			b.WriteString(SensitiveText)
		default:
			b.WriteString(s.Text)
		}
	}
	return printable(b.String())
}

// printable returns a text, or what stands for a file that is none.
func printable(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return fmt.Sprintf("(binary, %d bytes, sha256 %x)\n", len(text), sum[:6])
}

// What stands in diffs for values that cannot be shown.
const (
	UnknownText   = "(known after apply)"
	SensitiveText = "(sensitive)"
)

// Redact is bytes with sensitive ranges as people may see them.
func Redact(content []byte, sensitive []api.Range) string {
	var b strings.Builder
	at := 0
	for _, r := range sensitive {
		if r.Start < at || r.End > len(content) {
			return SensitiveText // ranges that do not fit: show nothing
		}
		b.Write(content[at:r.Start])
		b.WriteString(SensitiveText)
		at = r.End
	}
	b.Write(content[at:])
	return printable(b.String())
}

// segments evaluates a template, part by part.
func segments(expr hclsyntax.Expression, ctx *hcl.EvalContext) (Text, hcl.Diagnostics) {
	switch e := expr.(type) {
	case *hclsyntax.TemplateExpr:
		var text Text
		var diags hcl.Diagnostics
		for _, part := range e.Parts {
			t, d := segments(part, ctx)
			text, diags = append(text, t...), append(diags, d...)
		}
		return text, diags
	case *hclsyntax.TemplateWrapExpr:
		return segments(e.Wrapped, ctx)
	case *hclsyntax.ConditionalExpr:
		return conditional(e, ctx)
	case *hclsyntax.TemplateJoinExpr:
		if loop, ok := e.Tuple.(*hclsyntax.ForExpr); ok {
			return join(loop, ctx)
		}
	}
	return value(expr, ctx)
}

func conditional(e *hclsyntax.ConditionalExpr, ctx *hcl.EvalContext) (Text, hcl.Diagnostics) {
	cond, diags := manifests.Value(e.Condition, ctx)
	if diags.HasErrors() {
		return nil, diags
	}
	sensitive := cond.IsMarked()
	cond, _ = cond.Unmark()
	if !cond.IsKnown() {
		return Text{{Unknown: true, Sensitive: sensitive}}, diags
	}
	cond, err := convert.Convert(cond, cty.Bool)
	if err != nil || cond.IsNull() {
		// The whole expression's own evaluation words this error best.
		return value(e, ctx)
	}
	branch := e.FalseResult
	if cond.True() {
		branch = e.TrueResult
	}
	text, d := segments(branch, ctx)
	if sensitive { // which branch was taken would tell the secret
		for i := range text {
			text[i].Sensitive = true
		}
	}
	return text, append(diags, d...)
}

func join(e *hclsyntax.ForExpr, ctx *hcl.EvalContext) (Text, hcl.Diagnostics) {
	coll, diags := manifests.Value(e.CollExpr, ctx)
	if diags.HasErrors() {
		return nil, diags
	}
	sensitive := coll.IsMarked()
	coll, _ = coll.Unmark()
	if !coll.IsKnown() {
		return Text{{Unknown: true, Sensitive: sensitive}}, diags
	}
	if coll.IsNull() || !coll.CanIterateElements() || e.CondExpr != nil || e.KeyExpr != nil {
		return value(&hclsyntax.TemplateJoinExpr{Tuple: e}, ctx)
	}
	var text Text
	for it := coll.ElementIterator(); it.Next(); {
		k, v := it.Element()
		child := ctx.NewChild()
		child.Variables = map[string]cty.Value{e.ValVar: v}
		if e.KeyVar != "" {
			child.Variables[e.KeyVar] = k
		}
		t, d := segments(e.ValExpr, child)
		diags = append(diags, d...)
		for _, s := range t {
			s.Sensitive = s.Sensitive || sensitive
			text = append(text, s)
		}
		if d.HasErrors() {
			break // the same error for each element helps nobody
		}
	}
	return text, diags
}

func value(expr hclsyntax.Expression, ctx *hcl.EvalContext) (Text, hcl.Diagnostics) {
	v, diags := manifests.Value(expr, ctx)
	if diags.HasErrors() {
		return nil, diags
	}
	fail := func(summary, detail string) (Text, hcl.Diagnostics) {
		return nil, append(diags, &hcl.Diagnostic{
			Severity: hcl.DiagError, Summary: summary, Detail: detail,
			Subject: expr.Range().Ptr(),
		})
	}
	v, marks := v.UnmarkDeep()
	sensitive := len(marks) > 0
	if !v.IsWhollyKnown() {
		return Text{{Unknown: true, Sensitive: sensitive}}, diags
	}
	if v.IsNull() {
		return fail("Null value in a template", "This value is null, which has no text. Give it a default, or guard it with %{ if ... != null }.")
	}
	if v.Type() == cty.Number {
		return Text{{Text: numberText(v), Sensitive: sensitive}}, diags
	}
	s, err := convert.Convert(v, cty.String)
	if err != nil {
		return fail("Value has no text", fmt.Sprintf("A template needs text here, but this is %s. Use join, jsonencode or a %%{ for } directive.", v.Type().FriendlyName()))
	}
	return Text{{Text: s.AsString(), Sensitive: sensitive}}, diags
}

// numberText is a number as text, as cty converts it. Most are small integers,
// for which big.Float takes a thousand times as long.
func numberText(v cty.Value) string {
	f := v.AsBigFloat()
	if n, accuracy := f.Int64(); accuracy == big.Exact {
		return strconv.FormatInt(n, 10)
	}
	return f.Text('f', -1)
}

// shownStrings returns the strings of a list as people may see them; nil if the list
// is not known, or wrong, which strings reports.
func (r *jobRenderer) shownStrings(e hcl.Expression) []string {
	if e == nil {
		return nil
	}
	list, diags := manifests.Value(e, r.ctx)
	hidden := list.IsMarked()
	list, _ = list.Unmark()
	if diags.HasErrors() || !list.IsKnown() || list.IsNull() || !list.CanIterateElements() {
		return nil
	}
	out := []string{}
	for _, v := range list.AsValueSlice() {
		text, err := convert.Convert(v, cty.String)
		switch {
		case err != nil || !v.IsKnown() || v.IsNull():
			return nil
		case hidden || v.IsMarked():
			out = append(out, SensitiveText)
		default:
			out = append(out, text.AsString())
		}
	}
	return out
}
