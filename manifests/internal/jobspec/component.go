package jobspec

import (
	_ "embed"
	"slices"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// componentSource has the blocks that `component = true` stands for.
//
//go:embed component.hcl
var componentSource []byte

const componentFile = "component.hcl"

// addComponent gives a job with a process that is a component the blocks of
// component.hcl that it does not have itself.
func (l *loader) addComponent(body *hclsyntax.Body) {
	for _, process := range body.Blocks {
		if process.Type != "process" || !isComponent(process.Body) {
			continue
		}
		file, shared, diags := syntax.ParseConfig(componentSource, componentFile)
		l.job.Files[componentFile] = file
		l.Report(diags...)
		for _, b := range shared.Blocks {
			if b.Type == "process" {
				addMissing(process.Body, b.Body)
			} else if findBlock(body.Blocks, b) == nil {
				body.Blocks = append(body.Blocks, b)
			}
		}
	}
}

// isComponent reports whether the body of a process says that it is a component.
// The decoder reports what is wrong with the attribute.
func isComponent(body *hclsyntax.Body) bool {
	attr := body.Attributes["component"]
	if attr == nil {
		return false
	}
	v, diags := attr.Expr.Value(nil)
	return !diags.HasErrors() && v.RawEquals(cty.True)
}

// addMissing adds the attributes and blocks that a body does not have. Blocks of a
// type and labels that it has are its own, however many the shared body has.
func addMissing(body, shared *hclsyntax.Body) {
	for name, attr := range shared.Attributes {
		if body.Attributes[name] == nil {
			body.Attributes[name] = attr
		}
	}
	own := body.Blocks
	for _, b := range shared.Blocks {
		if findBlock(own, b) == nil {
			body.Blocks = append(body.Blocks, b)
		}
	}
}

// findBlock returns the block of the same type and labels, nil if there is none.
func findBlock(blocks hclsyntax.Blocks, like *hclsyntax.Block) *hclsyntax.Block {
	for _, b := range blocks {
		if b.Type == like.Type && slices.Equal(b.Labels, like.Labels) {
			return b
		}
	}
	return nil
}
