package deployer

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
	"github.com/clusterworks/deploy/deployer/internal/simulate"
	"github.com/clusterworks/deploy/manifests"
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
	Bad []string
	// Restart simulates a restart of every instance instead of an update.
	Restart bool
	// Sick are instances that do not serve: "router/3" from the beginning,
	// "router/3@90s" from then on, "router/3@90s-120s" for a while.
	Sick []string
	// Held and Ignored are instances that an operator has stopped, or ignores.
	Held, Ignored []string
	// Pauses are an operator's: "60s-90s".
	Pauses []string
	// Kills are the events, counted from 1, at which the deployer is killed; 5 s
	// later another apply begins.
	Kills []int
	Seed  uint64
	// Trace, if set, hears of every event and the commands that follow it.
	Trace func(at time.Duration, event string, commands []string)
}

// SimulatedMoments returns the moments at which a command may fail.
func SimulatedMoments() []string { return simulate.Moments() }

// Simulation is the course of a simulated rollout.
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

// SimulationGroup is the course of one group.
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
	x, err := d.open()
	if err != nil {
		return nil, err
	}
	options := simulate.Options{Seed: q.Seed, Replan: true}
	for _, text := range q.Faults {
		f, err := simulate.ParseFault(text)
		if err != nil {
			return nil, err
		}
		options.Faults = append(options.Faults, f)
	}
	sick, err := q.circumstances(&options)
	if err != nil {
		return nil, err
	}
	total := 0
	for _, g := range x.Manifest.Groups {
		total += g.Instances
	}
	if total == 0 {
		return nil, fmt.Errorf("cannot simulate %s: it has no instances", x.Manifest.Deployment.Name)
	}
	p := rollout.Plan{ID: "simulation"}
	out := &Simulation{Deployment: x.Manifest.Deployment.Name}
	var memory rollout.Memory
	for _, name := range q.Bad {
		if x.Manifest.Group(name) == nil {
			return nil, fmt.Errorf("cannot simulate: there is no group %q", name)
		}
		options.Bad = append(options.Bad, name+"-next")
	}
	for _, wave := range x.Manifest.Order {
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
				switch {
				case q.First:
					in.Action, in.Previous, in.Healthy = rollout.ActionCreate, "", false
				case q.Restart:
					in.Action, in.Generation = rollout.ActionRestart, in.Previous
				}
				if slices.Contains(q.Held, in.ID) {
					in.Held, in.Healthy = true, false
					if q.Restart {
						in.Action = rollout.ActionNone // there is nothing to restart
					}
				}
				if slices.Contains(q.Ignored, in.ID) {
					in.Exempt, in.Action = true, rollout.ActionNone
				}
				if slices.Contains(sick, in.ID) {
					in.Healthy = false
				}
				group.Instances = append(group.Instances, in)
			}
			if q.Restart {
				group.Policy.Canaries, group.Policy.OnFailure = 0, manifests.OnFailureHalt
			}
			out.Instances += n
			p.Groups = append(p.Groups, group)
			memory.Groups = append(memory.Groups, rollout.GroupMemory{Name: g.Name, Served: !q.First})
		}
	}
	named := slices.Concat(sick, q.Held, q.Ignored)
	for _, f := range options.Faults {
		named = append(named, f.Instance)
	}
	for _, h := range options.Health {
		named = append(named, h.Instance)
	}
	for _, id := range named {
		if !slices.ContainsFunc(p.Groups, func(g rollout.Group) bool {
			return slices.ContainsFunc(g.Instances, func(in rollout.Instance) bool { return in.ID == id })
		}) {
			return nil, fmt.Errorf("cannot simulate %s: there is no such instance", id)
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
		if f.Instance == "" {
			out.Failures = append(out.Failures, f.Error.Message)
			continue
		}
		out.Failures = append(out.Failures, fmt.Sprintf("%s: %s failed: %s", f.Instance, f.Command, f.Error.Message))
	}
	return out, nil
}

// circumstances reads what happens beside the rollout, and who is sick from the
// beginning.
func (q SimulateRequest) circumstances(o *simulate.Options) (sick []string, err error) {
	for _, text := range q.Sick {
		id, when, later := strings.Cut(text, "@")
		if !later {
			sick = append(sick, id)
			continue
		}
		from, to, err := span(when)
		if err != nil {
			return nil, fmt.Errorf("cannot read that %s is sick: %w", text, err)
		}
		o.Health = append(o.Health, simulate.Health{At: from, Instance: id})
		if to > 0 {
			o.Health = append(o.Health, simulate.Health{At: to, Instance: id, Healthy: true})
		}
	}
	for _, text := range q.Pauses {
		from, to, err := span(text)
		if err != nil || to <= from {
			return nil, fmt.Errorf("cannot read the pause %q: want two times, \"60s-90s\"", text)
		}
		o.Pauses = append(o.Pauses, simulate.Pause{At: from, For: to - from})
	}
	if len(q.Kills) > 0 {
		o.Kill = func(step int) simulate.Kill {
			if slices.Contains(q.Kills, step) {
				return simulate.KillAfterSend
			}
			return simulate.KillNever
		}
	}
	if q.Trace != nil {
		o.Observe = func(at time.Duration, e rollout.Event, issued []rollout.Command) {
			text := strings.TrimSpace(fmt.Sprintf("%s %s%s", e.Kind, e.OpID, e.Instance))
			if e.Error != nil {
				text += ": " + e.Error.Message
			}
			var commands []string
			for _, c := range issued {
				commands = append(commands, string(c.Kind)+" "+strings.Join(c.Instances, ", "))
			}
			q.Trace(at, text, commands)
		}
	}
	return sick, nil
}

// span reads "60s" or "60s-90s".
func span(text string) (from, to time.Duration, err error) {
	first, second, both := strings.Cut(text, "-")
	if from, err = time.ParseDuration(first); err == nil && both {
		to, err = time.ParseDuration(second)
	}
	return from, to, err
}
