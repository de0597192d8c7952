package deployer

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/infra"
	"github.com/clusterworks/deploy/deployer/internal/plan"
	"github.com/clusterworks/deploy/deployer/internal/state"
)

// One agent that reports an epoch which no run can have given it neither stops
// the others' deployment nor gets its epoch into the state.
func TestAnImpossibleEpochBlocksItsInstanceOnly(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 10)
	ctx := t.Context()
	for i, epoch := range []uint64{math.MaxUint64, math.MaxUint64 - 1, 1<<32 + 100} {
		c.agents["hello/0"].Lie(func(in *api.Inventory) { in.Epoch = epoch })
		before, err := c.store().LoadState()
		if err != nil {
			t.Fatal(err)
		}
		greeting := []string{"One", "Two", "Three"}[i]
		c.vars["greeting"] = greeting
		result, err := c.deployer(t).Apply(ctx, ApplyRequest{Approve: yes})
		if !errors.Is(err, ErrFailing) || !strings.Contains(err.Error(), "hello/0") || !result.Changed {
			t.Fatalf("epoch %d: %+v, %v", epoch, result, err)
		}
		if changes := c.surveyed(t).Changes(); len(changes) > 0 {
			t.Fatalf("epoch %d: still owed: %+v", epoch, changes)
		}
		after, err := c.store().LoadState()
		if err != nil || after.Epoch != before.Epoch+1 {
			t.Fatalf("epoch %d: the state went from epoch %d to %d, %v", epoch, before.Epoch, after.Epoch, err)
		}

		p := c.surveyed(t)
		k := slices.IndexFunc(p.Instances, func(x plan.InstanceChange) bool { return x.Instance == "hello/0" })
		if x := p.Instances[k]; x.Exempt != plan.ExemptDistrusted || x.Owed != plan.Blocked || !strings.Contains(strings.Join(x.Causes, ""), "reports epoch") {
			t.Errorf("plan of the liar: %+v", x)
		}
		status, err := c.deployer(t).Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range status.Instances {
			lies := x.ID == "hello/0"
			if lies != (x.Agent == AgentDistrusted) || lies != strings.Contains(strings.Join(x.Reasons, ""), "reports epoch") {
				t.Errorf("status of %s: %+v", x.ID, x)
			}
		}
		d := c.deployer(t).Doctor(ctx)
		f := slices.IndexFunc(d.Findings, func(f Finding) bool { return f.Check == "agent hello/0" })
		if f < 0 || d.Findings[f].Level != LevelFail || !strings.Contains(d.Findings[f].Message, "reports epoch") || !strings.Contains(d.Findings[f].Fix, "recreate") {
			t.Errorf("doctor: %+v", d.Findings)
		}
		if _, err := c.deployer(t).Restart(ctx, OperateRequest{Targets: []string{"hello/1"}, Approve: yes}); err != nil {
			t.Errorf("restart of another: %v", err)
		}
		if _, err := c.deployer(t).Restart(ctx, OperateRequest{Targets: []string{"hello/0"}, Approve: yes}); err == nil || !strings.Contains(err.Error(), "reports epoch") {
			t.Errorf("restart of the liar: %v", err)
		}
	}
	// An epoch that a state put back from an export may meet is taken up.
	c.agents["hello/0"].Lie(func(in *api.Inventory) { in.Epoch = 1000 })
	c.apply(t, "Four", 4) // the liar has missed the others
	if st, err := c.store().LoadState(); err != nil || st.Epoch != 1001 {
		t.Errorf("after an agent of epoch 1000 the state is of epoch %d, %v", st.Epoch, err)
	}
}

// A recreate of the liar is planned as such: it is no longer exempt.
func TestALiarIsRecreated(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 10)
	c.agents["hello/0"].Lie(func(in *api.Inventory) { in.Epoch = math.MaxUint64 })
	r, err := c.deployer(t).load()
	if err != nil {
		t.Fatal(err)
	}
	defer r.fleet.Close()
	r.Targets = []string{"hello/0"}
	r.SetRecreate([]string{"hello/0"})
	compared, err := r.compare(t.Context(), infra.Plan{Pending: map[string][]string{"hello/0": {"an operator asks for another one"}}}, fleet.Patient)
	if err != nil {
		t.Fatal(err)
	}
	changes := compared.plan.Changes()
	if len(changes) != 1 || changes[0].Instance != "hello/0" || changes[0].Action != plan.Recreate || !compared.vms.AtOnce["hello/0"] {
		t.Errorf("%+v", changes)
	}
	r.fleet.Forget(state.Own("hello/0")) // its new VM is there
	if why := r.Exempt("hello/0"); why != "" {
		t.Errorf("on its new VM it is still %s", why)
	}
}

// surveyed is a plan of what the agents say now, without the engine.
func (c *cluster) surveyed(t *testing.T) *plan.Plan {
	t.Helper()
	r, err := c.deployer(t).load()
	if err != nil {
		t.Fatal(err)
	}
	defer r.fleet.Close()
	x, err := r.compare(t.Context(), infra.Plan{}, fleet.Quick)
	if err != nil {
		t.Fatal(err)
	}
	return x.plan
}
