package execute

import (
	"slices"
	"testing"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/rollout"
)

// A VM that boots is silent for minutes where it is emulated. That is neither asked
// about nor held against it once it is there.
func TestSilenceOfAVMThatIsReplacedDoesNotCount(t *testing.T) {
	state := func(kind rollout.CommandKind) rollout.State {
		return rollout.State{
			Plan:   rollout.Plan{Groups: []rollout.Group{{Name: "web", Instances: []rollout.Instance{{ID: "web/0"}, {ID: "web/1"}}}}},
			Groups: []rollout.GroupProgress{{Instances: []rollout.InstanceProgress{{ID: "web/0", Running: rollout.Running{Kind: kind}}, {ID: "web/1"}}}},
		}
	}
	w := newWatcher(nil, nil, state(rollout.CommandReplaceVM))
	begun := time.Now()
	at := func(d time.Duration) []string {
		ids := w.silent(begun.Add(d))
		slices.Sort(ids)
		return ids
	}
	w.mu.Lock()
	w.lost["web/0"] = true // as another command's silence had left it
	w.mu.Unlock()
	if got := at(5 * time.Minute); !slices.Equal(got, []string{"web/1"}) {
		t.Errorf("while web/0 is replaced these are asked: %v", got)
	}
	updating := state(rollout.CommandUpdate)
	w.latest.Store(&updating)
	if got := at(5*time.Minute + silence); !slices.Equal(got, []string{"web/1"}) {
		t.Errorf("just after web/0 was replaced these are asked: %v", got)
	}
	if got := at(5*time.Minute + silence + time.Second); !slices.Equal(got, []string{"web/0", "web/1"}) {
		t.Errorf("after that these are asked: %v", got)
	}
}
