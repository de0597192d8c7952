package execute

import (
	"strings"
	"testing"

	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
)

// TestFirstMoves: of instances that move elsewhere no more go than may be in
// flight, and none while others have yet to learn of the last ones.
func TestFirstMoves(t *testing.T) {
	changes := []plan.InstanceChange{
		{Instance: "bus/0", Action: plan.Update, From: "a", To: "b"}, {Instance: "bus/1", Action: plan.Move}, {Instance: "bus/2", Action: plan.Recreate},
		{Instance: "bus/3", Action: plan.Move}, {Instance: "bus/4", Action: plan.Move},
	}
	for _, tc := range []struct {
		inFlight int
		hold     bool
		want     string
		wait     bool
	}{
		{1, false, "update recreate recreate none none", true},
		{2, false, "update recreate recreate recreate none", true},
		{9, false, "update recreate recreate recreate recreate", false},
		{2, true, "update none recreate none none", true},
	} {
		g := rollout.Group{Policy: rollout.Policy{MaxInFlight: tc.inFlight}}
		for _, c := range changes {
			g.Instances = append(g.Instances, rollout.Instance{ID: c.Instance, Action: rolloutAction(c)})
		}
		more := firstMoves(&g, changes, tc.hold)
		var got []string
		for _, in := range g.Instances {
			got = append(got, string(in.Action))
			if in.Exempt != (in.Action == rollout.ActionNone) {
				t.Errorf("%s: %s, exempt %v", in.ID, in.Action, in.Exempt)
			}
		}
		if text := strings.Join(got, " "); text != tc.want || more != tc.wait {
			t.Errorf("%d in flight, held %v: %s, others wait: %v", tc.inFlight, tc.hold, text, more)
		}
	}
}
