package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
)

// Level says what a fact of a job's process must be at least.
type Level struct {
	Job, Name string
	// Least is one of Levels, which begin with the weakest.
	Least  string
	Levels []string
}

// LevelReport is a fact of an instance beside what the manifest requires.
type LevelReport struct {
	Instance string `json:"instance"`
	Job      string `json:"job"`
	Name     string `json:"name"` // "isolation"
	// Level is the level that the process found on its machine; "" if it has not run
	// there yet, or its agent does not answer.
	Level string `json:"level,omitempty"`
	// Least is the lowest level that the manifest accepts.
	Least string `json:"least"`
	// Below reports whether the level is known and lower than Least.
	Below bool `json:"below,omitempty"`
}

// LevelsOf returns what wanted instances require beside what their agents report.
func LevelsOf(wanted []Wanted, inventories map[string]*api.Inventory) []LevelReport {
	var out []LevelReport
	for _, w := range wanted {
		out = append(out, levels(w, inventories[w.Spec.Instance])...)
	}
	return out
}

// levels is LevelsOf an instance; inv may be nil.
func levels(w Wanted, inv *api.Inventory) []LevelReport {
	var out []LevelReport
	for _, l := range w.Levels {
		r := LevelReport{Instance: w.Spec.Instance, Job: l.Job, Name: l.Name, Least: l.Least}
		if inv != nil {
			for _, p := range inv.Processes {
				if level, ok := p.Facts[l.Name]; ok && p.Job == l.Job {
					r.Level = level
					// A level that is none of them counts as the weakest.
					r.Below = slices.Index(l.Levels, level) < slices.Index(l.Levels, l.Least)
				}
			}
		}
		out = append(out, r)
	}
	return out
}

// String says what is below what is required, and what to do.
func (r LevelReport) String() string {
	return fmt.Sprintf("%s of job %s on %s is %s, less than %s, which the manifest requires; change the machine, or the job's property %s", r.Name, r.Job, r.Instance, r.Level, r.Least, r.Name)
}

// SummarizeLevels returns a line for each kind of level, such as "isolation: full on
// dea/0, stager/0".
func SummarizeLevels(reports []LevelReport) []string {
	var names []string
	instances := map[string]map[string][]string{} // by name and level
	for _, r := range reports {
		if instances[r.Name] == nil {
			names, instances[r.Name] = append(names, r.Name), map[string][]string{}
		}
		level := cmp.Or(r.Level, "not known yet")
		if of := instances[r.Name]; !slices.Contains(of[level], r.Instance) {
			of[level] = append(of[level], r.Instance)
		}
	}
	var out []string
	for _, name := range names {
		var parts []string
		for _, level := range slices.Sorted(maps.Keys(instances[name])) {
			parts = append(parts, level+" on "+strings.Join(instances[name][level], ", "))
		}
		out = append(out, name+": "+strings.Join(parts, "; "))
	}
	return out
}

// BelowLeast returns the levels that are less than what is required.
func BelowLeast(reports []LevelReport) []LevelReport {
	return slices.DeleteFunc(slices.Clone(reports), func(r LevelReport) bool { return !r.Below })
}
