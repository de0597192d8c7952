package syntax

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// The messages of the hcl library say what is wrong. Here they learn what to do.

var (
	unexpected   = regexp.MustCompile(`^(An argument named|Blocks of type) "([^"]+)" (is|are) not expected here\.$`)
	noAttribute  = regexp.MustCompile(`^This object does not have an attribute named "([^"]+)"\.$`)
	noFunction   = regexp.MustCompile(`^There is no function named "([^"]+)"\.$`)
	ofInstance   = regexp.MustCompile(`instances(\[[^\]]*\])?\.?$`)
	ofLink       = regexp.MustCompile(`link\.([A-Za-z0-9_-]+)\.property\.?$`)
	missingLabel = regexp.MustCompile(`^Missing (\w+) for (\w+)$`)
)

// explainSchema adds to a diagnostic about a body what may stand there.
func explainSchema(d *hcl.Diagnostic, schema *hcl.BodySchema) {
	if m := missingLabel.FindStringSubmatch(d.Summary); m != nil {
		d.Detail = fmt.Sprintf("Behind %s its %s is missing: %s \"...\" {", m[2], m[1], m[2])
	}
	m := unexpected.FindStringSubmatch(d.Detail)
	if m == nil {
		return // it has a suggestion already, or is about something else
	}
	var arguments, blocks []string
	for _, a := range schema.Attributes {
		arguments = append(arguments, a.Name)
	}
	for _, b := range schema.Blocks {
		blocks = append(blocks, b.Type)
	}
	switch {
	case m[1] == "Blocks of type":
		d.Detail += " " + Suggest(m[2], blocks, "block")
	case len(arguments) == 0:
		d.Detail += " Only blocks stand here, and arguments in them."
	case len(blocks) == 0:
		d.Detail += " " + Suggest(m[2], arguments, "argument")
	default:
		d.Detail += fmt.Sprintf(" %s And as blocks: %s.", Suggest(m[2], arguments, "argument"), strings.Join(blocks, ", "))
	}
}

// explain adds to a diagnostic about an expression what was probably meant.
func explain(d *hcl.Diagnostic, files map[string]*hcl.File) {
	if m := noFunction.FindStringSubmatch(d.Detail); m != nil {
		if guess := nearest(m[1], SortedKeys(Functions())); guess != "" {
			d.Detail += fmt.Sprintf(" Did you mean %q?", guess)
		} else {
			d.Detail += " manifests/REFERENCE.md lists all functions."
		}
	}
	if d.Summary == "Invalid index" && strings.HasSuffix(d.Detail, "length of the collection.") {
		d.Detail += " The first element has the index 0."
	}
	const literal = " If it belongs to another language, write %%{ for %{."
	if d.Summary == "Invalid template control keyword" && !strings.HasSuffix(d.Detail, literal) {
		d.Detail += literal
	}
	m := noAttribute.FindStringSubmatch(d.Detail)
	if m == nil || d.Subject == nil || files[d.Subject.Filename] == nil {
		return
	}
	source := files[d.Subject.Filename].Bytes
	before := string(source[:min(d.Subject.Start.Byte, len(source))])
	if ofInstance.MatchString(before) {
		d.Detail += " " + Suggest(m[1], InstanceAttributes, "attribute of an instance")
	} else if link := ofLink.FindStringSubmatch(before); link != nil && d.EvalContext != nil {
		if v := d.EvalContext.Variables["link"]; v != cty.NilVal && v.Type().IsObjectType() && v.Type().HasAttribute(link[1]) {
			if l := v.Type().AttributeType(link[1]); l.IsObjectType() && l.HasAttribute("property") && l.AttributeType("property").IsObjectType() {
				d.Detail += " " + Suggest(m[1], SortedKeys(l.AttributeType("property").AttributeTypes()), "property that is published")
			}
		}
	}
}

// quotedType is a type that was written in quotes, "" if none was.
func quotedType(expr hcl.Expression) string {
	v, diags := expr.Value(nil)
	if diags.HasErrors() || v.IsNull() || !v.IsKnown() || v.Type() != cty.String {
		return ""
	}
	if _, diags := hclsyntax.ParseExpression([]byte(v.AsString()), "", hcl.InitialPos); diags.HasErrors() {
		return ""
	}
	return v.AsString()
}
