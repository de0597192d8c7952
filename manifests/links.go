package manifests

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// chosenLinks reads `links = { bus = "nats" }`.
func (l *loader) chosenLinks(job *GroupJob, attr *hcl.Attribute) {
	pairs, diags := hcl.ExprMap(attr.Expr)
	if diags.HasErrors() {
		l.Report(syntax.Problem("Not a map of links", "links must say for each link which group provides it: { bus = \"nats\" }.", attr.Expr.Range(), attr.Range))
		return
	}
	var known []string
	for _, c := range job.Spec.Consumes {
		known = append(known, c.Name)
	}
	for _, pair := range pairs {
		// A bare key, bus = ..., reads as its own name.
		name := hcl.ExprAsKeyword(pair.Key)
		if name == "" {
			v, ok := l.EvalExpr(pair.Key, cty.String, "links", attr.Range)
			if !ok {
				continue
			}
			name = v.AsString()
		}
		if !slices.Contains(known, name) {
			l.Report(syntax.Problem("Unknown link",
				fmt.Sprintf("Job %q consumes no link %q. %s", job.Spec.Name, name, syntax.Suggest(name, known, "link")), pair.Key.Range(), attr.Range))
			continue
		}
		group := ""
		if t, diags := hcl.AbsTraversalForExpr(pair.Value); !diags.HasErrors() && t.RootName() == "group" {
			var d *hcl.Diagnostic
			if group, d = l.groupRoot.Reference(pair.Value, "group"); d != nil {
				l.Report(d)
				continue
			}
		} else {
			v, ok := l.EvalExpr(pair.Value, cty.String, "links", attr.Range)
			if !ok {
				continue
			}
			group = v.AsString()
		}
		if !slices.Contains(l.groupRoot.Names, group) {
			l.Report(syntax.Problem("Unknown group",
				fmt.Sprintf("There is no group called %q. %s", group, syntax.Suggest(group, l.groupRoot.Names, "group")), pair.Value.Range(), attr.Range))
			continue
		}
		job.Links[name] = group
	}
}

// provider is a provides block of a job in a group.
type provider struct {
	group   *Group
	job     *GroupJob
	provide *Provide
}

func (l *loader) providers(kind string) []provider {
	var list []provider
	for _, g := range l.m.Groups {
		for _, job := range g.Jobs {
			for _, p := range job.Spec.Provides {
				if p.Type == kind {
					list = append(list, provider{g, job, p})
				}
			}
		}
	}
	return list
}

// resolveLinks finds the provider of everything that is consumed.
func (l *loader) resolveLinks() {
	l.unresolved = map[*GroupJob]bool{}
	for _, g := range l.m.Groups {
		for _, job := range g.Jobs {
			for _, c := range job.Spec.Consumes {
				if d := l.resolveLink(g, job, c); d != nil {
					l.Report(d)
					l.unresolved[job] = true
				}
			}
		}
	}
}

// resolveLink finds the provider of one link, or returns why there is none.
func (l *loader) resolveLink(g *Group, job *GroupJob, c *Consume) *hcl.Diagnostic {
	all := l.providers(c.Type)
	candidates := all
	chosen := job.Links[c.Name]
	if chosen != "" {
		candidates = slices.DeleteFunc(slices.Clone(all), func(p provider) bool { return p.group.Name != chosen })
	}
	var names []string
	for _, p := range all {
		names = append(names, fmt.Sprintf("%s (job %s)", p.group.Name, p.job.Spec.Name))
	}
	needs := fmt.Sprintf("Job %q in group %q consumes the link %q", job.Spec.Name, g.Name, c.Name)
	if c.Type != c.Name {
		needs += fmt.Sprintf(" of type %q", c.Type)
	}
	switch {
	case len(candidates) == 1:
		p := candidates[0]
		job.links[c.Name] = p
		job.Links[c.Name] = p.group.Name
		l.requires(g, p.group.Name, job.Range)
		return nil
	case slices.ContainsFunc(candidates, func(p provider) bool { return p.group != candidates[0].group }):
		return syntax.Problem("Ambiguous link",
			fmt.Sprintf("%s, which several groups provide: %s. Choose one in the job block: links = { %s = %q }.", needs, strings.Join(names, ", "), c.Name, candidates[0].group.Name), job.Range)
	case len(candidates) > 1:
		return syntax.Problem("Ambiguous link",
			fmt.Sprintf("%s, which group %q provides more than once: %s. Let one job of that group provide it.", needs, candidates[0].group.Name, strings.Join(names, ", ")), job.Range)
	case l.incomplete:
		l.unresolved[job] = true // its provider may be what could not be loaded
		return nil
	case chosen != "" && len(all) > 0:
		return syntax.Problem("Missing link",
			fmt.Sprintf("%s, which group %q does not provide. These do: %s.", needs, chosen, strings.Join(names, ", ")), job.Range)
	case chosen != "" || !c.Optional:
		return syntax.Problem("Missing link",
			fmt.Sprintf("%s, which no job of this manifest provides. Add a group with a job that provides %q.", needs, c.Type), job.Range)
	}
	return nil // optional, and nobody provides it
}
