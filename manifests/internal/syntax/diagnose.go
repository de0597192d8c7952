package syntax

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// Problem returns an error diagnostic. The printer shows the context, if any,
// around the subject.
func Problem(summary, detail string, subject hcl.Range, context ...hcl.Range) *hcl.Diagnostic {
	d := &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &subject}
	if len(context) > 0 && context[0].Filename == subject.Filename {
		d.Context = hcl.RangeOver(subject, context[0]).Ptr()
	}
	return d
}

// Duplicate returns the diagnostic for a second declaration of the same name.
func Duplicate(noun, name string, subject, first hcl.Range) *hcl.Diagnostic {
	return Problem("Duplicate "+noun, fmt.Sprintf("A %s named %q was already declared at %s. Rename one of them.", noun, name, Place(first)), subject)
}

// Place returns "file:line" of a range.
func Place(r hcl.Range) string { return fmt.Sprintf("%s:%d", r.Filename, r.Start.Line) }

// Suggest returns the end of a message about an unknown name: the name that was
// probably meant, or else all names there are.
func Suggest(name string, known []string, noun string) string {
	if guess := nearest(name, known); name != "" && guess != "" {
		return fmt.Sprintf("Did you mean %q?", guess)
	}
	if len(known) == 0 {
		return fmt.Sprintf("There is no %s.", noun)
	}
	known = slices.Clone(known)
	slices.Sort(known)
	return fmt.Sprintf("There is: %s.", strings.Join(known, ", "))
}

// nearest returns the known name that is at most a slip or two away, or of which one
// is the beginning or the end of the other; "" if none is.
func nearest(name string, known []string) string {
	best, distance := "", 3
	if len(name) < 4 {
		distance = 2
	}
	for _, k := range known {
		if d := levenshtein.Distance(strings.ToLower(name), strings.ToLower(k), nil); d < distance || d == distance && best != "" && k < best {
			best, distance = k, d
		}
	}
	if best != "" {
		return best
	}
	// SIGHUP for HUP, size for size_gb; but nothing that several could be.
	for _, k := range known {
		long, short := strings.ToLower(name), strings.ToLower(k)
		if len(long) < len(short) {
			long, short = short, long
		}
		if len(short) < 3 || !strings.HasPrefix(long, short) && !strings.HasSuffix(long, short) {
			continue
		}
		if best != "" {
			return ""
		}
		best = k
	}
	return best
}

// ConversionProblem says why a value does not have a type, with the path to
// the part at fault.
func ConversionProblem(err error) string {
	var at cty.PathError
	if !errors.As(err, &at) || len(at.Path) == 0 {
		text := err.Error()
		if strings.HasPrefix(text, "list of") && (strings.HasSuffix(text, "have string") || strings.HasSuffix(text, "have number")) {
			text += "; a list of one stands in brackets, [...]"
		}
		return text
	}
	var b strings.Builder
	for _, step := range at.Path {
		switch s := step.(type) {
		case cty.GetAttrStep:
			b.WriteString("." + s.Name)
		case cty.IndexStep:
			switch {
			case !s.Key.IsKnown() || s.Key.IsMarked() || s.Key.IsNull():
				b.WriteString("[...]")
			case s.Key.Type() == cty.String:
				fmt.Fprintf(&b, "[%q]", s.Key.AsString())
			case s.Key.Type() == cty.Number:
				fmt.Fprintf(&b, "[%s]", s.Key.AsBigFloat().Text('f', -1))
			default:
				b.WriteString("[...]")
			}
		}
	}
	return "at " + b.String() + ": " + at.Error()
}

// Tidy explains diagnostics, puts them in the order of the sources and says each
// thing once.
func Tidy(diags hcl.Diagnostics, files map[string]*hcl.File) hcl.Diagnostics {
	for _, d := range diags {
		explain(d, files)
	}
	slices.SortStableFunc(diags, func(a, b *hcl.Diagnostic) int {
		if a.Subject == nil || b.Subject == nil {
			return boolInt(a.Subject != nil) - boolInt(b.Subject != nil)
		}
		if c := strings.Compare(a.Subject.Filename, b.Subject.Filename); c != 0 {
			return c
		}
		return a.Subject.Start.Byte - b.Subject.Start.Byte
	})
	type key struct {
		summary, detail string
		subject         hcl.Range
	}
	seen := map[key]bool{}
	return slices.DeleteFunc(diags, func(d *hcl.Diagnostic) bool {
		k := key{summary: d.Summary, detail: d.Detail}
		if d.Subject != nil {
			k.subject = *d.Subject
		}
		again := seen[k]
		seen[k] = true
		return again
	})
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
