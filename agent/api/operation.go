package api

import (
	"fmt"
	"time"
)

// Change is the head of everything that alters an instance.
type Change struct {
	DeploymentID string `json:"deployment_id"`
	Instance     string `json:"instance"`
	// Epoch of the deployer's lease. The agent keeps the highest it has seen and
	// refuses lower ones, on arrival and again before each step.
	Epoch uint64 `json:"epoch"`
	// OpID makes the submission idempotent: the same OpID gives the same
	// operation, over either transport, also after an agent's restart.
	OpID string `json:"op_id"`
	// Expect, if not nil, is the active generation ("" for none) that the
	// deployer planned with; another one is refused with CodeConflict.
	Expect *string `json:"expect,omitempty"`
}

// Submission asks for one operation; exactly the field that Kind names is set.
type Submission struct {
	Change
	Kind OperationKind `json:"kind"`

	Configure *Configure `json:"configure,omitempty"`
	Prepare   *Prepare   `json:"prepare,omitempty"`
	Update    *Update    `json:"update,omitempty"`
	Watch     *Watch     `json:"watch,omitempty"`
	Rollback  *Rollback  `json:"rollback,omitempty"`
	Stop      *Stop      `json:"stop,omitempty"`

	Start      *Start            `json:"start,omitempty"`
	Restart    *RestartProcesses `json:"restart,omitempty"`
	PostDeploy *PostDeploy       `json:"post_deploy,omitempty"`
	Errand     *Errand           `json:"errand,omitempty"`
}

// OperationKind names what an operation does.
type OperationKind string

const (
	// KindConfigure gives the agent its identity and its bus.
	KindConfigure OperationKind = "configure"
	// KindPrepare stages a spec: fetches and checks packages, writes files, runs
	// check hooks. Touches nothing that runs.
	KindPrepare OperationKind = "prepare"
	// KindUpdate makes a staged generation the active one: pre_stop, drain, stop,
	// post_stop, activate, pre_start, start, healthy, post_start; only processes
	// whose digests differ are touched.
	KindUpdate OperationKind = "update"
	// KindWatch waits until the instance has been healthy without a break.
	KindWatch OperationKind = "watch"
	// KindRollback is an update to the previous generation.
	KindRollback OperationKind = "rollback"
	// KindStop drains and stops every process: before the VM goes away, or
	// because an operator wants so (Stop.Hold).
	KindStop OperationKind = "stop"
	// KindStart starts what the active generation wants and what does not run. It
	// ends a hold.
	KindStart OperationKind = "start"
	// KindRestart ends processes of the active generation in order (pre_stop,
	// drain, stop, post_stop) and starts them anew (pre_start, start, healthy,
	// post_start). On an instance that is held it is refused with CodeConflict.
	KindRestart OperationKind = "restart"
	// KindPostDeploy runs the post_deploy hooks of the active generation, in the
	// order of its jobs, once the whole deployment is updated. On an instance that
	// is held there is nothing to run.
	KindPostDeploy OperationKind = "post_deploy"
	// KindErrand runs one errand of a job of the active generation. What it says
	// is Progress.Output; how it ended, if not with status 0, is
	// Error.Process.Exit.
	KindErrand OperationKind = "errand"
)

// Cancellable tells whether MethodCancel ends operations of this kind: those
// that leave nothing half done, or whose job must expect it (errands).
func (k OperationKind) Cancellable() bool {
	switch k {
	case KindPrepare, KindWatch, KindPostDeploy, KindErrand:
		return true
	}
	return false
}

// Next names the change that follows a stop. The pre_stop, drain and post_stop
// hooks read it from DEPLOY_NEXT.
type Next string

// What may follow a stop.
const (
	NextUpdate   Next = "update"   // another generation, on the same VM
	NextRecreate Next = "recreate" // the same or another generation, on another VM
	NextScaleIn  Next = "scale_in" // the instance is deleted, its group stays
	NextDelete   Next = "delete"   // the group is deleted
	NextRestart  Next = "restart"  // the same generation
	NextStop     Next = "stop"     // nothing, until an operator starts it
)

// Configure is the identity of an agent and where its bus is.
type Configure struct {
	Deployment string `json:"deployment"` // name, for people
	VMID       string `json:"vm_id"`
	Address    string `json:"address"`
	// Disk is the folder of the VM's persistent disk, where the jobs' data goes;
	// "" if it has none.
	Disk string `json:"disk,omitempty"`
	// Bus is nil as long as there is none.
	Bus *Bus `json:"bus,omitempty"`
	// MetricsPort is the port on which the agent serves GET /metrics over HTTP, on Address, to
	// whoever asks; 0 for nowhere.
	MetricsPort int `json:"metrics_port,omitempty"`
	// Syslog is the place where processes' logs are sent as well, "udp://host:port" or
	// "tcp://host:port" (RFC 5424); "" for nowhere.
	Syslog string `json:"syslog,omitempty"`
	// Names lists the deployment's instances for the VM's /etc/hosts, the VM's own among
	// them, if only this instance uses the VM; nil leaves its names as they are.
	Names []Name `json:"names,omitempty"`
	// Renamed is the instance that the agent was until now, "" if its name stays.
	Renamed string `json:"renamed,omitempty"`
}

// Bus describes how an agent reaches the deployment's NATS servers.
type Bus struct {
	URLs        []string `json:"urls"` // tls://address:port
	CA          []byte   `json:"ca"`   // PEM
	Certificate []byte   `json:"certificate"`
	// Digest names these settings, see BusStatus.Digest.
	Digest string `json:"digest"`
}

// Prepare stages Spec.
type Prepare struct {
	Spec Spec `json:"spec"`
}

// Update activates a staged generation.
type Update struct {
	Generation string `json:"generation"`
	// MinHealthyMS is the time that the instance must be healthy without a break.
	MinHealthyMS int64 `json:"min_healthy_ms"`
	// DeadlineMS bounds the wait for health, from the start of the processes.
	DeadlineMS int64 `json:"deadline_ms"`
	// Next is NextUpdate (also if empty).
	Next Next `json:"next"`
	// Back: this is an automatic return to what ran before. It is refused with
	// CodeIrreversible if a pre_start hook that is not declared compatible
	// (Hook.RollbackCompatible) has run since.
	Back bool `json:"back,omitempty"`
	// SkipDrain stops at once what must stop, without pre_stop and drain.
	SkipDrain bool `json:"skip_drain,omitempty"`
	// Hold activates the generation and starts nothing, as on an instance that an
	// operator has stopped: a new VM has to be told. An agent that holds its
	// instance goes on to do so without it.
	Hold bool `json:"hold,omitempty"`
}

// Watch waits for health.
type Watch struct {
	MinHealthyMS int64 `json:"min_healthy_ms"`
	DeadlineMS   int64 `json:"deadline_ms"`
}

// Rollback returns to the previous generation, or, where there is none, stops
// everything.
type Rollback struct {
	MinHealthyMS int64 `json:"min_healthy_ms"`
	DeadlineMS   int64 `json:"deadline_ms"`
}

// Stop drains and stops every process. They stay stopped, also after a reboot,
// until the next update; with Hold until a KindStart.
type Stop struct {
	Next Next `json:"next"`
	// SkipDrain stops at once, without pre_stop and drain.
	SkipDrain bool `json:"skip_drain,omitempty"`
	// Hold is the wish of an operator, which updates respect: they change what
	// would run, and start nothing (Inventory.Held).
	Hold bool `json:"hold,omitempty"`
}

// Start starts what does not run.
type Start struct {
	// MinHealthyMS and DeadlineMS are those of Update.
	MinHealthyMS int64 `json:"min_healthy_ms"`
	DeadlineMS   int64 `json:"deadline_ms"`
}

// RestartProcesses says what a KindRestart is about.
type RestartProcesses struct {
	// Job restricts it to the processes of one job, Process (with Job) to one
	// process; both empty: all.
	Job     string `json:"job,omitempty"`
	Process string `json:"process,omitempty"`
	// SkipDrain stops at once, without pre_stop and drain.
	SkipDrain bool `json:"skip_drain,omitempty"`
	// MinHealthyMS and DeadlineMS are those of Update.
	MinHealthyMS int64 `json:"min_healthy_ms"`
	DeadlineMS   int64 `json:"deadline_ms"`
}

// PostDeploy has nothing to say.
type PostDeploy struct{}

// Errand names one and says what it gets.
type Errand struct {
	Job  string `json:"job"`
	Name string `json:"name"`
	// Arguments follow those of the errand's command.
	Arguments []Argument `json:"arguments,omitempty"`
	// Env is added to the errand's own; names that begin with DEPLOY_ are refused.
	Env map[string]string `json:"env,omitempty"`
	// TimeoutMS takes the place of the errand's own if it is more than 0.
	TimeoutMS int64 `json:"timeout_ms,omitempty"`
}

// OperationState describes how an operation stands.
type OperationState string

const (
	OperationRunning OperationState = "running"
	OperationDone    OperationState = "done"
	OperationFailed  OperationState = "failed"
)

// Operation is an accepted submission.
type Operation struct {
	OpID  string         `json:"op_id"`
	Kind  OperationKind  `json:"kind"`
	Epoch uint64         `json:"epoch"`
	State OperationState `json:"state"`
	Error *Error         `json:"error,omitempty"`
	// Started and Ended by the agent's clock.
	Started time.Time  `json:"started"`
	Ended   *time.Time `json:"ended,omitempty"`
	// Sequence is that of the last event.
	Sequence uint64 `json:"sequence"`
}

// WaitRequest follows an operation. It returns at once when there are events
// after Since or the operation has ended, else after MaxMS at the latest.
type WaitRequest struct {
	OpID  string `json:"op_id"`
	Since uint64 `json:"since"`
	MaxMS int64  `json:"max_ms"` // at most 30,000
	// Output, if not nil, asks for what hooks have said as well, from this
	// position on: 0, then Progress.OutputNext. More of it ends the wait too.
	Output *int64 `json:"output,omitempty"`
}

// Progress is the answer to WaitRequest.
type Progress struct {
	Operation Operation        `json:"operation"`
	Events    []OperationEvent `json:"events,omitempty"`
	// Output holds what was said, at most about 256 KiB at a time, and OutputNext
	// where the rest begins. The operation has ended and all was read when State
	// says so and Output is empty.
	Output     []Output `json:"output,omitempty"`
	OutputNext int64    `json:"output_next,omitempty"`
}

// Stream is one of the two that a command writes to.
type Stream string

const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// Output is a piece of what an errand or a post_deploy hook said. An agent
// keeps MaxOutput bytes of it an operation; what is beyond is in the log of the
// hook only, and a last piece on Stderr says so.
type Output struct {
	Stream Stream `json:"stream"`
	Data   []byte `json:"data"`
}

// MaxOutput is the number of bytes of an operation's output that are kept.
const MaxOutput = 8 << 20

// CancelRequest asks for the end of an operation that has not ended. The reply
// is the operation as it then is: it fails with CodeCancelled a moment later,
// if it does not end well before that. Operations that must not be broken off
// (OperationKind.Cancellable) are refused with CodeConflict.
type CancelRequest struct {
	DeploymentID string `json:"deployment_id"`
	Instance     string `json:"instance"`
	// Epoch is refused if it is lower than the agent's, as with a Change.
	Epoch uint64 `json:"epoch"`
	OpID  string `json:"op_id"`
}

// OperationEvent is one step of an operation.
type OperationEvent struct {
	Sequence uint64    `json:"sequence"` // from 1, without gaps
	At       time.Time `json:"at"`
	Step     string    `json:"step"` // "fetch", "stage", "drain", "stop", "start", "healthy", ...
	Message  string    `json:"message"`
}

// SpecRequest asks for a generation, the active one if empty.
type SpecRequest struct {
	Generation string `json:"generation,omitempty"`
}

// LogRequest reads a process's log. Offset -1 means "the last Lines lines".
// Waits up to WaitMS for something new.
type LogRequest struct {
	Job     string `json:"job"`
	Process string `json:"process"`
	// File identifies the log file that Offset belongs to (LogChunk.File), so
	// that a reader sees rotation; empty at first.
	File   string `json:"file,omitempty"`
	Offset int64  `json:"offset"`
	Lines  int    `json:"lines,omitempty"`
	Max    int    `json:"max,omitempty"` // bytes, at most 256 KiB
	WaitMS int64  `json:"wait_ms,omitempty"`
}

// LogChunk is a piece of a log and where the next one begins.
type LogChunk struct {
	Data []byte `json:"data"`
	File string `json:"file"`
	Next int64  `json:"next"`
}

// Code classifies an error for programs.
type Code string

const (
	CodeBadRequest      Code = "bad_request"
	CodeNotFound        Code = "not_found"
	CodeStaleEpoch      Code = "stale_epoch"
	CodeOtherDeployment Code = "other_deployment" // agent belongs to another deployment or instance
	CodeConflict        Code = "conflict"         // Expect did not hold, or another operation runs
	CodePackageMissing  Code = "package_missing"  // Packages names the digests; upload and prepare again
	CodeSystemPackage   Code = "system_package"   // a program of the VM's package manager is missing
	CodeInterrupted     Code = "interrupted"      // the agent ended in mid-operation; submit again under a new OpID
	CodeIrreversible    Code = "irreversible"     // Update.Back after a pre_start hook that forbids it
	CodeCancelled       Code = "cancelled"        // ended by MethodCancel
	CodeFailed          Code = "failed"           // a step failed; Message and Process say which and why
	CodeInternal        Code = "internal"
)

// Error describes what could not be done, to what, why, and what to do next.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	// Packages are the digests that CodePackageMissing is about.
	Packages []string `json:"packages,omitempty"`
	// Process is set when a process or hook is the cause.
	Process *ProcessFailure `json:"process,omitempty"`
}

// ProcessFailure describes what an operator needs to see of a process that failed.
type ProcessFailure struct {
	Job  string   `json:"job"`
	Name string   `json:"name"` // of the process, or the hook's kind
	Exit *Exit    `json:"exit,omitempty"`
	Log  []string `json:"log,omitempty"` // last lines, at most 30
}

func (e *Error) Error() string {
	if e.Process == nil || e.Process.Exit == nil {
		return e.Message
	}
	return fmt.Sprintf("%s (%s/%s %s)", e.Message, e.Process.Job, e.Process.Name, e.Process.Exit)
}

// String says how a process ended: "exited with status 7", "was ended by signal KILL".
func (x *Exit) String() string {
	if x.Signal != "" {
		return "was ended by signal " + x.Signal
	}
	return fmt.Sprintf("exited with status %d", x.Status)
}
