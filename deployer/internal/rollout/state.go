package rollout

import (
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// State is a rollout as it stands. It is plain data: save it after every Step
// and before the commands of that Step are carried out, and a deployer that
// starts again continues with EventStart.
type State struct {
	Plan    Plan    `json:"plan"`
	Phase   Phase   `json:"phase"`
	Outcome Outcome `json:"outcome,omitempty"` // empty as long as it runs
	// Failing: something failed, nothing new is begun.
	Failing bool `json:"failing,omitempty"`
	// Interrupted: an operator asked to finish what is in flight and stop.
	Interrupted bool `json:"interrupted,omitempty"`
	// Paused: an operator asked to begin nothing new until told to go on.
	Paused bool `json:"paused,omitempty"`
	// RevertAll: a group with on_failure = rollback_all has failed.
	RevertAll bool `json:"revert_all,omitempty"`
	// VMRuns counts the batches of VMs so far, for their operation ids.
	VMRuns int `json:"vm_runs,omitempty"`

	Groups     []GroupProgress `json:"groups"`             // as Plan.Groups
	Removals   []GroupProgress `json:"removals,omitempty"` // as Plan.Removals
	Remembered Memory          `json:"remembered"`         // when the rollout began
}

// Phase is the part of the rollout that is going on.
type Phase string

const (
	PhasePrepare    Phase = "prepare"
	PhaseUpdate     Phase = "update"
	PhaseWatch      Phase = "watch"
	PhaseRemove     Phase = "remove"
	PhasePostDeploy Phase = "post_deploy"
	PhaseRevert     Phase = "revert"
)

// Outcome describes how a rollout ended.
type Outcome string

const (
	OutcomeDone   Outcome = "done"
	OutcomeFailed Outcome = "failed"
	// OutcomeInterrupted: it may be continued with EventStart.
	OutcomeInterrupted Outcome = "interrupted"
	// OutcomeSuperseded: agents obey another deployer now; this one must not act.
	OutcomeSuperseded Outcome = "superseded"
)

// GroupProgress describes how far a group has come.
type GroupProgress struct {
	Instances []InstanceProgress `json:"instances"`
	// BlockedUntil is set while nothing may be begun because too few instances
	// are healthy; then the group fails.
	BlockedUntil time.Time `json:"blocked_until,omitzero"`
	// Failure is one of the group rather than of an instance.
	Failure *Failure `json:"failure,omitempty"`
}

// InstanceProgress describes how far an instance has come.
type InstanceProgress struct {
	ID     string `json:"id"`
	Status Status `json:"status"`
	// Healthy as last known.
	Healthy bool `json:"healthy,omitempty"`
	// InFlight: its change has begun and has not ended, it does not count as
	// available.
	InFlight bool `json:"in_flight,omitempty"`
	// Canary: it goes (or went) as one of the canaries.
	Canary bool `json:"canary,omitempty"`
	// Touched: it has been altered, a revert of everything includes it.
	Touched bool `json:"touched,omitempty"`
	// OwesRollback: it failed and goes back as soon as max_in_flight allows.
	OwesRollback bool `json:"owes_rollback,omitempty"`
	// Watched: it passed the one watch of a first deploy.
	Watched bool `json:"watched,omitempty"`
	// PostDeployed: its post_deploy hooks have run.
	PostDeployed bool `json:"post_deployed,omitempty"`
	// Running is the command that was issued and not answered.
	Running Running `json:"running,omitzero"`
	// Failure is why the instance failed; RollbackFailure why it could not be
	// brought back after that.
	Failure         *Failure `json:"failure,omitempty"`
	RollbackFailure *Failure `json:"rollback_failure,omitempty"`
}

// Status describes what was last achieved on an instance.
type Status string

const (
	StatusUnchanged  Status = "unchanged" // needs nothing
	StatusPending    Status = "pending"
	StatusPrepared   Status = "prepared"
	StatusStopped    Status = "stopped"  // before its VM is replaced or deleted
	StatusBeside     Status = "beside"   // its VM serves until after another one is made
	StatusReplaced   Status = "replaced" // has its new VM
	StatusUpdated    Status = "updated"
	StatusFailed     Status = "failed"
	StatusRolledBack Status = "rolled_back"
	StatusDeleted    Status = "deleted"
)

// Running is a command in progress.
type Running struct {
	Kind     CommandKind `json:"kind,omitempty"`
	OpID     string      `json:"op_id,omitempty"`
	Attempt  int         `json:"attempt,omitempty"`
	Deadline time.Time   `json:"deadline,omitzero"`
}

// Failure describes what went wrong, with what.
type Failure struct {
	Group      string      `json:"group"`
	Digest     string      `json:"digest,omitempty"` // of the group
	Instance   string      `json:"instance,omitempty"`
	Generation string      `json:"generation,omitempty"`
	Command    CommandKind `json:"command,omitempty"`
	Error      *api.Error  `json:"error"`
	At         time.Time   `json:"at"`
}

// CommandKind names what a command does.
type CommandKind string

const (
	CommandPrepare    CommandKind = "prepare"
	CommandUpdate     CommandKind = "update"
	CommandRestart    CommandKind = "restart"
	CommandWatch      CommandKind = "watch"
	CommandRollback   CommandKind = "rollback"
	CommandStop       CommandKind = "stop"
	CommandReplaceVM  CommandKind = "replace_vm"
	CommandDeleteVM   CommandKind = "delete_vm"
	CommandPostDeploy CommandKind = "post_deploy"
)

// Command is something to be carried out. The answer is EventDone or
// EventFailed with the same OpID. Carrying out the same OpID again must follow
// what was begun, not begin it again.
type Command struct {
	Kind CommandKind `json:"kind"`
	OpID string      `json:"op_id"`
	// Instances is the one instance that the command is for; commands for VMs
	// name a whole batch, for one run of Terraform.
	Instances []string `json:"instances"`
	// Generation to prepare, to make active, or (CommandRollback) to return to:
	// empty means to stop everything. After a CommandReplaceVM it is not on the
	// VM and must be staged before.
	Generation string `json:"generation,omitempty"`
	// MinHealthy and Deadline are those of api.Update, api.Watch and api.Rollback.
	MinHealthy time.Duration `json:"min_healthy,omitempty"`
	Deadline   time.Duration `json:"deadline,omitempty"`
	// Next tells hooks what follows a stop, as api.Update.Next.
	Next api.Next `json:"next,omitempty"`
	// Hold: nothing is started (api.Update.Hold).
	Hold bool `json:"hold,omitempty"`
	// Timeout is when the machine gives up waiting for the answer.
	Timeout time.Duration `json:"timeout"`
}

// EventKind names what happened.
type EventKind string

const (
	// EventStart begins a rollout, or continues one after the deployer ended:
	// commands that were in progress are issued again under the same OpID.
	EventStart EventKind = "start"
	// EventTick is time passing; owed at Machine.NextDeadline.
	EventTick EventKind = "tick"
	// EventDone and EventFailed answer the command of OpID.
	EventDone   EventKind = "done"
	EventFailed EventKind = "failed"
	// EventHealthy and EventSick report the health of Instance.
	EventHealthy EventKind = "healthy"
	EventSick    EventKind = "sick"
	// EventLost says that the agent of Instance is silent and no longer waited for.
	EventLost EventKind = "lost"
	// EventInterrupt asks to finish what is in flight and begin nothing new.
	EventInterrupt EventKind = "interrupt"
	// EventPause asks to finish what is in flight, put back what fails, and begin
	// nothing new until EventResume.
	EventPause  EventKind = "pause"
	EventResume EventKind = "resume"
)

// Event is something that happened.
type Event struct {
	Kind     EventKind  `json:"kind"`
	OpID     string     `json:"op_id,omitempty"`
	Instance string     `json:"instance,omitempty"`
	Error    *api.Error `json:"error,omitempty"`
	// Found, with EventStart, is whether instances are healthy as their agents
	// say now; of one that is not named, the last word holds.
	Found map[string]bool `json:"found,omitempty"`
}

// OpID is the id of an operation. It follows from its arguments alone, so a
// deployer that continues a rollout follows the operations already begun.
func OpID(rollout, instance string, kind CommandKind, attempt int) string {
	return strings.Join([]string{rollout, api.SubjectToken(instance), string(kind), strconv.Itoa(attempt)}, ".")
}

// isOwed reports whether the change of an instance has not begun.
func isOwed(p InstanceProgress) bool {
	return !p.InFlight && (p.Status == StatusPending || p.Status == StatusPrepared)
}

// isUpdated reports whether an instance has what is wanted.
func isUpdated(p InstanceProgress) bool {
	return p.Status == StatusUpdated || p.Status == StatusUnchanged
}

func isToRevert(p InstanceProgress) bool { return p.Touched && !p.InFlight && isUpdated(p) }

// Failures are all that went wrong, in the order of the plan, each before the
// failure to roll it back.
func (s State) Failures() []Failure {
	var all []Failure
	add := func(f *Failure) {
		if f != nil {
			all = append(all, *f)
		}
	}
	for _, part := range [][]GroupProgress{s.Groups, s.Removals} {
		for _, g := range part {
			add(g.Failure)
			for _, p := range g.Instances {
				add(p.Failure)
				add(p.RollbackFailure)
			}
		}
	}
	return all
}

// place describes where an instance stands in the plan.
type place struct {
	removal      bool
	group, index int
}

// instances are all of them, in the order of the plan.
func (s *State) instances() iter.Seq2[place, *InstanceProgress] {
	return func(yield func(place, *InstanceProgress) bool) {
		for _, removal := range []bool{false, true} {
			part := s.Groups
			if removal {
				part = s.Removals
			}
			for g := range part {
				for i := range part[g].Instances {
					if !yield(place{removal, g, i}, &part[g].Instances[i]) {
						return
					}
				}
			}
		}
	}
}

func (s *State) progress(at place) *InstanceProgress {
	if at.removal {
		return &s.Removals[at.group].Instances[at.index]
	}
	return &s.Groups[at.group].Instances[at.index]
}

// clone copies all that Step changes. The plan and what is pointed to never change.
func (s State) clone() State {
	for _, part := range []*[]GroupProgress{&s.Groups, &s.Removals} {
		*part = slices.Clone(*part)
		for i := range *part {
			(*part)[i].Instances = slices.Clone((*part)[i].Instances)
		}
	}
	return s
}

// sick names the instances of a group that do not serve.
func (s *State) sick(g int) string {
	var ids []string
	for i, p := range s.Groups[g].Instances {
		switch x := s.Plan.Groups[g].Instances[i]; {
		case p.Healthy:
		case x.Held:
			ids = append(ids, p.ID+" (stopped by an operator)")
		case x.Exempt:
			ids = append(ids, p.ID+" (not touched by this run)")
		default:
			ids = append(ids, p.ID)
		}
	}
	return strings.Join(ids, ", ")
}
