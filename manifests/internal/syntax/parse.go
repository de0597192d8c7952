package syntax

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	hcljson "github.com/hashicorp/hcl/v2/json"
	"github.com/zclconf/go-cty/cty/function"

	"github.com/clusterworks/deploy/manifests/internal/functions"
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
			return hcl.Diagnostics{Problem("Text too complex",
				fmt.Sprintf("There are more than %d brackets and quotes within each other, or %d operators in one file. Split it.", mostNesting, mostOperators), t.Range)}
		}
	}
	return nil
}

// ParseConfig is hclsyntax.ParseConfig for texts from anywhere. The file is
// never nil; the body is nil if there are errors.
func ParseConfig(source []byte, filename string) (*hcl.File, *hclsyntax.Body, hcl.Diagnostics) {
	tokens, _ := hclsyntax.LexConfig(source, filename, hcl.InitialPos) // parsing reports the errors again
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

// ParseVariables reads a file of attributes.
func ParseVariables(source []byte, filename string) (*hcl.File, hcl.Attributes, hcl.Diagnostics) {
	file, body, diags := ParseConfig(source, filename)
	if body == nil {
		if len(diags) > 0 && bytes.HasPrefix(bytes.TrimSpace(source), []byte("{")) {
			diags = diags[:1]
			diags[0].Detail += " If this is JSON, give the file a name that ends in .json."
		}
		return file, nil, diags
	}
	attrs, more := body.JustAttributes()
	return file, attrs, append(diags, more...)
}

// ParseJSON reads the attributes of a JSON object. Its strings are literal: "${"
// has no meaning in them.
func ParseJSON(source []byte, filename string) (*hcl.File, hcl.Attributes, hcl.Diagnostics) {
	file := &hcl.File{Bytes: source}
	depth, quoted, escaped := 0, false, false
	for _, c := range source {
		switch {
		case escaped:
			escaped = false
		case quoted && c == '\\':
			escaped = true
		case c == '"':
			quoted = !quoted
		case !quoted && (c == '[' || c == '{'):
			depth++
		case !quoted && (c == ']' || c == '}'):
			depth--
		}
		if depth > mostNesting {
			at := hcl.Range{Filename: filename, Start: hcl.InitialPos, End: hcl.InitialPos}
			return file, nil, hcl.Diagnostics{Problem("Text too complex", fmt.Sprintf("There are more than %d brackets within each other.", mostNesting), at)}
		}
	}
	parsed, diags := hcljson.Parse(source, filename)
	if diags.HasErrors() || parsed == nil {
		if len(diags) > 1 { // a consequence of the others
			diags = slices.DeleteFunc(diags, func(d *hcl.Diagnostic) bool { return d.Summary == "Root value must be object" })
		}
		if len(diags) > 0 && !bytes.HasPrefix(bytes.TrimSpace(source), []byte("{")) {
			diags[0].Detail += " A file whose name ends in .json must be one JSON object; HCL needs another name."
		}
		return file, nil, diags
	}
	attrs, more := parsed.Body.JustAttributes()
	return parsed, attrs, append(diags, more...)
}

// ParseTemplate is hclsyntax.ParseTemplate for texts from anywhere.
func ParseTemplate(source []byte, filename string) (hclsyntax.Expression, hcl.Diagnostics) {
	tokens, _ := hclsyntax.LexTemplate(source, filename, hcl.InitialPos)
	if diags := tooComplex(tokens); diags.HasErrors() {
		return nil, diags
	}
	return hclsyntax.ParseTemplate(source, filename, hcl.InitialPos)
}

// ParseExpression is hclsyntax.ParseExpression for texts from anywhere.
func ParseExpression(source []byte, filename string) (hclsyntax.Expression, hcl.Diagnostics) {
	tokens, _ := hclsyntax.LexExpression(source, filename, hcl.InitialPos)
	if diags := tooComplex(tokens); diags.HasErrors() {
		return nil, diags
	}
	return hclsyntax.ParseExpression(source, filename, hcl.InitialPos)
}

// Functions returns all functions of the manifest language by name.
func Functions() map[string]function.Function { return functions.All(Sensitive) }

// Mark is the type of the marks that this package puts on values.
type Mark string

// Sensitive marks values that must not be shown.
const Sensitive Mark = "sensitive"
