package manifests

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// namespace is what an expression may refer to, by the reference's first name.
// References are checked before anything is evaluated, so that a wrong one is
// found whatever the values are, and gets a message of its own.
type namespace map[string]*root

// root is one first name: "group" in group.router.instances.
type root struct {
	noun  string   // what a name below it is called: "group"
	names []string // what there is below it
	// attributes lists what a named thing has; nil: anything.
	attributes func(name string) []string
	// refuse says why a name may not be used here, "" if it may; nil: all may.
	refuse func(name string) string
}

// refused is a root that exists in the language but not in this place.
func refused(why string) *root {
	return &root{refuse: func(string) string { return why }}
}

func fixed(names ...string) func(string) []string {
	return func(string) []string { return names }
}

// check reports every reference of the expression that leads nowhere.
func (ns namespace) check(expr hcl.Expression) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, t := range expr.Variables() {
		if d := ns.checkReference(t); d != nil {
			d.Context = hcl.RangeOver(*d.Subject, expr.Range()).Ptr()
			diags = append(diags, d)
		}
	}
	return diags
}

func (ns namespace) checkReference(t hcl.Traversal) *hcl.Diagnostic {
	first, where := t.RootName(), t.SourceRange()
	r := ns[first]
	if r == nil {
		var known []string
		for name, r := range ns {
			if r.noun != "" {
				known = append(known, name)
			}
		}
		hint := "Text must stand in quotes."
		if first == strings.ToUpper(first) {
			hint = fmt.Sprintf("For a variable of a shell script, write $${%s}.", first)
		}
		return problem("Unknown reference",
			fmt.Sprintf("Nothing here is called %q. %s %s", first, suggest(first, known, "name to refer to"), hint), where)
	}
	name, named := "", false
	if len(t) > 1 {
		name, named = stepName(t[1])
	}
	if r.refuse != nil {
		if why := r.refuse(name); why != "" {
			return problem("Reference not allowed here", why, where)
		}
	}
	if !named {
		return problem("Incomplete reference",
			fmt.Sprintf("%q must be followed by the name of a %s: %s.<name>. %s", first, r.noun, first, suggest("", r.names, r.noun)), where)
	}
	if !slices.Contains(r.names, name) {
		return problem("Unknown "+r.noun,
			fmt.Sprintf("There is no %s called %q. %s", r.noun, name, suggest(name, r.names, r.noun)), where)
	}
	if r.attributes == nil || len(t) < 3 {
		return nil
	}
	if attr, ok := stepName(t[2]); ok {
		if known := r.attributes(name); !slices.Contains(known, attr) {
			return problem("Unknown attribute",
				fmt.Sprintf("%s.%s has no %q. %s", first, name, attr, suggest(attr, known, "attribute")), where)
		}
	}
	return nil
}

// stepName is the name that a step of a reference selects: .name or ["name"].
func stepName(step hcl.Traverser) (string, bool) {
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

// referred lists the names below a root that the expression refers to, with
// the place of the first reference to each.
func referred(expr hcl.Expression, first string) map[string]hcl.Range {
	names := map[string]hcl.Range{}
	for _, t := range expr.Variables() {
		if t.RootName() != first || len(t) < 2 {
			continue
		}
		if name, ok := stepName(t[1]); ok {
			if _, seen := names[name]; !seen {
				names[name] = t.SourceRange()
			}
		}
	}
	return names
}

// refersTo tells whether the expression refers to anything below a root.
func refersTo(expr hcl.Expression, first string) bool {
	return slices.ContainsFunc(expr.Variables(), func(t hcl.Traversal) bool { return t.RootName() == first })
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
