package plan

import (
	"slices"

	"github.com/clusterworks/deploy/agent/api"
)

// Effect says what a change of an instance does to the data on it.
type Effect string

const (
	Unharmed Effect = ""
	// Gone: it goes with the VM, or with the disk.
	Gone Effect = "lost"
	// Stranded: it stays on a disk that no instance has, where nobody reaches it.
	Stranded Effect = "stranded"
	// Away: nobody reaches it until the instance runs again.
	Away Effect = "away"
)

// Census holds the answers of an instance's jobs about the data on it, if a change
// affects that data.
type Census struct {
	Effect Effect `json:"effect"`
	// Jobs are those concerned; one that could not answer has an Error.
	Jobs []api.JobCensus `json:"jobs"`
}

// Unanswered returns why jobs do not say what lives there, as "job: reason".
func (c Census) Unanswered() []string {
	var out []string
	for _, j := range c.Jobs {
		if j.Error != "" {
			out = append(out, j.Job+": "+j.Error)
		}
	}
	return out
}

// Total is the number of things that are known to live there.
func (c Census) Total() int {
	n := 0
	for _, j := range c.Jobs {
		n += j.Total
	}
	return n
}

// Bereaves reports whether users lose something, or may: who does not answer is
// taken as full.
func (c Census) Bereaves() bool {
	return (c.Effect == Gone || c.Effect == Stranded) && (c.Total() > 0 || len(c.Unanswered()) > 0)
}

// Affected returns the effect of the change on the data of its instance, and those of
// jobs that it affects, of those that keep data there. disk reports whether the instance
// has a persistent disk, and fate what becomes of the disk: Keep (without its
// instance), Delete, Lost, or "" if the instance keeps it.
func (c InstanceChange) Affected(jobs []string, disk bool, fate Action) (Effect, []string) {
	if len(jobs) == 0 || c.Action == None || c.Action == Create {
		return Unharmed, nil
	}
	replaced := c.Action == Delete || c.Action.NewVM()
	switch {
	case disk && fate == Lost: // what was there is lost already, and told as the disk's
	case disk && fate == Keep:
		return Stranded, jobs
	case disk && fate == Delete, replaced && !disk, c.Action == Delete:
		return Gone, jobs
	case replaced:
		return Away, jobs
	}
	var stopped []string
	for _, job := range jobs {
		if slices.ContainsFunc(c.Processes, func(p ProcessChange) bool {
			return p.Job == job && (p.Action == ProcessRestart || p.Action == ProcessStop)
		}) {
			stopped = append(stopped, job)
		}
	}
	if len(stopped) > 0 {
		return Away, stopped
	}
	return Unharmed, nil
}

// Bereaved are the changes by which users lose something, or may.
func (p *Plan) Bereaved() []InstanceChange {
	var out []InstanceChange
	for _, c := range p.Instances {
		if c.Census != nil && c.Census.Bereaves() {
			out = append(out, c)
		}
	}
	return out
}

// covers reports whether who approved c knew of all that now is lost. One that has
// answered then and does not now may have been stopped by the run itself.
func (c *Census) covers(now Census) bool {
	switch {
	case !now.Bereaves():
		return true
	case c == nil || c.Effect != Gone && c.Effect != Stranded:
		return false
	case len(c.Unanswered()) > 0 || len(now.Unanswered()) > 0:
		return true
	}
	known := map[string]bool{}
	for _, j := range c.Jobs {
		for _, t := range j.Things {
			known[j.Job+" "+t.Kind+" "+t.Name] = true
		}
	}
	for _, j := range now.Jobs {
		for _, t := range j.Things {
			if !known[j.Job+" "+t.Kind+" "+t.Name] && len(known) == c.Total() {
				return false
			}
		}
	}
	return now.Total() <= c.Total()
}
