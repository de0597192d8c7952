package syntax

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// Namespace lists what expressions may refer to, by the reference's first name.
// References are checked before anything is evaluated, so that a wrong one is
// found whatever the values are, and gets a message of its own.
type Namespace map[string]*Root

// Root is one first name: "group" in group.router.instances.
type Root struct {
	Noun  string   // what a name below it is called: "group"
	Names []string // what there is below it
	// Attributes lists what a named thing has; nil: anything.
	Attributes func(name string) []string
	// Refuse says why a name may not be used here, "" if it may; nil: all may.
	Refuse func(name string) string
}

// Refused returns a root that exists in the language but not in this place.
func Refused(why string) *Root {
	return &Root{Refuse: func(string) string { return why }}
}

// Fixed returns a Root.Attributes that gives every name the same attributes.
func Fixed(names ...string) func(string) []string {
	return func(string) []string { return names }
}

// Check reports every reference of the expression that leads nowhere.
func (ns Namespace) Check(expr hcl.Expression) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, t := range expr.Variables() {
		if d := ns.CheckReference(t); d != nil {
			d.Context = hcl.RangeOver(*d.Subject, expr.Range()).Ptr()
			diags = append(diags, d)
		}
	}
	return diags
}

// CheckReference returns what is wrong with a reference, nil if nothing is.
func (ns Namespace) CheckReference(t hcl.Traversal) *hcl.Diagnostic {
	first, where := t.RootName(), t.SourceRange()
	r := ns[first]
	if r == nil {
		var known []string
		for name, r := range ns {
			if r.Noun != "" {
				known = append(known, name)
			}
		}
		hint := "Text must stand in quotes."
		if first == strings.ToUpper(first) {
			hint = fmt.Sprintf("For a variable of a shell script, write $${%s}.", first)
		}
		return Problem("Unknown reference",
			fmt.Sprintf("Nothing here is called %q. %s %s", first, Suggest(first, known, "name to refer to"), hint), where)
	}
	name, named := "", false
	if len(t) > 1 {
		name, named = StepName(t[1])
	}
	if r.Refuse != nil {
		if why := r.Refuse(name); why != "" {
			return Problem("Reference not allowed here", why, where)
		}
	}
	if !named {
		return Problem("Incomplete reference",
			fmt.Sprintf("%q must be followed by the name of a %s: %s.<name>. %s", first, r.Noun, first, Suggest("", r.Names, r.Noun)), where)
	}
	if !slices.Contains(r.Names, name) {
		return Problem("Unknown "+r.Noun,
			fmt.Sprintf("There is no %s called %q. %s", r.Noun, name, Suggest(name, r.Names, r.Noun)), where)
	}
	if r.Attributes == nil || len(t) < 3 {
		return nil
	}
	if attr, ok := StepName(t[2]); ok {
		if known := r.Attributes(name); !slices.Contains(known, attr) {
			return Problem("Unknown attribute",
				fmt.Sprintf("%s.%s has no %q. %s", first, name, attr, Suggest(attr, known, "attribute")), where)
		}
	}
	return nil
}

// StepName returns the name that a step of a reference selects: .name or ["name"].
func StepName(step hcl.Traverser) (string, bool) {
	switch s := step.(type) {
	case hcl.TraverseAttr:
		return s.Name, true
	case hcl.TraverseIndex:
		if s.Key.Type() == cty.String && s.Key.IsKnown() && !s.Key.IsNull() {
			return s.Key.AsString(), true
		}
	}
	return "", false
}

// Referred lists the names below a root that the expression refers to, with
// the place of the first reference to each.
func Referred(expr hcl.Expression, first string) map[string]hcl.Range {
	names := map[string]hcl.Range{}
	for _, t := range expr.Variables() {
		if t.RootName() != first || len(t) < 2 {
			continue
		}
		if name, ok := StepName(t[1]); ok {
			if _, seen := names[name]; !seen {
				names[name] = t.SourceRange()
			}
		}
	}
	return names
}

// RefersTo reports whether the expression refers to anything below a root.
func RefersTo(expr hcl.Expression, first string) bool {
	return slices.ContainsFunc(expr.Variables(), func(t hcl.Traversal) bool { return t.RootName() == first })
}

// SortedKeys returns the keys of a map in order.
func SortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Reference reads an expression that must be a plain reference, such as
// group.router, and returns the name.
func (r *Root) Reference(expr hcl.Expression, first string) (string, *hcl.Diagnostic) {
	t, diags := hcl.AbsTraversalForExpr(expr)
	if diags.HasErrors() || t.RootName() != first || len(t) != 2 {
		if !diags.HasErrors() && t.RootName() == first && len(t) < 2 {
			return "", Namespace{first: r}.CheckReference(t)
		}
		return "", Problem("Not a reference",
			fmt.Sprintf("This must name a %s, without quotes: %s.<name>. %s", first, first, Suggest("", r.Names, r.Noun)), expr.Range())
	}
	if d := (Namespace{first: r}).CheckReference(t); d != nil {
		return "", d
	}
	name, _ := StepName(t[1])
	return name, nil
}

// Labels returns the first label of each block.
func Labels(blocks hcl.Blocks) []string {
	var names []string
	for _, b := range blocks {
		names = append(names, b.Labels[0])
	}
	return names
}

// InstanceAttributes are the attributes of instance, and of an element of
// group.<name>.instances.
var InstanceAttributes = []string{"id", "group", "index", "az", "address"}
