package views

import (
	"fmt"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

// shownThings is the largest number of a job's things that a line names.
const shownThings = 20

// Bereaved says in a few words what users lose by a plan, an instance each.
func Bereaved(p *plan.Plan) []string {
	var out []string
	for _, c := range p.Bereaved() {
		what := "it is not known what"
		if n := c.Census.Total(); n > 0 {
			what = fmt.Sprintf("%d", n)
			if len(c.Census.Unanswered()) > 0 {
				what += " and more"
			}
		}
		out = append(out, fmt.Sprintf("%s (%s)", c.Instance, what))
	}
	return out
}

// census says what lives on an instance, and what the change does to it, in lines.
func census(c plan.Census, color bool) []string {
	fate := map[plan.Effect]string{
		plan.Gone: "WHICH WILL BE LOST", plan.Stranded: "which stay on its disk, where nobody reaches them", plan.Away: "away until it runs again",
	}[c.Effect]
	warns := c.Effect != plan.Away
	var out []string
	for _, j := range c.Jobs {
		text, grave := held(j)
		if !grave && !warns && j.Total == 0 {
			continue // nobody misses it
		}
		if grave && warns {
			text += "; taken as full: WHAT IS THERE MAY BE LOST"
		} else if !grave && j.Total > 0 {
			text += "; " + fate
		}
		out = append(out, paint(color && warns && (grave || j.Total > 0), red, text))
	}
	return out
}

// held says what lives at a job, as "mysql_node holds 3 databases: ..."; grave if it
// is not known.
func held(j api.JobCensus) (text string, grave bool) {
	if j.Error != "" {
		return fmt.Sprintf("%s does not say what lives there: %s", j.Job, strings.ReplaceAll(j.Error, "\n", "; ")), true
	}
	if j.Total == 0 {
		return j.Job + " holds nothing of anybody", false
	}
	var kinds []string
	count, names := map[string]int{}, map[string][]string{}
	shown := 0
	for _, t := range j.Things {
		if !slices.Contains(kinds, t.Kind) {
			kinds = append(kinds, t.Kind)
		}
		count[t.Kind]++
		if shown == shownThings {
			continue
		}
		shown++
		names[t.Kind] = append(names[t.Kind], thing(t))
	}
	var parts []string
	for _, kind := range kinds {
		part := Count(count[kind], kind)
		if list := strings.Join(names[kind], ", "); list != "" {
			part += ": " + list
		}
		if more := count[kind] - len(names[kind]); more > 0 && len(names[kind]) > 0 {
			part += fmt.Sprintf(" and %d more", more)
		}
		parts = append(parts, part)
	}
	if more := j.Total - len(j.Things); more > 0 {
		parts = append(parts, fmt.Sprintf("%d more", more))
	}
	return j.Job + " holds " + strings.Join(parts, "; "), false
}

// thing names one, with whom it is for.
func thing(t api.Thing) string {
	var of []string
	if t.Owner != "" {
		of = append(of, "of "+t.Owner)
	}
	if len(t.Apps) > 0 {
		of = append(of, plural("app", len(t.Apps))+" "+strings.Join(t.Apps, " and "))
	}
	if len(of) == 0 {
		return t.Name
	}
	return fmt.Sprintf("%s (%s)", t.Name, strings.Join(of, ", "))
}

// Count returns a number of things in words, as "1 job" or "3 jobs".
func Count(n int, kind string) string { return fmt.Sprintf("%d %s", n, plural(kind, n)) }

func plural(kind string, n int) string {
	if n == 1 {
		return kind
	}
	return kind + "s"
}
