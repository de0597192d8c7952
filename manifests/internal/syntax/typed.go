package syntax

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// Typed is a type with the defaults of its optional attributes.
type Typed struct {
	Type     cty.Type // of values
	declared cty.Type // Type, and which attributes may be left out
	defaults *typeexpr.Defaults
}

// NewTyped returns a type as typeexpr decodes it.
func NewTyped(declared cty.Type, defaults *typeexpr.Defaults) Typed {
	return Typed{Type: declared.WithoutOptionalAttributesDeep(), declared: declared, defaults: defaults}
}

// Convert gives the value the type; marks are kept.
func (t Typed) Convert(v cty.Value) (cty.Value, error) {
	if t.defaults != nil {
		v = t.defaults.Apply(v)
	}
	return convert.Convert(v, t.declared)
}

// Typed reads a type attribute; without one, anything goes.
func (d *Decoder) Typed(attrs hcl.Attributes) Typed {
	attr := attrs["type"]
	if attr == nil {
		return NewTyped(cty.DynamicPseudoType, nil)
	}
	t, defaults, diags := typeexpr.TypeConstraintWithDefaults(attr.Expr)
	if quoted := quotedType(attr.Expr); diags.HasErrors() && quoted != "" {
		diags[0].Detail += fmt.Sprintf(" Write it without quotes: type = %s.", quoted)
	}
	d.Report(diags...)
	if diags.HasErrors() {
		return NewTyped(cty.DynamicPseudoType, nil)
	}
	return NewTyped(t, defaults)
}

// Validations reads validation blocks. The conditions are checked for
// references, not evaluated.
func (d *Decoder) Validations(blocks hcl.Blocks, ns Namespace) []*Validation {
	var list []*Validation
	for _, b := range blocks {
		content := d.Content(b.Body, "condition! error_message!")
		v := &Validation{Message: d.Text(content.Attributes, "error_message", ""), Range: b.DefRange}
		attr := content.Attributes["condition"]
		if attr == nil || v.Message == "" {
			continue
		}
		diags := ns.Check(attr.Expr)
		d.Report(diags...)
		if !diags.HasErrors() {
			v.Condition = attr.Expr
			list = append(list, v)
		}
	}
	return list
}

// Broken evaluates validations and reports those that do not hold, at the
// place of the value. What depends on unknown values is left for later.
func Broken(validations []*Validation, what string, ctx *hcl.EvalContext, at hcl.Range) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, v := range validations {
		holds, d := v.Condition.Value(ctx)
		if !d.HasErrors() {
			var err error
			if holds, err = convert.Convert(Unmarked(holds), cty.Bool); err == nil && (!holds.IsKnown() || !holds.IsNull() && holds.True()) {
				continue
			}
		}
		detail := v.Message
		if d.HasErrors() {
			// What the expression's own message would say may hold the value.
			detail += " (The condition cannot be evaluated for this value.)"
		}
		diags = append(diags, Problem("Invalid value for "+what, fmt.Sprintf("%s This was checked by the rule at %s.", detail, Place(v.Range)), at))
	}
	return diags
}

// Validation is a condition over property.<name> and group.instances, with the
// message for values that do not meet it.
type Validation struct {
	Condition hcl.Expression
	Message   string
	Range     hcl.Range
}

// Unmarked returns the value without any marks.
func Unmarked(v cty.Value) cty.Value {
	v, _ = v.UnmarkDeep()
	return v
}

// TypeName is a type in the words of the language.
func TypeName(t cty.Type) string { return typeexpr.TypeString(t) }
