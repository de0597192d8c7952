package execute

import (
	"strings"
	"testing"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
)

func TestRolloutErrorTellsWhatChangedAndWhatToDo(t *testing.T) {
	places := func(string) []string { return nil }
	failed := func(id string, kind rollout.CommandKind) *rollout.Failure {
		return &rollout.Failure{Group: "router", Instance: id, Command: kind, Error: &api.Error{Code: api.CodeFailed, Message: "router is not healthy"}}
	}
	s := rollout.State{Outcome: rollout.OutcomeFailed, Phase: rollout.PhaseUpdate, Groups: []rollout.GroupProgress{{Instances: []rollout.InstanceProgress{
		{ID: "router/0", Status: rollout.StatusRolledBack, Failure: failed("router/0", rollout.CommandUpdate)},
		{ID: "router/1", Status: rollout.StatusFailed, Failure: failed("router/1", rollout.CommandUpdate)},
		{ID: "router/2", Status: rollout.StatusPrepared},
	}}}}
	long := strings.Repeat("+more\n", changedLines)
	changes := []plan.InstanceChange{
		{Instance: "router/0", Action: plan.Update, From: "old", To: "new", Causes: []string{"property port 1 -> 2"},
			Files: []plan.FileChange{{Diff: "-port: 1\n+port: 2\n"}, {Diff: long}}},
		{Instance: "router/1", Action: plan.Update, From: "old", To: "new", Causes: []string{"property port 1 -> 2"}},
	}
	want := `router/0: update failed: router is not healthy
router/0 ran before this change: property port 1 -> 2
    -port: 1
    +port: 2
` + strings.Repeat("    +more\n", changedLines-2) + `    and 2 more lines, which deploy plan shows
router/1: update failed: router is not healthy
1 put back to what ran before, the rest was not begun; see deploy logs cluster.hcl router/0, remove the cause, then deploy apply cluster.hcl`
	if got := failure(s, changes, "cluster.hcl", places).Error(); got != want {
		t.Errorf("told:\n%s\nwant:\n%s", got, want)
	}

	// What the manifest says of it is named, once a group.
	named := failure(s, changes, "cluster.hcl", func(message string) []string { return []string{message[:6] + ".hcl:7"} }).Error()
	if strings.Count(named, "the manifest has it at router.hcl:7") != 1 {
		t.Errorf("told:\n%s", named)
	}

	// On a first deploy nothing ran before.
	for i := range changes {
		changes[i].From = ""
	}
	if got := failure(s, changes, "cluster.hcl", places).Error(); strings.Contains(got, "ran before this change") {
		t.Errorf("told:\n%s", got)
	}
}
