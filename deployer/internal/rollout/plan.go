// Package rollout decides in which order the instances of a cluster are
// changed, and what becomes of it when one of them fails.
//
// Step is the whole of it: a pure function from a state and an event to the
// next state and the commands to carry out. It starts no goroutine, reads no
// clock and depends on no map order, so the same events give the same commands,
// and State is plain data that survives the deployer as JSON. Driver carries
// the commands out; the simulator runs the same machine on virtual time.
//
// A rollout goes through these phases:
//
//	prepare  stage and check the new generation on every instance; whatever
//	         fails is reported and nothing is touched
//	update   groups in the order of what they require, independent ones side by
//	         side; in a group canaries first, then batches, zone by zone
//	watch    all instances of groups that had never served, once, together
//	remove   stop instances that are no longer wanted, dependents first, and
//	         delete their VMs
//	post_deploy  run these hooks on all instances of groups that changed
//	revert   only after a failure under on_failure = rollback_all: everything
//	         that was touched goes back, dependents first
package rollout

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/manifests"
)

// Plan describes what a rollout shall do. It does not change once the rollout began.
type Plan struct {
	// ID is unique to this rollout and part of the id of every operation, so
	// that a deployer that continues it follows the operations already begun.
	ID     string  `json:"id"`
	Groups []Group `json:"groups"`
	// Removals are the instances no longer wanted, by group.
	Removals []Removal `json:"removals,omitempty"`
	// Parallel bounds how many instances are prepared at a time; 0: 32.
	Parallel int      `json:"parallel"`
	Timeouts Timeouts `json:"timeouts"`
}

// Timeouts says how long the machine waits for an answer before it counts a
// command as failed. Zero stands for the default.
type Timeouts struct {
	// Prepare bounds fetching, staging and checking; default 10 min.
	Prepare time.Duration `json:"prepare"`
	// Change bounds hooks, drain, stop and activation of an update, rollback or
	// stop, beside the wait for health that the group's policy bounds; default 10 min.
	Change time.Duration `json:"change"`
	// Answer is added to every wait that the agent itself bounds, for the answer
	// to travel; default 30 s.
	Answer time.Duration `json:"answer"`
	// VM bounds replacing or deleting a batch of VMs; default 30 min.
	VM time.Duration `json:"vm"`
}

// Group is a number of like instances, all of them: also those that need
// nothing count for what the group can do without.
type Group struct {
	Name string `json:"name"`
	// Digest names what the group shall become. What is remembered of a rollout
	// (canaries that passed, failures) is remembered under it. Empty: New makes
	// it from the instances' generations.
	Digest string `json:"digest"`
	// Requires are the groups that must be done before this one starts.
	Requires []string `json:"requires,omitempty"`
	Policy   Policy   `json:"policy"`
	// FirstDeploy: the group has never served (GroupMemory.Served). Its instances
	// are updated all at once, without canaries, and watched at the end.
	FirstDeploy bool `json:"first_deploy,omitempty"`
	// Instances by index. Zones take their turn as they first appear here.
	Instances []Instance `json:"instances"`
}

// Policy is a group's update policy, resolved for its size.
type Policy struct {
	Canaries int `json:"canaries"`
	// MaxInFlight is the number of instances that may be away at a time, at least 1.
	MaxInFlight int `json:"max_in_flight"`
	// MinAvailable is the number of instances that must serve at any time, as far as the rollout has a
	// say: no instance that serves is touched when fewer would be left. Whatever
	// does not serve counts as away: sick, held, on its way.
	MinAvailable int `json:"min_available"`
	// MinHealthy is the time that an instance must be healthy without a break.
	MinHealthy time.Duration `json:"min_healthy"`
	// WatchMin and WatchMax bound the wait for health after a start: an instance
	// does not pass sooner, and fails later.
	WatchMin  time.Duration       `json:"watch_min"`
	WatchMax  time.Duration       `json:"watch_max"`
	OnFailure manifests.OnFailure `json:"on_failure"`
}

// PolicyFor resolves a manifest's policy for a group of n instances.
func PolicyFor(u manifests.Update, n int) Policy {
	return Policy{
		Canaries:    min(u.Canaries, n),
		MaxInFlight: max(u.MaxInFlight.Of(n), 1), MinAvailable: u.Available(n),
		MinHealthy: u.MinHealthyTime,
		WatchMin:   u.WatchMin,
		WatchMax:   u.WatchMax,
		OnFailure:  u.OnFailure,
	}
}

// minHealthy is the unbroken health that an agent is asked for: healthy through
// WatchMin is the same as not passing before it.
func (p Policy) minHealthy() time.Duration { return max(p.MinHealthy, p.WatchMin) }

// deadline bounds the wait for health. An instance that came up at once must
// always be able to pass.
func (p Policy) deadline() time.Duration { return max(p.WatchMax, p.WatchMin+p.MinHealthy) }

// Action describes what an instance needs.
type Action string

const (
	ActionNone   Action = "none"
	ActionCreate Action = "create" // its VM is there, nothing runs on it
	// ActionUpdate stands for everything that an agent's update does: it restarts
	// or reloads only the processes that owe it.
	ActionUpdate Action = "update"
	// ActionRecreate replaces the VM: stop, new VM, prepare, update.
	ActionRecreate Action = "recreate"
	// ActionRestart ends all processes and starts them anew. It stages nothing and
	// there is nothing to go back to.
	ActionRestart Action = "restart"
)

// Instance is one instance of a group and what it needs.
type Instance struct {
	ID     string `json:"id"` // "router/0"
	AZ     string `json:"az,omitempty"`
	Action Action `json:"action"`
	// Generation is the wanted one; Previous is where a rollback leads, empty:
	// nothing ran before, everything is stopped.
	Generation string `json:"generation"`
	Previous   string `json:"previous,omitempty"`
	// Healthy: it serves now, as the plan was made.
	Healthy bool `json:"healthy,omitempty"`
	// Begun: an earlier run has begun to change it, and perhaps an operation of
	// that still runs there. It goes before all others, so that never more are away
	// at a time than may be.
	Begun bool `json:"begun,omitempty"`
	// Held: an operator has stopped it. It is changed like the others and not
	// started, so it costs nothing, shows nothing (it is no canary), and serves
	// nobody.
	Held bool `json:"held,omitempty"`
	// Exempt: it is ignored, or no target of this rollout, and is not touched,
	// whatever it may need; Action is none. It counts as it is.
	Exempt bool `json:"exempt,omitempty"`
	// Beside: the new VM is made while the old one serves, so nothing is stopped
	// for it; Action is recreate. Should it fail, a rollback deletes it again.
	Beside bool `json:"beside,omitempty"`
	// PostDeploy: it has post_deploy hooks.
	PostDeploy bool `json:"post_deploy,omitempty"`
}

// owes tells whether it is not what it shall be.
func (x Instance) owes() bool { return x.Action != ActionNone || x.Generation != x.Previous }

// prepares reports whether an instance is staged before anything is touched. One
// whose VM is to be replaced need not be, and a restart has nothing to stage.
func (x Instance) prepares() bool { return x.Action == ActionCreate || x.Action == ActionUpdate }

// Removal is instances of one group that are no longer wanted.
type Removal struct {
	Group string `json:"group"`
	// Requires are the groups that these instances needed; those among the
	// removals go later.
	Requires    []string `json:"requires,omitempty"`
	MaxInFlight int      `json:"max_in_flight"`
	// Next tells hooks what follows: "scale_in" or "delete".
	Next      api.Next          `json:"next"`
	Instances []RemovedInstance `json:"instances"`
}

// RemovedInstance is one of them.
type RemovedInstance struct {
	ID string `json:"id"`
	// NoAgent: nothing there can be stopped, only the VM deleted.
	NoAgent bool `json:"no_agent,omitempty"`
	// Begun: an earlier run has begun to stop it, see Instance.
	Begun bool `json:"begun,omitempty"`
}

// New begins a rollout of a plan. What is remembered of earlier ones says which
// canaries have passed already. It fails if the plan contradicts itself.
func New(p Plan, remembered Memory) (State, error) {
	p.Parallel = orDefault(p.Parallel, 32)
	p.Timeouts.Prepare = orDefault(p.Timeouts.Prepare, 10*time.Minute)
	p.Timeouts.Change = orDefault(p.Timeouts.Change, 10*time.Minute)
	p.Timeouts.Answer = orDefault(p.Timeouts.Answer, 30*time.Second)
	p.Timeouts.VM = orDefault(p.Timeouts.VM, 30*time.Minute)
	groups := make([]Group, len(p.Groups))
	for i, g := range p.Groups {
		if g.Digest == "" {
			g.Digest = digest(g.Instances)
		}
		if g.Policy.OnFailure == "" {
			g.Policy.OnFailure = manifests.OnFailureRollback
		}
		groups[i] = g
	}
	p.Groups = groups
	if err := p.validate(); err != nil {
		return State{}, fmt.Errorf("cannot begin rollout %s: %w", p.ID, err)
	}

	s := State{Plan: p, Phase: PhasePrepare, Remembered: remembered}
	for _, g := range p.Groups {
		known, _ := remembered.Group(g.Name)
		if known.Digest != g.Digest {
			known = GroupMemory{}
		}
		progress := GroupProgress{Instances: make([]InstanceProgress, len(g.Instances))}
		for i, x := range g.Instances {
			ip := InstanceProgress{ID: x.ID, Status: StatusPending, Healthy: x.Healthy}
			if x.Action == ActionNone {
				// It may be the work of a rollout of the same digest that was
				// interrupted: then it goes back with the others, and if it was a
				// canary and still stands, it need not be repeated.
				ip.Status = StatusUnchanged
				ip.Touched = slices.Contains(known.Updated, x.ID) && !x.Exempt
				ip.Canary = slices.Contains(known.Canaries, x.ID) && (!x.Exempt || !x.owes())
			}
			progress.Instances[i] = ip
		}
		s.Groups = append(s.Groups, progress)
	}
	for _, r := range p.Removals {
		progress := GroupProgress{Instances: make([]InstanceProgress, len(r.Instances))}
		for i, x := range r.Instances {
			progress.Instances[i] = InstanceProgress{ID: x.ID, Status: StatusPending}
			if x.NoAgent {
				progress.Instances[i].Status = StatusStopped
			}
		}
		s.Removals = append(s.Removals, progress)
	}
	return s, nil
}

func orDefault[T int | time.Duration](value, otherwise T) T {
	if value == 0 {
		return otherwise
	}
	return value
}

// digest names the generations of all instances.
func digest(instances []Instance) string {
	h := sha256.New()
	for _, x := range instances {
		fmt.Fprintf(h, "%q %q\n", x.ID, x.Generation)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// validate finds what would keep the machine from ending.
func (p Plan) validate() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p.ID == "" {
		wrong("the plan has no id")
	}
	seen := map[string]bool{}
	instance := func(id string) {
		if id == "" || seen[id] {
			wrong("instance %q is there twice or has no id", id)
		}
		seen[id] = true
	}
	requires := map[string][]string{}
	for _, g := range p.Groups {
		if _, twice := requires[g.Name]; twice {
			wrong("group %s is there twice", g.Name)
		}
		requires[g.Name] = g.Requires
		if g.Policy.MaxInFlight < 1 {
			wrong("group %s: max_in_flight is %d, must be at least 1", g.Name, g.Policy.MaxInFlight)
		}
		switch g.Policy.OnFailure {
		case manifests.OnFailureRollback, manifests.OnFailureHalt, manifests.OnFailureRollbackAll:
		default:
			wrong("group %s: unknown on_failure %q", g.Name, g.Policy.OnFailure)
		}
		for _, x := range g.Instances {
			instance(x.ID)
			switch x.Action {
			case ActionNone, ActionCreate, ActionUpdate, ActionRecreate, ActionRestart:
			default:
				wrong("instance %s: unknown action %q", x.ID, x.Action)
			}
			if x.Exempt && x.Action != ActionNone || x.Held && x.Action == ActionRestart {
				wrong("instance %s is not to be touched, and its action is %s", x.ID, x.Action)
			}
			if x.Beside && (x.Action != ActionRecreate || x.Held) {
				wrong("instance %s is to get a VM beside its own, and its action is %s", x.ID, x.Action)
			}
		}
	}
	for _, g := range p.Groups {
		for _, r := range g.Requires {
			if _, there := requires[r]; !there {
				wrong("group %s requires %s, which is not in the plan", g.Name, r)
			}
		}
		if path := cycle(requires, g.Name); path != nil {
			wrong("groups require each other: %s", strings.Join(path, " -> "))
		}
	}
	removed := map[string][]string{}
	for _, r := range p.Removals {
		if _, twice := removed[r.Group]; twice {
			wrong("removals of group %s are there twice", r.Group)
		}
		removed[r.Group] = r.Requires
		if r.MaxInFlight < 1 {
			wrong("removals of group %s: max_in_flight is %d, must be at least 1", r.Group, r.MaxInFlight)
		}
		for _, x := range r.Instances {
			instance(x.ID)
		}
	}
	for _, r := range p.Removals {
		if path := cycle(removed, r.Group); path != nil {
			wrong("removed groups require each other: %s", strings.Join(path, " -> "))
		}
	}
	return errors.Join(errs...)
}

// cycle finds a way from a group back to itself, nil if there is none.
func cycle(requires map[string][]string, from string) []string {
	visited := map[string]bool{}
	var walk func(name string, path []string) []string
	walk = func(name string, path []string) []string {
		for _, r := range requires[name] {
			if r == from {
				return append(path, r)
			}
			if visited[r] {
				continue
			}
			visited[r] = true
			if found := walk(r, append(path, r)); found != nil {
				return found
			}
		}
		return nil
	}
	return walk(from, []string{from})
}
