package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// recorder carries commands out as do says and remembers them.
type recorder struct {
	do func(ctx context.Context, c Command) error

	mu    sync.Mutex
	saved State
	log   []string // op ids, in the order of execution
}

func (r *recorder) Execute(ctx context.Context, c Command) error {
	r.mu.Lock()
	r.log = append(r.log, c.OpID)
	known := false
	for _, p := range r.saved.instances() {
		known = known || p.Running.OpID == c.OpID
	}
	r.mu.Unlock()
	if !known {
		return fmt.Errorf("command %s was carried out before the state that issued it was saved", c.OpID)
	}
	return r.do(ctx, c)
}

func (r *recorder) save(s State) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.saved = s
	return nil
}

func takes(d time.Duration) func(context.Context, Command) error {
	return func(ctx context.Context, _ Command) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func newState(t *testing.T, p Plan) State {
	t.Helper()
	s, err := New(p, Memory{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDriverCarriesARolloutOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{do: takes(time.Second)}
		var reported []string
		start := time.Now()
		s, err := Driver{Executor: r, Save: r.save, Report: func(e Event, commands []Command, s State) {
			for _, c := range commands {
				reported = append(reported, c.OpID)
			}
		}}.Run(t.Context(), newState(t, plan(running("a", 3), fresh("b", 2))))
		if err != nil || s.Outcome != OutcomeDone {
			t.Fatalf("Run ended with %q, %v; failures %+v", s.Outcome, err, s.Failures())
		}
		if len(r.log) != 5+5+2 {
			t.Errorf("carried out %q", r.log)
		}
		slices.Sort(reported)
		slices.Sort(r.log)
		if !slices.Equal(reported, r.log) {
			t.Errorf("reported %q, carried out %q", reported, r.log)
		}
		// All prepared at once, three updates in a row, one watch.
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("took %s, want 5s", took)
		}
	})
}

func TestDriverLeavesAndContinues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{do: takes(time.Minute)}
		ctx, leave := context.WithTimeoutCause(t.Context(), 90*time.Second, errors.New("second interrupt"))
		defer leave()
		s, err := Driver{Executor: r, Save: r.save}.Run(ctx, newState(t, plan(running("a", 2))))
		if err == nil || !strings.Contains(err.Error(), "second interrupt") || s.Outcome != "" {
			t.Fatalf("Run ended with %q, %v", s.Outcome, err)
		}
		if r.log[len(r.log)-1] != "r1.a.0.update.1" {
			t.Fatalf("left after %q", r.log)
		}
		r.log = nil
		s, err = Driver{Executor: r, Save: r.save}.Run(t.Context(), r.saved)
		if want := []string{"r1.a.0.update.1", "r1.a.1.update.1"}; err != nil || s.Outcome != OutcomeDone || !slices.Equal(r.log, want) {
			t.Errorf("went on with %q to %q, %v", r.log, s.Outcome, err)
		}
	})
}

func TestDriverInterrupt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		interrupt := make(chan struct{})
		r := &recorder{}
		r.do = func(ctx context.Context, c Command) error {
			if c.Kind == CommandUpdate {
				close(interrupt)
			}
			return takes(time.Second)(ctx, c)
		}
		s, err := Driver{Executor: r, Save: r.save, Interrupt: interrupt}.Run(t.Context(), newState(t, plan(running("a", 2))))
		if err != nil || s.Outcome != OutcomeInterrupted || s.Groups[0].Instances[0].Status != StatusUpdated {
			t.Errorf("Run ended with %q, %v, %+v", s.Outcome, err, s.Groups[0])
		}
	})
}

func TestDriverActsOnlyOnSavedState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{do: takes(time.Second)}
		full := errors.New("disk is full")
		saves := 0
		s, err := Driver{Executor: r, Save: func(s State) error {
			if saves++; saves > 2 {
				return full
			}
			return r.save(s)
		}}.Run(t.Context(), newState(t, plan(running("a", 1))))
		if !errors.Is(err, full) || len(r.log) != 2 || s.Groups[0].Instances[0].Running.Kind != CommandUpdate {
			t.Errorf("Run ended with %v after %q", err, r.log)
		}
	})
}

func TestDriverGivesUpOnSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		deaf := make(chan struct{})
		r.do = func(ctx context.Context, c Command) error {
			if c.Kind != CommandUpdate {
				return nil
			}
			<-deaf // does not even hear that its time is up
			return nil
		}
		start := time.Now()
		s, err := Driver{Executor: r, Save: r.save, Report: func(_ Event, _ []Command, s State) {
			if s.Outcome != "" {
				close(deaf)
			}
		}}.Run(t.Context(), newState(t, plan(running("a", 1))))
		if err != nil || s.Outcome != OutcomeFailed || s.Groups[0].Instances[0].Status != StatusRolledBack {
			t.Errorf("Run ended with %q, %v, %+v", s.Outcome, err, s.Groups[0])
		}
		if took := time.Since(start); took != 11*time.Minute+30*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestDriverKeepsWhatAgentsSay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{do: func(_ context.Context, c Command) error {
			if c.Kind == CommandUpdate {
				return fmt.Errorf("cannot update %s: %w", c.Instances[0], broken)
			}
			return nil
		}}
		s, err := Driver{Executor: r, Save: r.save}.Run(t.Context(), newState(t, plan(running("a", 1))))
		if f := s.Failures(); err != nil || len(f) != 1 || f[0].Error.Code != api.CodeFailed {
			t.Errorf("Run ended with %v, failures %+v", err, f)
		}
	})
}

func TestDriverHearsOfHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		health := make(chan Event, 1)
		r := &recorder{do: takes(time.Second)}
		health <- Event{Kind: EventLost, Instance: "a/0"}
		close(health) // its end is not the rollout's
		s, err := Driver{Executor: r, Save: r.save, Events: health}.Run(t.Context(), newState(t, plan(running("a", 2))))
		if f := s.Failures(); err != nil || s.Outcome != OutcomeFailed || len(f) != 1 || f[0].Instance != "a/0" {
			t.Errorf("Run ended with %q, %v, failures %+v", s.Outcome, err, f)
		}
	})
}
