package manifests

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// The parser recurses for each bracket, and for chains of operators, and a Go
// stack that is used up ends the process. What people write stays far below.
const (
	mostNesting   = 1_000
	mostOperators = 20_000
)

// tooComplex reports a text that the parser could not survive.
func tooComplex(tokens hclsyntax.Tokens) hcl.Diagnostics {
	depth, operators := 0, 0
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOParen, hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc, hclsyntax.TokenTemplateInterp:
			depth++
		case hclsyntax.TokenOBrack:
			depth++
			operators++ // an index may follow an index
		case hclsyntax.TokenTemplateControl:
			depth++
			operators++ // %{ if } may hold %{ if }
		case hclsyntax.TokenCBrace, hclsyntax.TokenCParen, hclsyntax.TokenCBrack, hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc, hclsyntax.TokenTemplateSeqEnd:
			depth--
		case hclsyntax.TokenBang, hclsyntax.TokenQuestion, hclsyntax.TokenMinus, hclsyntax.TokenPlus, hclsyntax.TokenStar,
			hclsyntax.TokenSlash, hclsyntax.TokenPercent, hclsyntax.TokenAnd, hclsyntax.TokenOr, hclsyntax.TokenEqualOp,
			hclsyntax.TokenNotEqual, hclsyntax.TokenLessThan, hclsyntax.TokenLessThanEq, hclsyntax.TokenGreaterThan, hclsyntax.TokenGreaterThanEq:
			operators++
		}
		if depth > mostNesting || operators > mostOperators {
			return hcl.Diagnostics{problem("Text too complex",
				fmt.Sprintf("There are more than %d brackets and quotes within each other, or %d operators in one file. Split it.", mostNesting, mostOperators), t.Range)}
		}
	}
	return nil
}

// parseConfig is hclsyntax.ParseConfig for texts from anywhere. The file is
// never nil; without errors its body is what is returned second.
func parseConfig(source []byte, filename string) (*hcl.File, *hclsyntax.Body, hcl.Diagnostics) {
	tokens, _ := hclsyntax.LexConfig(source, filename, hcl.InitialPos) // parsing tells the errors again
	if diags := tooComplex(tokens); diags.HasErrors() {
		return &hcl.File{Bytes: source}, nil, diags
	}
	file, diags := hclsyntax.ParseConfig(source, filename, hcl.InitialPos)
	if file == nil {
		file = &hcl.File{Bytes: source}
	}
	if diags.HasErrors() {
		return file, nil, diags
	}
	body, _ := file.Body.(*hclsyntax.Body)
	return file, body, diags
}

// parseTemplate is hclsyntax.ParseTemplate for texts from anywhere.
func parseTemplate(source []byte, filename string) (hclsyntax.Expression, hcl.Diagnostics) {
	tokens, _ := hclsyntax.LexTemplate(source, filename, hcl.InitialPos)
	if diags := tooComplex(tokens); diags.HasErrors() {
		return nil, diags
	}
	return hclsyntax.ParseTemplate(source, filename, hcl.InitialPos)
}

// parseExpression is hclsyntax.ParseExpression for texts from anywhere.
func parseExpression(source []byte, filename string) (hclsyntax.Expression, hcl.Diagnostics) {
	tokens, _ := hclsyntax.LexExpression(source, filename, hcl.InitialPos)
	if diags := tooComplex(tokens); diags.HasErrors() {
		return nil, diags
	}
	return hclsyntax.ParseExpression(source, filename, hcl.InitialPos)
}
