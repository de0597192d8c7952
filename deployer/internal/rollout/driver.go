package rollout

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// Executor carries commands out.
type Executor interface {
	// Execute carries out one command and returns when it has ended, or when ctx
	// has. It is called again with the same Command.OpID when a deployer continues
	// a rollout, and must then follow what was begun. An *api.Error in the chain
	// of the error it returns tells the machine what kind of failure it was.
	Execute(ctx context.Context, c Command) error
}

// Driver feeds the machine with what becomes of its commands.
type Driver struct {
	Executor Executor
	// Save keeps the state. No command is carried out before the state that
	// issued it is saved; an error ends the run.
	Save func(State) error
	// Report, if set, is told of each step after it is saved: what happened, the
	// commands that follow, and the state that was saved, which takes in all that
	// happened at the same time. It is never called concurrently.
	Report func(Event, []Command, State)
	// Found is whether instances are healthy, asked just before the run. It matters
	// when a saved state is continued.
	Found map[string]bool
	// Interrupt, once closed, asks to finish what is in flight and stop.
	Interrupt <-chan struct{}
	// Events, if set, delivers what happens outside of commands: EventHealthy,
	// EventSick, EventLost; EventPause and EventResume.
	Events <-chan Event
}

// Run starts a rollout, or continues one, and returns the state in which it
// ended; State.Outcome says how. When ctx ends, Run leaves at once and returns
// the last saved state with the context's error: what agents have begun, they
// finish, and a later Run of that state follows them.
func (d Driver) Run(ctx context.Context, s State) (State, error) {
	work, leave := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer leave()

	answers := make(chan Event)
	execute := func(c Command) {
		running.Go(func() {
			within, cancel := context.WithTimeout(work, c.Timeout)
			defer cancel()
			answer := Event{Kind: EventDone, OpID: c.OpID}
			err := d.Executor.Execute(within, c)
			if work.Err() != nil {
				return // the end of ctx is no failure of the instance
			}
			if err != nil {
				answer = Event{Kind: EventFailed, OpID: c.OpID, Error: asAPIError(err)}
			}
			select {
			case answers <- answer:
			case <-work.Done(): // nobody reads any more
			}
		})
	}

	machine := NewMachine(s)
	interrupt, outside := d.Interrupt, d.Events
	events := []Event{{Kind: EventStart, Found: d.Found}}
	for {
		var commands []Command
		issued := make([][]Command, len(events))
		for i, e := range events {
			issued[i] = machine.Step(e, time.Now())
			commands = append(commands, issued[i]...)
		}
		next := machine.State()
		if err := d.Save(next); err != nil {
			return s, fmt.Errorf("cannot save the rollout's state, so nothing more was begun: %w", err)
		}
		s = next
		if d.Report != nil {
			for i, e := range events {
				d.Report(e, issued[i], s)
			}
		}
		if s.Outcome != "" {
			return s, nil
		}
		for _, c := range commands {
			execute(c)
		}

		var tick <-chan time.Time
		if deadline := machine.NextDeadline(); !deadline.IsZero() {
			tick = time.After(time.Until(deadline))
		}
		select {
		case <-ctx.Done():
			return s, fmt.Errorf("the rollout was left in mid-work: %w", context.Cause(ctx))
		case e := <-answers:
			events = []Event{e}
		case e, open := <-outside:
			if !open {
				outside, events = nil, nil
				break
			}
			events = []Event{e}
		case <-interrupt:
			interrupt = nil
			events = []Event{{Kind: EventInterrupt}}
		case <-tick:
			events = []Event{{Kind: EventTick}}
		}
		// What else has happened meanwhile is one save, not many.
		for more := true; more; {
			select {
			case e := <-answers:
				events = append(events, e)
			case e, open := <-outside:
				if open {
					events = append(events, e)
				} else {
					outside = nil
				}
			default:
				more = false
			}
		}
	}
}

// asAPIError finds what an agent said, or says what else went wrong.
func asAPIError(err error) *api.Error {
	if said := (*api.Error)(nil); errors.As(err, &said) {
		return said
	}
	return &api.Error{Code: api.CodeInternal, Message: err.Error()}
}
