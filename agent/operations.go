package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/internal/install"
	"github.com/clusterworks/deploy/agent/internal/shim"
)

// keepOperations is how many operations are remembered.
const keepOperations = 50

// maxWait bounds one long poll.
const maxWait = 30 * time.Second

// sweepTimeout bounds the end of what interrupted operations have started.
const sweepTimeout = 10 * time.Second

// keepOutputs is of how many operations the output is kept.
const keepOutputs = 10

// operations remembers what was accepted. An operation is ops/<op_id>.json;
// while it runs its events are appended to ops/<op_id>.events, unsynced: they
// are for people, and a crash of the agent alone loses none. So is what its
// hooks say, to ops/<op_id>.output, which stays.
type operations struct {
	dir string

	mu      sync.Mutex
	byID    map[string]*operation
	running *operation
}

// operation is one accepted operation and what happened in it.
type operation struct {
	record
	events  *os.File      // while it runs
	output  output        // what its hooks say
	changed chan struct{} // closed at the next change
	cancel  context.CancelCauseFunc
}

// record is the content of ops/<op_id>.json.
type record struct {
	Operation api.Operation        `json:"operation"`
	Events    []api.OperationEvent `json:"events,omitempty"`
}

var opIDForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

// loadOperations reads what was accepted earlier. What then still ran was
// interrupted.
func loadOperations(dir string, log *slog.Logger) (*operations, error) {
	o := &operations{dir: dir, byID: make(map[string]*operation)}
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read an accepted operation: %w", err)
		}
		op := &operation{changed: make(chan struct{})}
		if err := json.Unmarshal(data, &op.record); err != nil || o.file(op.Operation.OpID) != name {
			// It is history; an agent that does not start helps nobody.
			log.Error("an accepted operation cannot be read and is forgotten", "file", name, "err", err)
			if err := os.Remove(name); err != nil {
				return nil, fmt.Errorf("cannot forget an unreadable operation: %w", err)
			}
			continue
		}
		o.byID[op.Operation.OpID] = op
		op.output.path = o.outputFile(op.Operation.OpID)
		op.output.measure()
		if op.Operation.State != api.OperationRunning {
			continue
		}
		// Hooks are children of the agent, so nobody awaits those of before.
		if err := o.sweepHooks(op.Operation.OpID); err != nil {
			log.Error("what an interrupted operation has started goes on", "op", op.Operation.OpID, "err", err)
		}
		op.Events = readEvents(o.eventsFile(op.Operation.OpID))
		if err := o.end(op, interrupted()); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// sweepHooks ends what the hooks of an operation have left behind.
func (o *operations) sweepHooks(opID string) error {
	ctx, cancel := context.WithTimeout(context.Background(), sweepTimeout)
	defer cancel()
	return shim.Sweep(ctx, install.HookProcess(filepath.Dir(o.dir), opID), nil)
}

func interrupted() *api.Error {
	return &api.Error{Code: api.CodeInterrupted, Message: "the agent ended in mid-operation; submit again under a new op_id"}
}

// readEvents reads what is whole: the last line may have been cut off.
func readEvents(name string) []api.OperationEvent {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	var events []api.OperationEvent
	for line := range bytes.Lines(data) {
		var e api.OperationEvent
		if json.Unmarshal(line, &e) != nil || e.Sequence != uint64(len(events)+1) {
			break
		}
		events = append(events, e)
	}
	return events
}

func (o *operations) file(id string) string       { return filepath.Join(o.dir, id+".json") }
func (o *operations) eventsFile(id string) string { return filepath.Join(o.dir, id+".events") }
func (o *operations) outputFile(id string) string { return filepath.Join(o.dir, id+".output") }

// save writes an operation to disk. o.mu is held, or nobody else knows it yet.
func (o *operations) save(op *operation) error {
	data, err := json.Marshal(op.record)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(o.file(op.Operation.OpID), data, 0o600); err != nil {
		return fmt.Errorf("cannot note operation %s: %w", op.Operation.OpID, err)
	}
	return nil
}

// get gives the operation of that id, nil if it was never accepted.
func (o *operations) get(id string) *operation {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.byID[id]
}

// runningNow gives a copy of the operation in progress, if any.
func (o *operations) runningNow() *api.Operation {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.running == nil {
		return nil
	}
	copied := o.running.Operation
	return &copied
}

// accept notes a new operation as the running one; cancel ends it.
func (o *operations) accept(s api.Submission, cancel context.CancelCauseFunc) (*operation, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	op := &operation{
		record: record{Operation: api.Operation{
			OpID: s.OpID, Kind: s.Kind, Epoch: s.Epoch, State: api.OperationRunning, Started: time.Now().UTC(),
		}},
		changed: make(chan struct{}),
		output:  output{path: o.outputFile(s.OpID)},
		cancel:  cancel,
	}
	events, err := os.OpenFile(o.eventsFile(s.OpID), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot note operation %s: %w", s.OpID, err)
	}
	if err := o.save(op); err != nil {
		events.Close()
		return nil, err
	}
	op.events = events
	o.byID[s.OpID] = op
	o.running = op
	o.collect()
	return op, nil
}

// collect forgets all but the youngest operations. o.mu is held.
func (o *operations) collect() {
	all := slices.Collect(maps.Values(o.byID))
	slices.SortFunc(all, func(a, b *operation) int { return b.Operation.Started.Compare(a.Operation.Started) })
	outputs := 0
	for n, op := range all {
		if op == o.running {
			continue
		}
		if op.output.size > 0 && !op.output.gone {
			if outputs++; outputs > keepOutputs || n >= keepOperations {
				op.output.remove()
			}
		}
		if n >= keepOperations {
			delete(o.byID, op.Operation.OpID)
			_ = os.Remove(o.file(op.Operation.OpID)) // if it stays, the next collection removes it
		}
	}
}

// say adds to what an operation's hooks have said.
func (o *operations) say(op *operation, stream api.Stream, data []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	op.output.write(stream, data)
	op.tell()
}

// event adds one event. It may be called from several goroutines.
func (o *operations) event(op *operation, step, message string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := api.OperationEvent{Sequence: uint64(len(op.Events) + 1), At: time.Now().UTC(), Step: step, Message: message}
	op.Events = append(op.Events, e)
	op.Operation.Sequence = e.Sequence
	if line, err := json.Marshal(e); err == nil {
		_, _ = op.events.Write(append(line, '\n')) // a full disk is told by the steps themselves
	}
	op.tell()
}

// tell wakes whoever waits. o.mu is held.
func (op *operation) tell() {
	close(op.changed)
	op.changed = make(chan struct{})
}

// end notes how an operation ended.
func (o *operations) end(op *operation, failure *api.Error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now().UTC()
	op.Operation.Ended = &now
	op.Operation.State = api.OperationDone
	op.Operation.Sequence = uint64(len(op.Events))
	if failure != nil {
		op.Operation.State = api.OperationFailed
		op.Operation.Error = failure
	}
	if op.events != nil {
		op.events.Close()
		op.events = nil
	}
	op.output.close()
	if op.cancel != nil {
		op.cancel(nil)
	}
	if o.running == op {
		o.running = nil
	}
	op.tell()
	if err := o.save(op); err != nil {
		return err
	}
	return os.RemoveAll(o.eventsFile(op.Operation.OpID))
}

// progress gives what happened after since, and was said from a position on,
// and a channel that closes when there is more.
func (o *operations) progress(op *operation, since uint64, from *int64) (api.Progress, <-chan struct{}, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := api.Progress{Operation: op.Operation}
	if since < uint64(len(op.Events)) {
		p.Events = slices.Clone(op.Events[since:])
	}
	var err error
	if from != nil {
		p.Output, p.OutputNext, err = op.output.read(*from)
	}
	return p, op.changed, err
}

// breakOff ends the running operation if it only looks or fetches for a
// deployer that another one, of this epoch, has taken over from.
func (o *operations) breakOff(running *api.Operation, epoch uint64) {
	if running.Epoch < epoch && (running.Kind == api.KindWatch || running.Kind == api.KindPrepare) {
		o.get(running.OpID).cancel(staleEpoch(running.Epoch, epoch))
	}
}

// current is how an operation stands.
func (o *operations) current(op *operation) api.Operation {
	o.mu.Lock()
	defer o.mu.Unlock()
	return op.Operation
}

// Wait follows an operation.
func (a *Agent) Wait(ctx context.Context, r api.WaitRequest) (api.Progress, error) {
	op := a.ops.get(r.OpID)
	if op == nil {
		return api.Progress{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("cannot follow operation %q: this agent has not accepted it; submit it", r.OpID)}
	}
	timer := time.NewTimer(pollTime(r.MaxMS))
	defer timer.Stop()
	for {
		p, changed, err := a.ops.progress(op, r.Since, r.Output)
		if err != nil {
			return api.Progress{}, err
		}
		if len(p.Events) > 0 || len(p.Output) > 0 || p.Operation.State != api.OperationRunning {
			return p, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return p, nil
		case <-ctx.Done():
			return p, nil
		}
	}
}

// pollTime is the time that a long poll may take.
func pollTime(ms int64) time.Duration {
	return min(max(0, time.Duration(ms)*time.Millisecond), maxWait)
}

// Submit accepts an operation to disk and starts it.
func (a *Agent) Submit(_ context.Context, s api.Submission) (api.Operation, error) {
	if err := checkSubmission(s); err != nil {
		return api.Operation{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.checkOwner(s); err != nil {
		return api.Operation{}, err
	}
	if op := a.ops.get(s.OpID); op != nil {
		known := a.ops.current(op)
		if known.Kind != s.Kind {
			return api.Operation{}, badRequest("op_id %s belongs to an operation of kind %s", s.OpID, known.Kind)
		}
		return known, nil
	}
	if s.Epoch < a.identity.Epoch {
		return api.Operation{}, staleEpoch(s.Epoch, a.identity.Epoch)
	}
	if s.Epoch > a.identity.Epoch {
		if err := a.changeIdentity(func(id *identity) { id.Epoch = s.Epoch }); err != nil {
			return api.Operation{}, err
		}
	}
	if running := a.ops.runningNow(); running != nil {
		a.ops.breakOff(running, s.Epoch)
		return api.Operation{}, &api.Error{Code: api.CodeConflict,
			Message: fmt.Sprintf("cannot begin %s: operation %s (%s) runs; wait for it", s.Kind, running.OpID, running.Kind)}
	}
	if active := a.installer.Installed().Active; s.Expect != nil && *s.Expect != active {
		return api.Operation{}, &api.Error{Code: api.CodeConflict,
			Message: fmt.Sprintf("cannot begin %s: the active generation is %q where %q was expected; plan again", s.Kind, active, *s.Expect)}
	}
	if err := context.Cause(a.ctx); err != nil {
		return api.Operation{}, fmt.Errorf("cannot begin %s: %w", s.Kind, err)
	}
	ctx, cancel := context.WithCancelCause(a.ctx)
	op, err := a.ops.accept(s, cancel)
	if err != nil {
		cancel(nil)
		return api.Operation{}, err
	}
	accepted := a.ops.current(op)
	a.work.Go(func() { a.run(ctx, op, s) })
	return accepted, nil
}

// errCancelled is the cause of what Cancel ends.
var errCancelled = errors.New("cancelled on request")

// Cancel ends an operation that leaves nothing half done.
func (a *Agent) Cancel(_ context.Context, r api.CancelRequest) (api.Operation, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if id := a.identity; id.DeploymentID != r.DeploymentID || id.Instance != r.Instance {
		return api.Operation{}, otherDeployment(id, r.DeploymentID, r.Instance)
	}
	if r.Epoch < a.identity.Epoch {
		return api.Operation{}, staleEpoch(r.Epoch, a.identity.Epoch)
	}
	op := a.ops.get(r.OpID)
	if op == nil {
		return api.Operation{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("cannot cancel operation %q: this agent has not accepted it", r.OpID)}
	}
	current := a.ops.current(op)
	if current.State != api.OperationRunning {
		return current, nil
	}
	if !current.Kind.Cancellable() {
		return api.Operation{}, &api.Error{Code: api.CodeConflict,
			Message: fmt.Sprintf("cannot cancel operation %s: an %s that is broken off leaves the instance half changed; wait for it", r.OpID, current.Kind)}
	}
	op.cancel(errCancelled)
	return current, nil
}

func badRequest(format string, args ...any) *api.Error {
	return &api.Error{Code: api.CodeBadRequest, Message: "cannot accept the operation: " + fmt.Sprintf(format, args...)}
}

func staleEpoch(have, seen uint64) *api.Error {
	return &api.Error{Code: api.CodeStaleEpoch, Message: fmt.Sprintf("refused: epoch %d is lower than %d, another deployer has taken over", have, seen)}
}

// checkSubmission wants just what Kind names.
func checkSubmission(s api.Submission) error {
	if !opIDForm.MatchString(s.OpID) || strings.HasSuffix(s.OpID, ".") {
		return badRequest("op_id %q is not of letters, digits, dots, dashes", s.OpID)
	}
	bodies := map[api.OperationKind]bool{
		api.KindConfigure: s.Configure != nil,
		api.KindPrepare:   s.Prepare != nil,
		api.KindUpdate:    s.Update != nil,
		api.KindWatch:     s.Watch != nil,
		api.KindRollback:  s.Rollback != nil,
		api.KindStop:      s.Stop != nil,

		api.KindStart:      s.Start != nil,
		api.KindRestart:    s.Restart != nil,
		api.KindPostDeploy: s.PostDeploy != nil,
		api.KindErrand:     s.Errand != nil,
	}
	if _, known := bodies[s.Kind]; !known {
		return badRequest("this agent does not know kind %q", s.Kind)
	}
	for kind, present := range bodies {
		if present != (kind == s.Kind) {
			return badRequest("kind %s must come with its own body and no other", s.Kind)
		}
	}
	if s.DeploymentID == "" {
		return badRequest("deployment_id is missing")
	}
	if _, _, err := api.SplitInstance(s.Instance); err != nil {
		return badRequest("%v", err)
	}
	return nil
}

// checkOwner refuses other deployments and instances. Whoever configures an
// agent first owns it. a.mu is held.
func (a *Agent) checkOwner(s api.Submission) error {
	id := a.identity
	if id.DeploymentID == "" {
		if s.Kind == api.KindConfigure {
			return nil
		}
		return &api.Error{Code: api.CodeOtherDeployment, Message: fmt.Sprintf("cannot begin %s: the agent belongs to no deployment yet; configure it", s.Kind)}
	}
	if id.DeploymentID != s.DeploymentID || id.Instance != s.Instance {
		return otherDeployment(id, s.DeploymentID, s.Instance)
	}
	return nil
}

func otherDeployment(id identity, deploymentID, instance string) *api.Error {
	return &api.Error{Code: api.CodeOtherDeployment, Message: fmt.Sprintf(
		"refused: this agent is %s of deployment %s (%s), not %s of %s", id.Instance, id.Deployment, id.DeploymentID, instance, deploymentID)}
}

// report is what a running operation tells and asks.
type report struct {
	agent *Agent
	op    *operation
}

func (r report) Event(step, message string) { r.agent.ops.event(r.op, step, message) }

func (r report) Output(stream api.Stream, data []byte) { r.agent.ops.say(r.op, stream, data) }

func (r report) ID() string { return r.op.Operation.OpID }

// Proceed ends an operation whose deployer has lost its lease.
func (r report) Proceed() error {
	r.agent.mu.Lock()
	defer r.agent.mu.Unlock()
	if seen := r.agent.identity.Epoch; r.op.Operation.Epoch < seen {
		return staleEpoch(r.op.Operation.Epoch, seen)
	}
	return nil
}

func (a *Agent) run(ctx context.Context, op *operation, s api.Submission) {
	r := report{a, op}
	log := a.config.Log.With("op", s.OpID, "kind", s.Kind)
	log.Info("operation begins", "epoch", s.Epoch)
	err := a.perform(ctx, s, r)
	var failure *api.Error
	if err != nil {
		failure = asFailure(err)
		log.Warn("operation failed", "err", err)
	} else {
		log.Info("operation done")
	}
	if err := a.ops.end(op, failure); err != nil {
		log.Error("cannot note the end of the operation", "err", err)
	}
	a.beatNow()
	freeMemory()
}

func (a *Agent) perform(ctx context.Context, s api.Submission, r report) error {
	switch s.Kind {
	case api.KindConfigure:
		return a.configure(ctx, s, r)
	case api.KindPrepare:
		if s.Prepare.Spec.Instance != s.Instance {
			return badRequest("the spec is for %q", s.Prepare.Spec.Instance)
		}
		return a.installer.Prepare(ctx, s.Prepare.Spec, r)
	case api.KindUpdate:
		return a.installer.Update(ctx, *s.Update, r)
	case api.KindWatch:
		return a.installer.Watch(ctx, *s.Watch, r)
	case api.KindRollback:
		return a.installer.Rollback(ctx, *s.Rollback, r)
	case api.KindStop:
		return a.installer.Stop(ctx, *s.Stop, r)
	case api.KindStart:
		return a.installer.Start(ctx, *s.Start, r)
	case api.KindRestart:
		return a.installer.Restart(ctx, *s.Restart, r)
	case api.KindPostDeploy:
		return a.installer.PostDeploy(ctx, r)
	case api.KindErrand:
		return a.installer.Errand(ctx, *s.Errand, r)
	}
	return badRequest("this agent does not know kind %q", s.Kind)
}

// asFailure is what the deployer hears of an error.
func asFailure(err error) *api.Error {
	if errors.Is(err, errClosing) {
		return interrupted()
	}
	if errors.Is(err, errCancelled) {
		return &api.Error{Code: api.CodeCancelled, Message: "the operation was " + errCancelled.Error()}
	}
	var known *api.Error
	if errors.As(err, &known) {
		return known
	}
	return &api.Error{Code: api.CodeFailed, Message: err.Error()}
}
