package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterworks/deploy/agent/api"
)

func TestLevels(t *testing.T) {
	levels := []string{"processes", "namespaces", "full"}
	wanted := func(least string) []Wanted {
		return []Wanted{{Spec: api.Spec{Instance: "dea/0"}, Levels: []Level{{Job: "dea", Name: "isolation", Least: least, Levels: levels}}}}
	}
	reports := func(job, level string) *api.Inventory {
		return &api.Inventory{Processes: []api.ProcessStatus{{Job: job, Name: "p", Facts: map[string]string{"isolation": level, "other": "processes"}}}}
	}
	for _, tc := range []struct {
		name, least string
		inv         *api.Inventory
		want        LevelReport
	}{
		{"met", "namespaces", reports("dea", "namespaces"), LevelReport{Level: "namespaces"}},
		{"more than met", "namespaces", reports("dea", "full"), LevelReport{Level: "full"}},
		{"below", "full", reports("dea", "namespaces"), LevelReport{Level: "namespaces", Below: true}},
		{"the weakest will do", "processes", reports("dea", "processes"), LevelReport{Level: "processes"}},
		{"an unknown level is the weakest", "processes", reports("dea", "magic"), LevelReport{Level: "magic", Below: true}},
		{"nobody answers", "full", nil, LevelReport{}},
		{"it tells nothing", "full", &api.Inventory{Processes: []api.ProcessStatus{{Job: "dea", Name: "p"}}}, LevelReport{}},
		{"another job tells it", "full", reports("stager", "processes"), LevelReport{}},
	} {
		tc.want.Instance, tc.want.Job, tc.want.Name, tc.want.Least = "dea/0", "dea", "isolation", tc.least
		got := LevelsOf(wanted(tc.least), map[string]*api.Inventory{"dea/0": tc.inv})
		if diff := cmp.Diff([]LevelReport{tc.want}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
		if below := BelowLeast(got); len(below) > 0 != tc.want.Below {
			t.Errorf("%s: below are %v", tc.name, below)
		}
		p := Make("d", wanted(tc.least), map[string]Existing{"dea/0": {VM: true, Inventory: tc.inv}}, nil)
		if diff := cmp.Diff(got, p.Levels); diff != "" {
			t.Errorf("%s: the plan has (-want +got):\n%s", tc.name, diff)
		}
		p = Make("d", wanted(tc.least), map[string]Existing{"dea/0": {VM: true, Inventory: tc.inv, Replace: []string{"its size"}}}, nil)
		if len(p.Levels) != 1 || p.Levels[0].Level != "" || p.Levels[0].Below {
			t.Errorf("%s: of a machine that is replaced, the plan has %v", tc.name, p.Levels)
		}
	}
}
