package deployer_test

import (
	"os"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

// Each word that says how something is or what becomes of it is on the page of states.
func TestStatesAreExplained(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/states.md")
	if err != nil {
		t.Fatal(err)
	}
	words := []string{
		deployer.VMUnreachable, deployer.VMMissing, deployer.AgentSilent, deployer.AgentDistrusted,
		string(deployer.LevelOK), string(deployer.LevelWarn), string(deployer.LevelFail),
	}
	for _, state := range []api.InstanceState{api.InstanceRunning, api.InstanceStarting, api.InstanceFailing, api.InstanceStopped} {
		words = append(words, string(state))
	}
	for _, state := range []api.ProcessState{api.ProcessStarting, api.ProcessRunning, api.ProcessFailing, api.ProcessBackoff, api.ProcessStopping, api.ProcessStopped} {
		words = append(words, string(state))
	}
	for _, action := range []plan.Action{
		plan.Create, plan.Recreate, plan.Move, plan.Update, plan.Reload, plan.Restart, plan.Start, plan.Stop, plan.Delete, plan.Blocked, plan.Keep, plan.Adopt, plan.Lost,
	} {
		words = append(words, string(action))
	}
	for _, word := range words {
		if !strings.Contains(string(page), "`"+word+"`") {
			t.Errorf("docs/states.md does not explain %q", word)
		}
	}
}
