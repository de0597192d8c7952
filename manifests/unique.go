package manifests

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

// bearer is an instance that has a name of a unique block.
type bearer struct {
	instance string
	group    *Group
	job      *GroupJob
}

// checkUnique reports names of unique blocks that two instances of the deployment have,
// once for each group. names has those of the groups before, by block and name, and gets
// this group's.
func (l *loader) checkUnique(g *Group, e *Evaluator, names map[string]bearer) {
	for _, job := range g.Jobs {
		if len(job.Spec.Uniques) == 0 || l.unresolved[job] {
			continue
		}
		for index := range g.Instances {
			ctx, diags := e.JobContext(g.Name, index, job)
			if diags.HasErrors() {
				break // evaluate reports it
			}
			if l.shared(g, job, index, ctx, names) {
				break
			}
		}
	}
}

// shared adds an instance's names and reports whether another instance has one of them.
func (l *loader) shared(g *Group, job *GroupJob, index int, ctx *hcl.EvalContext, names map[string]bearer) bool {
	for _, u := range job.Spec.Uniques {
		if u.Value == nil {
			continue
		}
		v, diags := u.Value.Value(ctx)
		v, err := convert.Convert(syntax.Unmarked(v), cty.String)
		if diags.HasErrors() || err != nil || !v.IsKnown() || v.IsNull() {
			continue // evaluate reports what is wrong; what is not known cannot be compared
		}
		name, who := v.AsString(), bearer{fmt.Sprintf("%s/%d", g.Name, index), g, job}
		key := u.Name + "=" + name
		first, taken := names[key]
		if !taken {
			names[key] = who
			continue
		}
		made := slices.Sorted(maps.Keys(syntax.Referred(u.Value, "property")))
		cure := "Let one group have all these instances."
		switch {
		case first.group == g:
			cure = fmt.Sprintf("The value of unique %q must differ by instance: let it contain ${instance.index}.", u.Name)
		case len(made) > 0:
			cure = fmt.Sprintf("Let one group have all these instances, or give the groups different values of property %s.", strings.Join(made, ", "))
		}
		l.Report(syntax.Problem("Name in use",
			fmt.Sprintf("%s and %s would both be %q (%s of job %q), so that what belongs to one would be taken for the other's. %s The first is at %s.",
				first.instance, who.instance, name, u.Name, job.Spec.Name, cure, syntax.Place(first.job.Range)), job.Range))
		return true
	}
	return false
}
