package manifests

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// EnvironPrefix begins the names of environment variables that set variables.
const EnvironPrefix = "DEPLOY_VAR_"

// variable is a variable block with the place it was decoded from.
type variable struct {
	syntax.Typed
	sensitive   bool
	structured  bool // its default is a list, a map or an object
	validations []*Validation
	value       cty.Value
	at          hcl.Range // where the value comes from
	defRange    hcl.Range
}

func (l *loader) decodeVariables() {
	given := &givenValues{Decoder: &l.Decoder, options: l.options, files: l.m.Files, variables: map[string]*variable{}}
	l.Constants = refuseAll("The default of a variable must be a constant: it cannot depend on other values.")
	l.Each(l.blocks["variable"], func(b *hcl.Block, name string) {
		content := l.Content(b.Body, "type default description sensitive", "validation")
		l.CheckIdentifier(b)
		v := &variable{
			Typed:       l.Typed(content.Attributes),
			sensitive:   l.Flag(content.Attributes, "sensitive", false),
			validations: l.Validations(content.Blocks, syntax.Namespace{"var": {Noun: "variable", Names: []string{name}}}),
			value:       cty.NilVal,
			defRange:    b.DefRange,
		}
		l.Text(content.Attributes, "description", "")
		if attr := content.Attributes["default"]; attr != nil {
			v.at = attr.Expr.Range()
			v.value = cty.UnknownVal(v.Type)
			if diags := l.Constants.Check(attr.Expr); diags.HasErrors() {
				l.Report(diags...)
			} else if value, diags := attr.Expr.Value(l.Context); diags.HasErrors() {
				l.Report(diags...)
			} else if value, err := v.Convert(value); err != nil {
				l.Report(syntax.Problem("Wrong type", fmt.Sprintf("The default of variable %q does not have its type: %s.", name, syntax.ConversionProblem(err)), attr.Expr.Range(), attr.Range))
			} else {
				v.value = value
				v.structured = !value.IsNull() && !value.Type().IsPrimitiveType()
			}
		}
		given.variables[name] = v
	})
	l.setScope()

	given.set()
	values := map[string]cty.Value{}
	for name, v := range given.variables {
		if v.value == cty.NilVal {
			l.Report(syntax.Problem("Variable without a value",
				fmt.Sprintf("Variable %q has no default and was not set. Set it with --var %s=..., in a file named with --var-file, or as %s%s in the environment.", name, name, EnvironPrefix, name),
				v.defRange))
			v.value = cty.UnknownVal(v.Type)
		}
		ctx := &hcl.EvalContext{
			Variables: map[string]cty.Value{"var": cty.ObjectVal(map[string]cty.Value{name: syntax.Unmarked(v.value)})},
			Functions: l.Context.Functions,
		}
		l.Report(syntax.Broken(v.validations, fmt.Sprintf("variable %q", name), ctx, v.at)...)
		values[name] = v.value
		if v.sensitive {
			values[name] = v.value.Mark(Sensitive)
		}
	}
	l.Context.Variables["var"] = cty.ObjectVal(values)
}

// Variable is a variable of the manifest with the value that it was loaded with.
type Variable struct {
	Value     cty.Value // without marks
	Sensitive bool
}

// Variables are all variables, by name.
func (m *Manifest) Variables() map[string]Variable {
	out := map[string]Variable{}
	all, ok := m.base.Variables["var"]
	if !ok || !all.Type().IsObjectType() {
		return out
	}
	for name := range all.Type().AttributeTypes() {
		v, marks := all.GetAttr(name).UnmarkDeep()
		out[name] = Variable{Value: v, Sensitive: len(marks) > 0}
	}
	return out
}

// givenValues gives variables the values that the options have for them.
type givenValues struct {
	*syntax.Decoder
	options   Options
	files     map[string]*hcl.File
	variables map[string]*variable
}

// set takes all that is given; what comes later counts.
func (l *givenValues) set() {
	for name, value := range l.options.Values {
		if v := l.variables[name]; v != nil {
			l.setValue(name, v, value, v.defRange)
		}
	}
	for _, entry := range l.options.Environ {
		name, value, _ := strings.Cut(entry, "=")
		if name, ok := strings.CutPrefix(name, EnvironPrefix); ok && l.variables[name] != nil {
			l.setText(name, l.variables[name], value, "the environment")
		}
	}
	for _, file := range l.options.VarFiles {
		l.setFromFile(file)
	}
	for _, name := range syntax.SortedKeys(l.options.Vars) {
		v := l.variables[name]
		if v == nil {
			l.Report(&hcl.Diagnostic{Severity: hcl.DiagError, Summary: "Unknown variable",
				Detail: fmt.Sprintf("The manifest declares no variable %q, which --var sets. %s", name, syntax.Suggest(name, syntax.SortedKeys(l.variables), "variable"))})
			continue
		}
		l.setText(name, v, l.options.Vars[name], "--var")
	}
}

// setFromFile reads a file of variables: HCL attributes, or a JSON object.
func (l *givenValues) setFromFile(file VarFile) {
	parse := syntax.ParseVariables
	if strings.HasSuffix(file.Path, ".json") {
		parse = syntax.ParseJSON
	}
	parsed, attrs, diags := parse(file.Source, file.Path)
	l.files[file.Path] = parsed
	l.Report(diags...)
	for _, name := range syntax.SortedKeys(attrs) {
		attr := attrs[name]
		v := l.variables[name]
		if v == nil {
			l.Report(syntax.Problem("Unknown variable",
				fmt.Sprintf("The manifest declares no variable %q. %s", name, syntax.Suggest(name, syntax.SortedKeys(l.variables), "variable")), attr.NameRange, attr.Range))
			continue
		}
		value, diags := attr.Expr.Value(nil)
		l.Report(diags...)
		if diags.HasErrors() {
			value = cty.UnknownVal(v.Type)
		}
		l.setValue(name, v, value, attr.Expr.Range())
	}
}

// setValue gives a variable a value that was found at a place.
func (l *givenValues) setValue(name string, v *variable, value cty.Value, at hcl.Range) {
	if v.sensitive {
		at = v.defRange // the value is not to be quoted
	}
	value, err := v.Convert(value)
	if err != nil {
		l.Report(syntax.Problem("Wrong type", fmt.Sprintf("Variable %q is not what it must be (declared at %s): %s.", name, syntax.Place(v.defRange), syntax.ConversionProblem(err)), at))
		value = cty.UnknownVal(v.Type)
	}
	v.value, v.at = value, at
}

// setText gives a variable a value that was written outside of any file: as it
// stands for simple types, and for a variable without a type whose default is
// simple; else as an expression.
func (l *givenValues) setText(name string, v *variable, text, source string) {
	filename := fmt.Sprintf("<value of var.%s from %s>", name, source)
	if !v.sensitive { // what is sensitive is never quoted
		l.files[filename] = &hcl.File{Bytes: []byte(text)}
	}
	if !utf8.ValidString(text) {
		l.Report(syntax.Problem("Value is not text", fmt.Sprintf("The value of variable %q from %s is not UTF-8 text. Give it encoded, for example in base64.", name, source), v.defRange))
		v.value = cty.UnknownVal(v.Type)
		return
	}
	at := hcl.Range{Filename: filename, Start: hcl.InitialPos, End: hcl.Pos{Line: 1, Column: 1 + len(text), Byte: len(text)}}
	if v.Type.IsPrimitiveType() || v.Type == cty.DynamicPseudoType && !v.structured {
		l.setValue(name, v, cty.StringVal(text), at)
		return
	}
	expr, diags := syntax.ParseExpression([]byte(text), filename)
	value := cty.UnknownVal(v.Type)
	if !diags.HasErrors() {
		if known, d := expr.Value(nil); d.HasErrors() {
			diags = append(diags, d...)
		} else {
			value = known
		}
	}
	l.Report(diags...)
	l.setValue(name, v, value, at)
}
