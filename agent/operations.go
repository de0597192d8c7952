package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/internal/install"
	"github.com/clusterworks/deploy/agent/internal/shim"
)

// keepOperations is the number of operations that are remembered.
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
			log.Error("cannot read an accepted operation; dropping it", "file", name, "err", err)
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
			log.Error("processes of an interrupted operation keep running", "op", op.Operation.OpID, "err", err)
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

// current returns how an operation stands.
func (o *operations) current(op *operation) api.Operation {
	o.mu.Lock()
	defer o.mu.Unlock()
	return op.Operation
}

// report describes what a running operation tells and asks.
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

func staleEpoch(have, seen uint64) *api.Error {
	return &api.Error{Code: api.CodeStaleEpoch, Message: fmt.Sprintf("refused: epoch %d is lower than %d, another deployer has taken over", have, seen)}
}

// pollTime is the time that a long poll may take.
func pollTime(ms int64) time.Duration {
	return min(max(0, time.Duration(ms)*time.Millisecond), maxWait)
}
