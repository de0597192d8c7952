package simulate

import (
	"fmt"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/rollout"
)

// Options say what the simulated world does.
type Options struct {
	Seed uint64
	// Faults are commands that do not succeed.
	Faults []Fault
	// Bad are generations that never become healthy.
	Bad []string
	// Irreversible are groups whose pre_start is not compatible with a rollback.
	Irreversible []string
	// Health are changes of health from outside.
	Health []Health
	// Pauses are an operator's.
	Pauses []Pause
	// AgentEnds is the percentage of operations that the end of their agent
	// interrupts, at most twice in a row.
	AgentEnds int
	// Interrupt, if not 0, is the step before which the operator interrupts.
	Interrupt int
	// Kill, if set, says at each step, counted from 1, whether the deployer is
	// killed, and where. It starts again 5 s later: with all it had saved, or, if
	// Replan is set, as the next apply does, with what must outlive a run
	// (rollout.Memory) and a plan made of what is there then.
	Kill   func(step int) Kill
	Replan bool
	// Forget: the memory is lost with the killed deployer.
	Forget bool
	// Observe, if set, is told of each step.
	Observe func(at time.Duration, e rollout.Event, commands []rollout.Command)
}

// Fault is one command to one instance that fails or is never answered.
type Fault struct {
	Instance string
	Command  rollout.CommandKind
	// Stage says how far an update gets: StageDrain, StagePreStart; else it fails
	// when it waits for health.
	Stage  Stage
	Silent bool
}

// Stage is a part of an update.
type Stage string

const (
	StageDrain    Stage = "drain"     // nothing new is active yet
	StagePreStart Stage = "pre_start" // the new generation is active, nothing of it runs
)

// Moments are those of a fault's text, ParseFault.
func Moments() []string {
	var names []string
	for _, m := range moments {
		names = append(names, m.name)
	}
	return names
}

var moments = []struct {
	name    string
	command rollout.CommandKind
	stage   Stage
}{
	{"prepare", rollout.CommandPrepare, ""}, {"drain", rollout.CommandUpdate, StageDrain}, {"pre_start", rollout.CommandUpdate, StagePreStart},
	{"start", rollout.CommandUpdate, ""}, {"watch", rollout.CommandWatch, ""}, {"rollback", rollout.CommandRollback, ""},
	{"restart", rollout.CommandRestart, ""}, {"stop", rollout.CommandStop, ""}, {"replace", rollout.CommandReplaceVM, ""},
	{"delete", rollout.CommandDeleteVM, ""}, {"post_deploy", rollout.CommandPostDeploy, ""},
}

// ParseFault reads "router/3@start", or "router/3@start:silent" for an agent
// that does not answer.
func ParseFault(text string) (Fault, error) {
	instance, moment, _ := strings.Cut(text, "@")
	if _, _, err := api.SplitInstance(instance); err != nil {
		return Fault{}, fmt.Errorf("cannot read fault %q: %w", text, err)
	}
	moment, silent := strings.CutSuffix(moment, ":silent")
	for _, m := range moments {
		if m.name == moment {
			return Fault{Instance: instance, Command: m.command, Stage: m.stage, Silent: silent}, nil
		}
	}
	return Fault{}, fmt.Errorf("cannot read fault %q: want group/index@moment, where moment is one of %s", text, strings.Join(Moments(), ", "))
}

// Pause is an operator's: from At on, for For.
type Pause struct{ At, For time.Duration }

// Health is a change of an instance's health that no command causes.
type Health struct {
	At       time.Duration
	Instance string
	Healthy  bool
}

// Kill describes where in a step the deployer is killed.
type Kill int

const (
	KillNever      Kill = iota
	KillBeforeSave      // the event is lost
	KillAfterSave       // no command is sent
	KillHalfSent        // some commands are sent
	KillAfterSend       // all are
)

// Report describes how a simulated rollout went.
type Report struct {
	State    rollout.State
	Duration time.Duration // virtual
	Steps    int
	// Operations counts those that agents and Terraform have really begun.
	Operations int
	Groups     []GroupReport
	Instances  []InstanceReport
	// Broken lists every promise of the rollout that did not hold, with the
	// virtual time.
	Broken []string
}

// GroupReport describes what a group went through.
type GroupReport struct {
	Name            string
	MaxInFlight     int // the most at a time
	LowestAvailable int
	Touched         int // instances
}

// InstanceReport describes how an instance ended.
type InstanceReport struct {
	ID         string
	Generation string // active; empty: none
	Healthy    bool
	Deleted    bool
	// Unfinished: a change has begun and has not ended well.
	Unfinished bool
	// Before holds what ran before that.
	Before string
	// Changes is the number of operations that touched its processes.
	Changes int
	// PostDeploys is the number of times that its post_deploy hooks have passed.
	PostDeploys int
}
