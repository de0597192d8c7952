package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"deploy/agent/api"
)

// keepOperations is how many operations are remembered.
const keepOperations = 50

// maxWait bounds one long poll.
const maxWait = 30 * time.Second

// operations remembers what was accepted. An operation is ops/<op_id>.json;
// while it runs its events are appended to ops/<op_id>.events, unsynced: they
// are for people, and a crash of the agent alone loses none.
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
	changed chan struct{} // closed at the next change
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
		if op.Operation.State != api.OperationRunning {
			continue
		}
		op.Events = readEvents(o.eventsFile(op.Operation.OpID))
		if err := o.end(op, interrupted()); err != nil {
			return nil, err
		}
	}
	return o, nil
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

// accept notes a new operation as the running one.
func (o *operations) accept(s api.Submission) (*operation, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	op := &operation{
		record: record{Operation: api.Operation{
			OpID: s.OpID, Kind: s.Kind, Epoch: s.Epoch, State: api.OperationRunning, Started: time.Now().UTC(),
		}},
		changed: make(chan struct{}),
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
	if len(o.byID) <= keepOperations {
		return
	}
	all := make([]*operation, 0, len(o.byID))
	for _, op := range o.byID {
		all = append(all, op)
	}
	slices.SortFunc(all, func(a, b *operation) int { return b.Operation.Started.Compare(a.Operation.Started) })
	for _, op := range all[keepOperations:] {
		if op == o.running {
			continue
		}
		delete(o.byID, op.Operation.OpID)
		_ = os.Remove(o.file(op.Operation.OpID)) // if it stays, the next collection removes it
	}
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
	if o.running == op {
		o.running = nil
	}
	op.tell()
	if err := o.save(op); err != nil {
		return err
	}
	return os.RemoveAll(o.eventsFile(op.Operation.OpID))
}

// progress gives what happened after since, and a channel that closes when
// there is more.
func (o *operations) progress(op *operation, since uint64) (api.Progress, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := api.Progress{Operation: op.Operation}
	if since < uint64(len(op.Events)) {
		p.Events = slices.Clone(op.Events[since:])
	}
	return p, op.changed
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
		p, changed := a.ops.progress(op, r.Since)
		if len(p.Events) > 0 || p.Operation.State != api.OperationRunning {
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
		p, _ := a.ops.progress(op, 0)
		if p.Operation.Kind != s.Kind {
			return api.Operation{}, badRequest("op_id %s belongs to an operation of kind %s", s.OpID, p.Operation.Kind)
		}
		return p.Operation, nil
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
		return api.Operation{}, &api.Error{Code: api.CodeConflict,
			Message: fmt.Sprintf("cannot begin %s: operation %s (%s) runs; wait for it", s.Kind, running.OpID, running.Kind)}
	}
	if active := a.installer.Snapshot().Active; s.Expect != nil && *s.Expect != active {
		return api.Operation{}, &api.Error{Code: api.CodeConflict,
			Message: fmt.Sprintf("cannot begin %s: the active generation is %q where %q was expected; plan again", s.Kind, active, *s.Expect)}
	}
	if err := context.Cause(a.ctx); err != nil {
		return api.Operation{}, fmt.Errorf("cannot begin %s: %w", s.Kind, err)
	}
	op, err := a.ops.accept(s)
	if err != nil {
		return api.Operation{}, err
	}
	p, _ := a.ops.progress(op, 0)
	a.work.Go(func() { a.run(op, s) })
	return p.Operation, nil
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
		return &api.Error{Code: api.CodeOtherDeployment, Message: fmt.Sprintf(
			"refused: this agent is %s of deployment %s (%s), not %s of %s", id.Instance, id.Deployment, id.DeploymentID, s.Instance, s.DeploymentID)}
	}
	return nil
}

// report is what a running operation tells and asks.
type report struct {
	agent *Agent
	op    *operation
}

func (r report) Event(step, message string) { r.agent.ops.event(r.op, step, message) }

// Proceed ends an operation whose deployer has lost its lease.
func (r report) Proceed() error {
	r.agent.mu.Lock()
	defer r.agent.mu.Unlock()
	if seen := r.agent.identity.Epoch; r.op.Operation.Epoch < seen {
		return staleEpoch(r.op.Operation.Epoch, seen)
	}
	return nil
}

func (a *Agent) run(op *operation, s api.Submission) {
	r := report{a, op}
	log := a.config.Log.With("op", s.OpID, "kind", s.Kind)
	log.Info("operation begins", "epoch", s.Epoch)
	err := a.perform(a.ctx, s, r)
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
	}
	return badRequest("this agent does not know kind %q", s.Kind)
}

// asFailure is what the deployer hears of an error.
func asFailure(err error) *api.Error {
	if errors.Is(err, errClosing) {
		return interrupted()
	}
	var known *api.Error
	if errors.As(err, &known) {
		return known
	}
	return &api.Error{Code: api.CodeFailed, Message: err.Error()}
}
