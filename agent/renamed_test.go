package agent

import (
	"testing"

	"github.com/clusterworks/deploy/agent/api"
)

// An agent takes the name that its group has now, from its own deployment and with
// the name that it had, and obeys the old one no more.
func TestRenamedAgent(t *testing.T) {
	a := &Agent{identity: identity{DeploymentID: "dep-1", Instance: "database/0"}}
	renames := func(deployment, instance, renamed string) bool {
		s := api.Submission{Kind: api.KindConfigure, Configure: &api.Configure{Renamed: renamed}}
		s.DeploymentID, s.Instance = deployment, instance
		return a.checkOwner(s) == nil
	}
	for _, test := range []struct {
		deployment, instance, renamed string
		want                          bool
	}{
		{"dep-1", "database/0", "", true},
		{"dep-1", "db/0", "database/0", true},
		{"dep-1", "db/0", "", false},
		{"dep-1", "db/0", "database/1", false},
		{"dep-2", "db/0", "database/0", false},
	} {
		if got := renames(test.deployment, test.instance, test.renamed); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
	stop := api.Submission{Kind: api.KindStop, Stop: &api.Stop{}}
	stop.DeploymentID, stop.Instance = "dep-1", "db/0"
	if a.checkOwner(stop) == nil {
		t.Error("another name was obeyed without a configuration")
	}
}
