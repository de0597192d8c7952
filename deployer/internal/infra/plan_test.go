package infra

import (
	"testing"

	"github.com/clusterworks/deploy/deployer/internal/terraform"
)

// What the engine has done is no part of what remains of a plan: a VM that was made
// must not look like one that the engine has yet to make.
func TestRemainingForgetsWhatWasDone(t *testing.T) {
	i := &Infra{pending: map[string][]string{"db/0": {"memory_mb 1 -> 2"}}}
	left := i.Remaining(Plan{
		Actions: map[string][]terraform.Action{"db/0": {terraform.Replace}, "db/1": {terraform.Create}},
		Pending: map[string][]string{"db/0": {"memory_mb 1 -> 2"}, "db/2": {"memory_mb 1 -> 2"}},
		AtOnce:  map[string]bool{"db/3": true}, Beside: map[string]bool{"db/0": true},
		Remade: map[string]bool{"db/4": true},
	})
	if len(left.Actions) != 1 || left.Actions["db/0"] == nil || len(left.Pending) != 1 || len(left.AtOnce)+len(left.Remade) > 0 || !left.Beside["db/0"] {
		t.Errorf("it is %+v", left)
	}
}
