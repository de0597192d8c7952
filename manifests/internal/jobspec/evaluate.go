package jobspec

import (
	"fmt"
	"path"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// InstanceType is the type of instance, and of an element of
// group.<name>.instances.
var InstanceType = cty.Object(map[string]cty.Type{
	"id": cty.String, "group": cty.String, "index": cty.Number, "az": cty.String, "address": cty.String,
})

// unknownContext returns a context in which only the types of values are known.
func (j *Job) unknownContext() *hcl.EvalContext {
	properties, links, certificates := map[string]cty.Value{}, map[string]cty.Value{}, map[string]cty.Value{}
	for _, p := range j.Properties {
		properties[p.Name] = cty.UnknownVal(p.Type)
	}
	for _, c := range j.Consumes {
		links[c.Name] = cty.ObjectVal(map[string]cty.Value{
			"instances": cty.UnknownVal(cty.List(InstanceType)), "property": cty.DynamicVal,
		})
	}
	for _, c := range j.Certificates {
		certificates[c.Name] = Attributes(cty.NilVal, CertificateAttributes())
	}
	packages := map[string]cty.Value{}
	for _, p := range j.Packages {
		packages[p.Name] = cty.ObjectVal(map[string]cty.Value{"path": Known("")})
	}
	return &hcl.EvalContext{
		Functions: syntax.Functions(),
		Variables: map[string]cty.Value{
			"property": cty.ObjectVal(properties),
			"instance": cty.UnknownVal(InstanceType),
			"group": cty.ObjectVal(map[string]cty.Value{
				"instances": cty.UnknownVal(cty.List(InstanceType)), "leaving": cty.UnknownVal(cty.List(InstanceType)),
			}),
			"deployment": cty.ObjectVal(map[string]cty.Value{
				"name": Known(""), "id": Known(""), "domain": Known(""),
			}),
			"path":        Paths("", "", j.Name),
			"package":     cty.ObjectVal(packages),
			"link":        cty.ObjectVal(links),
			"certificate": cty.ObjectVal(certificates),
			"bus": cty.ObjectVal(map[string]cty.Value{
				"users": cty.UnknownVal(cty.List(BusUserType)).RefineNotNull(), "shared": cty.UnknownVal(cty.List(cty.String)).RefineNotNull(),
			}),
		},
	}
}

// Evaluate reports the expressions and templates that cannot be evaluated, or
// not to the type they must have.
func (j *Job) Evaluate(ctx *hcl.EvalContext) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, x := range j.expressions {
		v, d := x.expr.Value(ctx)
		diags = append(diags, syntax.Redact(d, x.expr, ctx)...)
		if d.HasErrors() {
			continue
		}
		if _, err := convert.Convert(v, x.want); err != nil {
			diags = append(diags, syntax.Problem("Wrong type",
				fmt.Sprintf("The %s must be of type %s: %s.", x.what, syntax.TypeName(x.want), syntax.ConversionProblem(err)), x.expr.Range()))
		}
	}
	return diags
}

// Attributes takes the named string attributes out of an object that may be
// absent or lack some of them, which are then unknown. Those that are true are
// sensitive.
func Attributes(from cty.Value, names map[string]bool) cty.Value {
	out := map[string]cty.Value{}
	for name, sensitive := range names {
		v := Known("")
		if from != cty.NilVal && from.Type().IsObjectType() && from.IsKnown() && !from.IsNull() && from.Type().HasAttribute(name) {
			v = from.GetAttr(name)
		}
		if sensitive {
			v = v.Mark(syntax.Sensitive)
		}
		out[name] = v
	}
	return cty.ObjectVal(out)
}

// Known returns a string as a value, unknown if it is empty.
func Known(s string) cty.Value {
	if s == "" {
		return cty.UnknownVal(cty.String).RefineNotNull()
	}
	return cty.StringVal(s)
}

// Paths returns path.*: see docs/agent-folder.md.
func Paths(agentDir, imageDir, job string) cty.Value {
	paths := map[string]cty.Value{"root": Known(agentDir), "image": Known(imageDir)}
	if agentDir != "" && imageDir == "" {
		paths["image"] = cty.StringVal("/") // the image is the VM's own disk
	}
	for name, folder := range map[string]string{"config": "jobs", "data": "data", "log": "log", "run": "run"} {
		paths[name] = Known("")
		if agentDir != "" {
			paths[name] = cty.StringVal(path.Join(agentDir, folder, job))
		}
	}
	return cty.ObjectVal(paths)
}

// CertificateAttributes returns the attributes of a certificate; true are those
// that must not be shown.
func CertificateAttributes() map[string]bool {
	return map[string]bool{"ca": false, "certificate": false, "private_key": true}
}
