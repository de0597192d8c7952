package agenttest

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/internal/server"
)

// Simulated is an agent without a VM, for tests of many: it answers the real API
// over a real bus, from memory, and carries every operation out at once.
type Simulated struct {
	mu         sync.Mutex
	inventory  api.Inventory
	specs      map[string]api.Spec // staged and active, by generation
	operations map[string]api.Operation
	fails      map[api.OperationKind]*api.Error
	identity   server.Identity
	nc         *nats.Conn
	service    interface{ Close() }
}

// Simulate serves a simulated agent on a connection that may speak for it, until
// the test ends. What the inventory names as active is spec, and runs.
func Simulate(t testing.TB, nc *nats.Conn, inventory api.Inventory, spec api.Spec) *Simulated {
	t.Helper()
	s := &Simulated{inventory: inventory, specs: map[string]api.Spec{spec.Generation: spec}, operations: map[string]api.Operation{}}
	s.activate(spec)
	s.identity = server.Identity{DeploymentID: inventory.DeploymentID, Instance: inventory.Instance, Version: "0.0.0"}
	s.nc = nc
	s.serve(t, s)
	return s
}

// serve answers with another's words from now on.
func (s *Simulated) serve(t testing.TB, answers server.Agent) {
	t.Helper()
	if s.service != nil {
		s.service.Close()
	}
	service, err := server.NATS(s.nc, s.identity, server.Handlers(answers), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(service.Close)
	s.service = service
}

// Replace has a liar answer in the agent's place.
func (s *Simulated) Replace(t testing.TB, l *Liar) { s.serve(t, l) }

// Lie makes what the agent says of itself something else.
func (s *Simulated) Lie(change func(*api.Inventory)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.inventory)
}

// Fail makes operations of a kind fail; with nil they no longer do.
func (s *Simulated) Fail(kind api.OperationKind, err *api.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = map[api.OperationKind]*api.Error{kind: err}
}

// activate makes a spec what runs. s.mu is held, or s is not shared yet.
func (s *Simulated) activate(spec api.Spec) {
	since := time.Now()
	in := &s.inventory
	if in.Active != spec.Generation {
		in.Previous = in.Active
	}
	in.Active, in.State, in.Reasons, in.HealthySince = spec.Generation, api.InstanceRunning, nil, &since
	in.Store, in.Processes = nil, nil
	for _, p := range spec.Packages {
		in.Store = append(in.Store, p.Digest)
	}
	for _, j := range spec.Jobs {
		for _, p := range j.Processes {
			in.Processes = append(in.Processes, api.ProcessStatus{
				Job: j.Name, Name: p.Name, State: api.ProcessRunning, PID: 1, StartedAt: &since,
				Digest: p.Digest, ReloadDigest: p.ReloadDigest, Generation: spec.Generation,
			})
		}
	}
}

// Inventory implements the API.
func (s *Simulated) Inventory(context.Context) (api.Inventory, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.inventory
	in.Now = time.Now()
	return in, nil
}

// Spec implements the API.
func (s *Simulated) Spec(_ context.Context, r api.SpecRequest) (api.Spec, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Generation == "" {
		r.Generation = s.inventory.Active
	}
	spec, ok := s.specs[r.Generation]
	if !ok {
		return spec, &api.Error{Code: api.CodeNotFound, Message: "no such generation"}
	}
	return spec, nil
}

// Log implements the API; there is none.
func (s *Simulated) Log(context.Context, api.LogRequest) (api.LogChunk, error) {
	return api.LogChunk{}, nil
}

// Drift implements the API; there is none.
func (s *Simulated) Drift(context.Context) (api.DriftReport, error) { return api.DriftReport{}, nil }

// Census implements the API; no job has one.
func (s *Simulated) Census(context.Context) (api.CensusReport, error) {
	return api.CensusReport{}, nil
}

// Metrics implements the API; there are none.
func (s *Simulated) Metrics(context.Context) (api.Metrics, error) { return api.Metrics{}, nil }

// Submit implements the API.
func (s *Simulated) Submit(_ context.Context, q api.Submission) (api.Operation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if done, ok := s.operations[q.OpID]; ok {
		return done, nil
	}
	if q.Epoch < s.inventory.Epoch {
		return api.Operation{}, &api.Error{Code: api.CodeStaleEpoch, Message: fmt.Sprintf("epoch %d is over, this is %d", q.Epoch, s.inventory.Epoch)}
	}
	s.inventory.Epoch = q.Epoch
	now := time.Now()
	op := api.Operation{OpID: q.OpID, Kind: q.Kind, Epoch: q.Epoch, State: api.OperationDone, Started: now, Ended: &now}
	if err := s.fails[q.Kind]; err != nil {
		op.State, op.Error = api.OperationFailed, err
		s.operations[q.OpID] = op
		return op, nil
	}
	switch q.Kind {
	case api.KindRestart:
		s.activate(s.specs[s.inventory.Active])
	case api.KindConfigure:
		if q.Configure.Bus != nil {
			s.inventory.Bus.Digest = q.Configure.Bus.Digest
		}
	case api.KindPrepare:
		s.specs[q.Prepare.Spec.Generation] = q.Prepare.Spec
	case api.KindUpdate:
		spec, ok := s.specs[q.Update.Generation]
		if !ok {
			op.State, op.Error = api.OperationFailed, &api.Error{Code: api.CodeNotFound, Message: "that generation is not staged"}
			break
		}
		s.activate(spec)
	case api.KindStop:
		s.inventory.Held, s.inventory.State = q.Stop.Hold, api.InstanceStopped
		s.inventory.Processes = slices.Clone(s.inventory.Processes)
		for i := range s.inventory.Processes {
			s.inventory.Processes[i].State, s.inventory.Processes[i].PID = api.ProcessStopped, 0
		}
	case api.KindStart:
		s.inventory.Held = false
		s.activate(s.specs[s.inventory.Active])
	}
	s.operations[q.OpID] = op
	return op, nil
}

// Wait implements the API.
func (s *Simulated) Wait(_ context.Context, r api.WaitRequest) (api.Progress, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	op, ok := s.operations[r.OpID]
	if !ok {
		return api.Progress{}, &api.Error{Code: api.CodeNotFound, Message: "no such operation"}
	}
	return api.Progress{Operation: op}, nil
}

// Cancel implements the API; every operation has ended.
func (s *Simulated) Cancel(_ context.Context, r api.CancelRequest) (api.Operation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.operations[r.OpID], nil
}
