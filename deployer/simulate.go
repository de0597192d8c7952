package deployer

import (
	"fmt"
	"slices"
	"time"

	"deploy/agent/api"
	"deploy/deployer/internal/rollout"
	"deploy/deployer/internal/simulate"
)

// SimulateRequest is a rollout to try out on virtual time.
type SimulateRequest struct {
	// Agents, if not 0, is how many instances the groups have in all: each is
	// scaled by the same factor, and keeps at least one.
	Agents int
	// First simulates a first deploy; else an update of every instance.
	First bool
	// Faults are commands that fail: "router/3@start", "router/3@start:silent".
	Faults []string
	// Bad are groups whose new generation never becomes healthy.
	Bad  []string
	Seed uint64
}

// Simulation is how a simulated rollout went.
type Simulation struct {
	Deployment string            `json:"deployment"`
	Instances  int               `json:"instances"`
	Outcome    string            `json:"outcome"` // rollout.Outcome
	Virtual    time.Duration     `json:"virtual_ns"`
	Took       time.Duration     `json:"took_ns"`
	Operations int               `json:"operations"`
	Groups     []SimulationGroup `json:"groups"`
	Failures   []string          `json:"failures,omitempty"`
	// Broken are promises of the rollout that did not hold: none, ever.
	Broken []string `json:"broken,omitempty"`
}

// SimulationGroup is what a group went through.
type SimulationGroup struct {
	Name            string `json:"name"`
	Instances       int    `json:"instances"`
	Touched         int    `json:"touched"`
	MaxInFlight     int    `json:"max_in_flight"` // the most at a time
	LowestAvailable int    `json:"lowest_available"`
}

// Simulate runs the rollout of a manifest against simulated agents: the machine
// that production runs, with the manifest's own policies.
func (d *Deployer) Simulate(q SimulateRequest) (*Simulation, error) {
	r, err := d.open()
	if err != nil {
		return nil, err
	}
	options := simulate.Options{Seed: q.Seed}
	for _, text := range q.Faults {
		f, err := simulate.ParseFault(text)
		if err != nil {
			return nil, err
		}
		options.Faults = append(options.Faults, f)
	}
	total := 0
	for _, g := range r.manifest.Groups {
		total += g.Instances
	}
	if total == 0 {
		return nil, fmt.Errorf("cannot simulate %s: it has no instances", r.manifest.Deployment.Name)
	}
	p := rollout.Plan{ID: "simulation"}
	out := &Simulation{Deployment: r.manifest.Deployment.Name}
	var memory rollout.Memory
	for _, name := range q.Bad {
		if r.manifest.Group(name) == nil {
			return nil, fmt.Errorf("cannot simulate: there is no group %q", name)
		}
		options.Bad = append(options.Bad, name+"-next")
	}
	for _, wave := range r.manifest.Order {
		for _, g := range wave {
			n := g.Instances
			if q.Agents > 0 && n > 0 {
				n = max(1, n*q.Agents/total)
			}
			group := rollout.Group{
				Name: g.Name, Requires: g.Requires, FirstDeploy: q.First, Policy: rollout.PolicyFor(g.Update, n),
			}
			for i := range n {
				in := rollout.Instance{ID: api.InstanceID(g.Name, i), Action: rollout.ActionUpdate, Generation: g.Name + "-next", Previous: g.Name + "-now", Healthy: true}
				if len(g.AZs) > 0 {
					in.AZ = g.AZs[i%len(g.AZs)]
				}
				if q.First {
					in.Action, in.Previous, in.Healthy = rollout.ActionCreate, "", false
				}
				group.Instances = append(group.Instances, in)
			}
			out.Instances += n
			p.Groups = append(p.Groups, group)
			memory.Groups = append(memory.Groups, rollout.GroupMemory{Name: g.Name, Served: !q.First})
		}
	}
	for _, f := range options.Faults {
		if !slices.ContainsFunc(p.Groups, func(g rollout.Group) bool {
			return slices.ContainsFunc(g.Instances, func(x rollout.Instance) bool { return x.ID == f.Instance })
		}) {
			return nil, fmt.Errorf("cannot simulate a fault of %s: there is no such instance", f.Instance)
		}
	}
	begin := time.Now()
	report, err := simulate.Run(p, memory, options)
	if err != nil {
		return nil, err
	}
	out.Took = time.Since(begin)
	out.Outcome, out.Virtual, out.Operations, out.Broken = string(report.State.Outcome), report.Duration, report.Operations, report.Broken
	for i, g := range report.Groups {
		out.Groups = append(out.Groups, SimulationGroup{
			Name: g.Name, Instances: len(p.Groups[i].Instances), Touched: g.Touched, MaxInFlight: g.MaxInFlight, LowestAvailable: g.LowestAvailable,
		})
	}
	for _, f := range report.State.Failures() {
		out.Failures = append(out.Failures, fmt.Sprintf("%s: %s failed: %s", f.Instance, f.Command, f.Error.Message))
	}
	return out, nil
}
