package views

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

// Machines read lists, never null, and one document a line after events.
func TestJSONForMachines(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := JSON(&b, &plan.Plan{Deployment: "d", Instances: []plan.InstanceChange{{}}}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "null") {
		t.Errorf("a plan has null:\n%s", b.String())
	}
	b.Reset()
	failed := &api.Error{Message: "ended", Process: &api.ProcessFailure{Job: "web", Name: "main", Log: []string{"no database"}}}
	err := fmt.Errorf("g/0: %w", errors.Join(failed, errors.New("another")))
	if err := ResultJSON(&b, &deployer.Result{Deployment: "d", Summary: "Failed"}, err); err != nil {
		t.Fatal(err)
	}
	if err := ErrorJSON(&b, err); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines:\n%s", len(lines), b.String())
	}
	for _, line := range lines {
		var v struct {
			Deployment, Error string
			Failures          []api.ProcessFailure
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil || len(v.Failures) != 1 || v.Failures[0].Log[0] != "no database" || v.Deployment+v.Error == "" {
			t.Errorf("%v: %s", err, line)
		}
	}
}
