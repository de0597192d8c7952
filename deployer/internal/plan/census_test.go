package plan

import (
	"slices"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/agent/api"
)

// What a change does to what lives on its instance depends on the change, on the disk,
// and on which processes end.
func TestAffected(t *testing.T) {
	t.Parallel()
	process := func(job string, a ProcessAction) []ProcessChange {
		return []ProcessChange{{Job: job, Name: "p", Action: a}}
	}
	for name, c := range map[string]struct {
		change InstanceChange
		disk   bool
		fate   Action
		want   Effect
		jobs   string
	}{
		"deleted without a disk":               {InstanceChange{Action: Delete}, false, "", Gone, "db kv"},
		"deleted, its disk is kept":            {InstanceChange{Action: Delete}, true, Keep, Stranded, "db kv"},
		"deleted with its disk":                {InstanceChange{Action: Delete}, true, Delete, Gone, "db kv"},
		"deleted, nothing is said of its disk": {InstanceChange{Action: Delete}, true, "", Gone, "db kv"},
		"another VM without a disk":            {InstanceChange{Action: Recreate}, false, "", Gone, "db kv"},
		"another VM with its disk":             {InstanceChange{Action: Recreate}, true, "", Away, "db kv"},
		"another VM that gets no disk any more": {
			InstanceChange{Action: Recreate}, true, Keep, Stranded, "db kv",
		},
		"elsewhere without a disk":       {InstanceChange{Action: Move}, false, "", Gone, "db kv"},
		"elsewhere with its disk":        {InstanceChange{Action: Move}, true, "", Away, "db kv"},
		"its disk is lost already":       {InstanceChange{Action: Recreate}, true, Lost, Unharmed, ""},
		"an update that restarts one":    {InstanceChange{Action: Update, Processes: process("kv", ProcessRestart)}, true, "", Away, "kv"},
		"an update that stops one":       {InstanceChange{Action: Update, Processes: process("db", ProcessStop)}, false, "", Away, "db"},
		"an update that restarts others": {InstanceChange{Action: Update, Processes: process("web", ProcessRestart)}, true, "", Unharmed, ""},
		"a reload":                       {InstanceChange{Action: Reload, Processes: process("db", ProcessReload)}, true, "", Unharmed, ""},
		"a restart":                      {InstanceChange{Action: Restart, Processes: process("db", ProcessRestart)}, true, "", Away, "db"},
		"a first start":                  {InstanceChange{Action: Create, Processes: process("db", ProcessStart)}, false, "", Unharmed, ""},
		"nothing":                        {InstanceChange{Action: None}, false, "", Unharmed, ""},
		"an ignored one":                 {InstanceChange{Action: None, Owed: Delete}, false, "", Unharmed, ""},
	} {
		effect, jobs := c.change.Affected([]string{"db", "kv"}, c.disk, c.fate)
		if effect != c.want || !slices.Equal(jobs, strings.Fields(c.jobs)) {
			t.Errorf("%s: %q for %q, want %q for %q", name, effect, jobs, c.want, c.jobs)
		}
	}
	if effect, _ := (InstanceChange{Action: Delete}).Affected(nil, false, ""); effect != Unharmed {
		t.Errorf("nothing can live on an instance without such jobs, but it is %q", effect)
	}
}

func censusOf(e Effect, jobs ...api.JobCensus) *Census { return &Census{Effect: e, Jobs: jobs} }

func databases(names ...string) api.JobCensus {
	j := api.JobCensus{Job: "db", Total: len(names)}
	for _, n := range names {
		j.Things = append(j.Things, api.Thing{Kind: "database", Name: n})
	}
	return j
}

// An unanswered census is not an empty one, and what nobody reaches any more is a loss.
func TestBereaves(t *testing.T) {
	t.Parallel()
	silent := api.JobCensus{Job: "db", Error: "no answer"}
	for name, c := range map[string]struct {
		census *Census
		want   bool
	}{
		"lost":              {censusOf(Gone, databases("a")), true},
		"stranded":          {censusOf(Stranded, databases("a")), true},
		"away":              {censusOf(Away, databases("a")), false},
		"nothing there":     {censusOf(Gone, databases()), false},
		"unanswered":        {censusOf(Gone, silent), true},
		"one is unanswered": {censusOf(Stranded, databases(), silent), true},
		"away, unanswered":  {censusOf(Away, silent), false},
	} {
		p := &Plan{Instances: []InstanceChange{{Instance: "db/0", Action: Delete, Census: c.census}}}
		if c.census.Bereaves() != c.want || p.LosesData() != c.want || (len(p.Bereaved()) > 0) != c.want {
			t.Errorf("%s: want %v", name, c.want)
		}
	}
}

// Who approved a loss has approved that one, and no greater one.
func TestApprovalCoversWhatWasNamed(t *testing.T) {
	t.Parallel()
	silent := api.JobCensus{Job: "db", Error: "no answer"}
	many := databases("a")
	many.Total = 300
	for name, c := range map[string]struct {
		approved, now *Census
		want          bool
	}{
		"the same":                   {censusOf(Gone, databases("a", "b")), censusOf(Gone, databases("a", "b")), true},
		"less":                       {censusOf(Gone, databases("a", "b")), censusOf(Gone, databases("b")), true},
		"another":                    {censusOf(Gone, databases("a", "b")), censusOf(Gone, databases("c")), false},
		"one more":                   {censusOf(Gone, databases("a")), censusOf(Gone, databases("a", "b")), false},
		"nothing was there":          {censusOf(Gone, databases()), censusOf(Gone, databases("a")), false},
		"not asked":                  {nil, censusOf(Gone, databases("a")), false},
		"it was to be away":          {censusOf(Away, databases("a")), censusOf(Gone, databases("a")), false},
		"taken as full":              {censusOf(Gone, silent), censusOf(Gone, databases("a")), true},
		"answered then":              {censusOf(Gone, databases()), censusOf(Gone, silent), true},
		"never answered, not asked":  {nil, censusOf(Gone, silent), false},
		"away is no loss":            {nil, censusOf(Away, databases("a")), true},
		"more than are named":        {censusOf(Gone, many), censusOf(Gone, databases("x", "y")), true},
		"more than more than named":  {censusOf(Gone, databases("a")), censusOf(Gone, many), false},
		"stranded as it was":         {censusOf(Stranded, databases("a")), censusOf(Stranded, databases("a")), true},
		"nothing there now, nor ask": {nil, censusOf(Gone, databases()), true},
	} {
		approved := &Plan{Instances: []InstanceChange{{Instance: "db/0", Action: Delete, Census: c.approved}}}
		now := &Plan{Instances: []InstanceChange{{Instance: "db/0", Action: Delete, Census: c.now}}}
		if now.Refines(approved) != c.want {
			t.Errorf("%s: refines is not %v", name, c.want)
		}
		if different := approved.Differences(now); (len(different) == 0) != c.want {
			t.Errorf("%s: a saved plan differs by %q", name, different)
		}
	}
}
