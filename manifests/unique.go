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

// uniqueNames are those of unique blocks, by block and name, and who has them.
type uniqueNames map[string]bearer

// check adds the names of a group's instances, and reports those that another instance of
// the deployment has, once for each job of the group.
func (n uniqueNames) check(l *loader, g *Group, e *Evaluator) {
	for _, job := range g.Jobs {
		if len(job.Spec.Uniques) == 0 || l.unresolved[job] {
			continue
		}
		for index := range g.Instances {
			ctx, diags := e.JobContext(g.Name, index, job)
			if diags.HasErrors() {
				break // evaluate reports it
			}
			if d := n.add(g, job, index, ctx); d != nil {
				l.Report(d)
				break
			}
		}
	}
}

// add adds an instance's names; what it returns is wrong if another instance has one.
func (n uniqueNames) add(g *Group, job *GroupJob, index int, ctx *hcl.EvalContext) *hcl.Diagnostic {
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
		first, taken := n[key]
		if !taken {
			n[key] = who
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
		return syntax.Problem("Name in use",
			fmt.Sprintf("%s and %s would both be %q (%s of job %q), so that what belongs to one would be taken for the other's. %s The first is at %s.",
				first.instance, who.instance, name, u.Name, job.Spec.Name, cure, syntax.Place(first.job.Range)), job.Range)
	}
	return nil
}
