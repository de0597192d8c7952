package jobspec

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// BusUserType is the type of an element of bus.users.
var BusUserType = cty.Object(map[string]cty.Type{
	"group": cty.String, "job": cty.String,
	"publish": stringsType, "subscribe": stringsType, "answer_seconds": cty.Number, "exact": cty.Bool,
})

// bus reads the bus block.
func (l *loader) bus(b *hcl.Block) {
	attrs, title := l.Content(b.Body, "publish subscribe answer_seconds").Attributes, "bus block"
	everything := l.scope
	l.scope = syntax.Namespace{"property": everything["property"]}
	for first := range everything {
		if first != "property" {
			l.scope[first] = syntax.Refused("The subjects in a bus block can refer to properties only: they are the same for all instances.")
		}
	}
	l.job.Bus = &Bus{
		Publish:       l.expression(attrs, "publish", stringsType, title),
		Subscribe:     l.expression(attrs, "subscribe", stringsType, title),
		AnswerSeconds: l.expression(attrs, "answer_seconds", cty.Number, title),
		Range:         b.DefRange,
	}
	l.scope = everything
	if l.job.BusConsume() == nil {
		l.Report(syntax.Problem("Bus block without a bus",
			"A bus block says what the job may do on the message bus, but the job does not consume it: add consumes \"bus\" {}.", b.DefRange))
	}
}

// BusConsume returns the job's first link to the message bus, nil if it has none.
func (j *Job) BusConsume() *Consume {
	for _, c := range j.Consumes {
		if c.Type == BusLink {
			return c
		}
	}
	return nil
}

// providesBus reports whether a provides block is of the message bus.
func providesBus(b *hcl.Block) bool {
	kind := b.Labels[0]
	if body, ok := b.Body.(*hclsyntax.Body); ok && body.Attributes["type"] != nil {
		if v, diags := body.Attributes["type"].Expr.Value(nil); !diags.HasErrors() && v.Type() == cty.String && v.IsKnown() && !v.IsNull() {
			kind = v.AsString()
		}
	}
	return kind == BusLink
}
