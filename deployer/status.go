package deployer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/fleet"
	"github.com/clusterworks/deploy/deployer/internal/infra"
	"github.com/clusterworks/deploy/deployer/internal/localvm"
	"github.com/clusterworks/deploy/deployer/internal/plan"
)

// The states of VMs and agents in a Status.
const (
	VMRunning = "running"
	// VMUnreachable: nothing answers at its address.
	VMUnreachable = "unreachable"
	VMMissing     = "missing"
	AgentAlive    = "alive"
	AgentSilent   = "silent"
	// AgentDistrusted: it answers, and says what cannot be true.
	AgentDistrusted = "not believed"
)

// Status is the present state of a cluster.
type Status struct {
	Deployment string           `json:"deployment"`
	Instances  []InstanceStatus `json:"instances"`
	// Warnings name what will need attention: certificates that end.
	Warnings []string `json:"warnings,omitempty"`
	// Levels hold what the manifest requires of its machines, met or not: as in a plan.
	Levels []plan.LevelReport `json:"levels,omitempty"`
}

// Healthy reports whether every instance does what it should: all but those that
// are ignored run, or were stopped by an operator, and nothing is wrong with them.
func (s *Status) Healthy() bool {
	return !slices.ContainsFunc(s.Instances, func(in InstanceStatus) bool {
		runs := in.VM == VMRunning && in.Agent == AgentAlive && (in.State == string(api.InstanceRunning) || in.Held) && len(in.Reasons) == 0
		return !in.Ignored && !runs
	})
}

// InstanceStatus is the present state of one instance.
type InstanceStatus struct {
	ID         string          `json:"id"`
	Group      string          `json:"group"`
	Index      int             `json:"index"`
	AZ         string          `json:"az"`
	Address    string          `json:"address"`
	VM         string          `json:"vm"`    // VMRunning, VMUnreachable, VMMissing
	Agent      string          `json:"agent"` // AgentAlive, AgentSilent, AgentDistrusted
	Generation string          `json:"generation"`
	State      string          `json:"state"` // api.InstanceState
	Reasons    []string        `json:"reasons,omitempty"`
	Processes  []ProcessStatus `json:"processes"`
	// Held: an operator has stopped it. Ignored: no run touches it.
	Held    bool `json:"held,omitempty"`
	Ignored bool `json:"ignored,omitempty"`
	// Census holds what lives there, as its jobs say, if it was asked for.
	Census []api.JobCensus `json:"census,omitempty"`
	// Drift lists the files that were changed by hand, if it was asked for.
	Drift []api.Drift `json:"drift,omitempty"`
}

// ProcessStatus is the present state of one process.
type ProcessStatus struct {
	Job        string    `json:"job"`
	Name       string    `json:"name"`
	State      string    `json:"state"` // api.ProcessState
	PID        int       `json:"pid"`   // on its VM; of a local VM, on this machine
	UptimeS    int64     `json:"uptime_s"`
	Restarts   int       `json:"restarts"`
	RSSBytes   int64     `json:"rss_bytes"`
	CPUPercent float64   `json:"cpu_percent"`
	LastExit   *api.Exit `json:"last_exit,omitempty"`
	Reason     string    `json:"reason,omitempty"`
	// Facts hold what it has found out about its machine or itself: "isolation".
	Facts map[string]string `json:"facts,omitempty"`
}

// Status asks all expected agents side by side and names the silent.
func (d *Deployer) Status(ctx context.Context) (*Status, error) {
	x, kept, err := loadRunning(d)
	if err != nil {
		return nil, err
	}
	defer x.fleet.Close()
	begin := time.Now()
	inventories := x.fleet.Survey(ctx, fleet.Patient)
	s := x.status(inventories)
	s.addClocks(inventories, begin, time.Now())
	s.by(kept)
	if err := infra.CheckEngine(x.Session); err != nil {
		s.Warnings = append(s.Warnings, err.Error())
	}
	for _, r := range localvm.Repairs(x.Store.VMs()) {
		s.Warnings = append(s.Warnings, r.String())
	}
	return s, nil
}

// by warns that the status is by a revision, unless it is 0.
func (s *Status) by(revision int) {
	if revision > 0 {
		s.Warnings = append(s.Warnings, byRevision(revision))
	}
}

// clockLimit says how far a VM's clock may be off until status says it.
const clockLimit = time.Minute

// addClocks names instances whose VMs' clocks said what cannot be between begin and
// end, when they were asked.
func (s *Status) addClocks(inventories map[string]*api.Inventory, begin, end time.Time) {
	for i := range s.Instances {
		in := &s.Instances[i]
		inv := inventories[in.ID]
		if inv == nil {
			continue
		}
		if off := clockOff(inv.Now, begin, end); off.Abs() > clockLimit {
			way := "ahead of"
			if off < 0 {
				way = "behind"
			}
			in.Reasons = append(slices.Clone(in.Reasons), fmt.Sprintf("its VM's clock is %s %s this machine's, so that certificates may not be valid there: set it, and let it be kept (chrony, systemd-timesyncd)", off.Abs().Round(time.Second), way))
		}
	}
}

// clockOff returns how far a clock that said now, between begin and end, is at least
// ahead; negative if it is behind, 0 if it may be right or did not say anything.
func clockOff(now, begin, end time.Time) time.Duration {
	switch {
	case now.IsZero():
		return 0
	case now.After(end):
		return now.Sub(end)
	case now.Before(begin):
		return now.Sub(begin)
	}
	return 0
}

func (x *deployment) status(inventories map[string]*api.Inventory) *Status {
	s := &Status{Deployment: x.Manifest.Deployment.Name, Warnings: x.credentials.Warnings()}
	pids := localvm.HostPIDs(x.Store.VMs())
	for _, id := range append(x.IDs(), x.Removed...) {
		in := x.instanceStatus(id, inventories[id])
		if here, ok := pids[id]; ok {
			for i := range in.Processes {
				in.Processes[i].PID = here[in.Processes[i].PID]
			}
		}
		s.Instances = append(s.Instances, in)
	}
	slices.SortStableFunc(s.Instances, func(a, b InstanceStatus) int {
		if a.Group != b.Group {
			return strings.Compare(a.Group, b.Group)
		}
		return a.Index - b.Index
	})
	s.Levels = x.desired.Levels(inventories)
	return s
}

func (x *deployment) instanceStatus(id string, inv *api.Inventory) InstanceStatus {
	group, index, _ := api.SplitInstance(id)
	out := InstanceStatus{
		ID: id, Group: group, Index: index,
		VM: VMMissing, Agent: AgentSilent, State: string(api.InstanceStopped),
		Processes: []ProcessStatus{}, Ignored: slices.Contains(x.State.Ignored, id),
	}
	for _, slot := range x.State.Groups[group] {
		if slot.Index == index {
			out.AZ = slot.AZ
		}
	}
	if vm, ok := x.State.VMs[id]; ok {
		out.VM, out.Address = VMRunning, vm.Address
	}
	if inv == nil {
		if out.VM == VMRunning {
			out.State = string(api.InstanceFailing)
			out.Reasons = []string{"the agent does not answer"}
			if why := x.Distrusted.Of(id); why != nil {
				out.Agent, out.Reasons = AgentDistrusted, []string{why.Error()}
				return out
			}
			if why := x.fleet.Reason(id); why != "" {
				out.Reasons[0] += ": " + why
			}
			if x.fleet.Unreachable(id) {
				out.VM = VMUnreachable
			}
		}
		return out
	}
	out.Agent, out.Generation, out.State, out.Reasons = AgentAlive, inv.Active, string(inv.State), inv.Reasons
	for _, what := range inv.Agent.Damaged {
		out.Reasons = append(slices.Clone(out.Reasons), "of its agent's own files: "+what+": apply repairs it")
	}
	if inv.Agent.Unkept {
		out.Reasons = append(slices.Clone(out.Reasons), "nothing would start its agent again, since its init or keeper has ended: apply repairs that")
	}
	if inv.Agent.DiskGone != "" {
		out.Reasons = append(slices.Clone(out.Reasons), infra.DiskGone(inv.Agent.DiskGone))
	}
	if previous, has := x.State.Previous[id]; has {
		out.Reasons = append(slices.Clone(out.Reasons), fmt.Sprintf("its previous VM, at %s, still exists: apply deletes it when all know the new one", previous.Address))
	}
	out.Held = inv.Held
	now := inv.Now // by the VM's clock, as its processes' starts: it may be another than ours
	if now.IsZero() {
		now = time.Now()
	}
	for _, p := range inv.Processes {
		ps := ProcessStatus{
			Job: p.Job, Name: p.Name, State: string(p.State), PID: p.PID, Restarts: p.Restarts,
			RSSBytes: p.RSSBytes, CPUPercent: p.CPUPercent, LastExit: p.LastExit, Reason: p.Reason, Facts: p.Facts,
		}
		if p.StartedAt != nil && p.PID != 0 {
			ps.UptimeS = max(0, int64(now.Sub(*p.StartedAt).Seconds()))
		}
		out.Processes = append(out.Processes, ps)
	}
	return out
}
