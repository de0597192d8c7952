package deployer

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"testing"
	"time"

	"github.com/clusterworks/deploy/agent/agenttest"
	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/infra"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// lies is the number of times that an inventory is distorted: go test ./deployer -run Liar -lies 10000
var lies = flag.Int("lies", distortions, "how often an agent's inventory is distorted")

// An agent may say anything of itself: a plan is made all the same, nothing of the
// others changes in it, and nothing but its own certificate in state and secrets.
func TestPlansWithALiar(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 6)
	r, err := c.deployer(t).load()
	if err != nil {
		t.Fatal(err)
	}
	defer r.fleet.Close()
	var honest api.Inventory
	c.agents["hello/0"].Lie(func(in *api.Inventory) { honest = *in })
	before := r.State.Clone()
	liar := agenttest.NewLiar(1)
	blocked := 0
	for round := range *lies {
		said := honest
		c.agents["hello/0"].Lie(func(in *api.Inventory) {
			if round%10 == 0 {
				liar.Fill(in)
			} else {
				*in = honest
				liar.Distort(in)
			}
			said = *in
		})
		x, err := r.compare(t.Context(), infra.Plan{}, fleet.Quick)
		if err != nil {
			t.Fatalf("round %d: no plan: %v\nafter %+v", round, err, said)
		}
		for _, change := range x.plan.Instances {
			if change.Instance == "hello/0" {
				if change.Exempt == plan.ExemptDistrusted {
					blocked++
				}
			} else if change.Action != plan.None {
				t.Fatalf("round %d: %s is to %s: %v\nafter %+v", round, change.Instance, change.Action, change.Causes, said)
			}
		}
		if highest := r.fleet.HighestEpoch(); highest > before.Epoch+1<<32 {
			t.Fatalf("round %d: epoch %d was taken up", round, highest)
		}
	}
	if blocked == 0 || blocked == *lies {
		t.Errorf("%d of %d lies were not believed", blocked, *lies)
	}
	was, err := json.Marshal(before)
	if err != nil {
		t.Fatal(err)
	}
	if is, err := json.Marshal(r.State); err != nil || string(is) != string(was) {
		t.Errorf("the state has become another one: %v\n%s", err, is)
	}
}

// Others are deployed while one agent answers whatever comes to its mind to
// everything that it is asked.
func TestOthersAreDeployedBesideALiar(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 6)
	st, err := c.store().LoadState()
	if err != nil {
		t.Fatal(err)
	}
	for seed := range int64(10) {
		name := string(rune('A' + seed))
		c.agents["lb/0"].Replace(t, agenttest.NewLiar(seed))
		c.vars["greeting"] = name
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := c.deployer(t).Apply(ctx, ApplyRequest{Targets: []string{"hello", "router", "nats"}, Approve: yes})
		cancel()
		if err != nil && !errors.Is(err, ErrFailing) {
			t.Fatalf("liar %d: %v", seed, err)
		}
		for _, change := range c.surveyed(t).Changes() {
			if change.Instance != "lb/0" {
				t.Errorf("liar %d: %s is still to %s", seed, change.Instance, change.Action)
			}
		}
	}
	after, err := c.store().LoadState()
	if err != nil {
		t.Fatal(err)
	}
	if after.Epoch > st.Epoch+1<<34 {
		t.Errorf("from epoch %d to %d", st.Epoch, after.Epoch)
	}
	for id, vm := range st.VMs {
		if !sameVM(vm, after.VMs[id]) {
			t.Errorf("%s has become another VM: %+v", id, after.VMs[id])
		}
	}
}

func sameVM(a, b state.VM) bool {
	return a.ID == b.ID && a.Address == b.Address && a.HostKey == b.HostKey
}
