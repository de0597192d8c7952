package placement

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Subscribe takes the bus's messages. requests are the subscriptions to what the
// health manager asks of one controller, to be ended when this one leaves.
func (p *Placer) Subscribe() (requests []*nats.Subscription, err error) {
	partition := p.Config.Start.CCPartition
	for _, subject := range []string{wire.SubjectHealthManagerRequests, wire.PartitionSubject(wire.SubjectHealthManagerRequests, partition)} {
		sub, err := p.Bus.QueueSubscribe(subject, wire.QueueCloudController, p.hmRequest)
		if err != nil {
			return requests, fmt.Errorf("cannot subscribe %s: %w", subject, err)
		}
		requests = append(requests, sub)
	}
	for subject, handle := range map[string]nats.MsgHandler{
		wire.SubjectBulkCredentials:                                   p.bulkCredentials,
		wire.PartitionSubject(wire.SubjectBulkCredentials, partition): p.bulkCredentials,
		wire.SubjectDEAAdvertise: func(m *nats.Msg) {
			a, err := wire.ParseDEAAdvertise(m.Data)
			if err != nil {
				p.Log.Warn("ignoring a message", "subject", m.Subject, "error", err)
				return
			}
			p.pool.heard(a, time.Now())
		},
		wire.SubjectDEAShutdown: func(m *nats.Msg) {
			if s, err := wire.ParseDEAShutdown(m.Data); err == nil {
				p.pool.left(s.ID, time.Now())
			}
		},
	} {
		if _, err := p.Bus.Subscribe(subject, handle); err != nil {
			return requests, fmt.Errorf("cannot subscribe %s: %w", subject, err)
		}
	}
	return requests, nil
}

// Locate asks all DEAs to advertise what they have.
func (p *Placer) Locate() {
	if err := p.Bus.Publish(wire.SubjectDEALocate, nil); err != nil {
		p.Log.Warn("cannot publish", "subject", wire.SubjectDEALocate, "error", err)
	}
}

// RunningInstances asks the health manager how many instances of each app run.
// Apps that it does not know are absent.
func (p *Placer) RunningInstances(ctx context.Context, apps []store.App) map[int64]int {
	running := map[int64]int{}
	waiting := map[wire.ID]int64{}
	var request wire.HealthRequest
	for _, a := range apps {
		if a.State != store.Started {
			running[a.ID] = 0
			continue
		}
		waiting[model.ID(a)] = a.ID
		request.Droplets = append(request.Droplets, wire.HealthDroplet{Droplet: model.ID(a), Version: model.Version(a)})
	}
	if len(waiting) == 0 {
		return running
	}
	data, err := json.Marshal(request)
	if err == nil {
		err = p.gather(ctx, wire.SubjectHealthManagerHealth, data, p.Config.Start.Timeouts.Health, func(data []byte) bool {
			health, err := wire.ParseHealth(data)
			if err != nil {
				p.Log.Warn("ignoring a message", "subject", wire.SubjectHealthManagerHealth, "error", err)
				return false
			}
			if id, ok := waiting[health.Droplet]; ok {
				running[id] = health.Healthy
				delete(waiting, health.Droplet)
			}
			return len(waiting) == 0
		})
	}
	if err != nil {
		p.Log.Warn("cannot ask the health manager", "error", err)
	}
	return running
}

// HealthStatus asks the health manager for what only it knows of an app, and
// hands its answer over, if there is one.
func (p *Placer) HealthStatus(ctx context.Context, request wire.HealthStatusRequest, take func([]byte) error) error {
	data, err := json.Marshal(request)
	if err != nil {
		return err
	}
	return p.gather(ctx, wire.SubjectHealthManagerStatus, data, p.Config.Start.Timeouts.Status, func(data []byte) bool {
		if err := take(data); err != nil {
			p.Log.Warn("ignoring a message", "subject", wire.SubjectHealthManagerStatus, "error", err)
			return false
		}
		return true
	})
}

// hmRequest hands a request of the health manager to a worker.
func (p *Placer) hmRequest(m *nats.Msg) {
	request, err := wire.ParseHealthManagerRequest(m.Data)
	if err != nil {
		p.Log.Warn("ignoring a message", "subject", m.Subject, "error", err)
		return
	}
	select {
	case p.requests <- request:
	default:
		// It asks again for what is still missing.
		p.Log.Warn("too many requests of the health manager at once, dropping one", "app", request.Droplet, "op", request.Op)
	}
}

// Serve does what the health manager asks for until ctx ends.
func (p *Placer) Serve(ctx context.Context) {
	var workers sync.WaitGroup
	for range requestWorkers {
		workers.Go(func() { p.work(ctx) })
	}
	workers.Wait()
}

func (p *Placer) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case request := <-p.requests:
			if err := p.obey(ctx, request); err != nil && ctx.Err() == nil {
				p.Log.Warn("cannot carry out a request of the health manager", "app", request.Droplet, "op", request.Op, "error", err)
			}
		}
	}
}

// obey does what the health manager asks for, unless it judged an app that has
// changed since.
func (p *Placer) obey(ctx context.Context, request wire.HealthManagerRequest) error {
	id, err := strconv.ParseInt(string(request.Droplet), 10, 64)
	if err != nil {
		return errors.New("its id is not one of ours")
	}
	app, err := p.Store.AppByID(ctx, id)
	gone := errors.Is(err, store.ErrNotFound)
	if err != nil && !gone {
		return err
	}
	switch request.Op {
	case wire.OpStart:
		if gone || app.State != store.Started || request.Version != model.Version(app) {
			return nil
		}
		var wanted []int
		for _, index := range request.Indices {
			if index < app.Instances {
				wanted = append(wanted, index)
			}
		}
		return p.restart(ctx, app, wanted, request.Flapping)
	case wire.OpStop:
		if gone {
			p.Stop(wire.DEAStop{Droplet: request.Droplet})
			return nil
		}
		if request.LastUpdated != app.UpdatedAt {
			return nil
		}
		// An update stops what it has replaced, and nobody else does meanwhile: health
		// managers that do not know of updates see instances that are too many.
		if under, _, err := p.updating(ctx, app); err != nil || under != nil {
			return err
		}
		if len(request.Instances) > 0 {
			p.Log.Info("stopping surplus instances", "app", app.ID, "instances", request.Instances)
			p.Stop(wire.DEAStop{Droplet: request.Droplet, InstanceFilter: wire.InstanceFilter{Instances: request.Instances}})
		}
	case wire.OpSpinDown:
		if gone || app.State != store.Started {
			return nil
		}
		before := app
		app.State = store.Stopped
		if err := p.Store.UpdateApp(ctx, &app, nil); err != nil {
			return err
		}
		_, err := p.Follow(ctx, before, app)
		return err
	}
	return nil
}

// restart starts instances that the health manager misses: during an update, of the
// version that each index has by now.
func (p *Placer) restart(ctx context.Context, app store.App, indices []int, flapping bool) error {
	under, state, err := p.updating(ctx, app)
	if err != nil {
		return err
	}
	if under == nil {
		_, err := p.StartInstances(ctx, app, indices, flapping)
		return err
	}
	for _, runCount := range []int{under.RunCount, under.Previous} {
		release, err := p.Store.Release(ctx, app.ID, runCount)
		if err != nil {
			return err
		}
		as := release.Of(app)
		var these []int
		for _, index := range indices {
			if state.Version(index) == model.Version(as) {
				these = append(these, index)
			}
		}
		if len(these) == 0 {
			continue
		}
		if _, err := p.Place(ctx, as, these, wire.Trial{Flapping: flapping}, func(store.App) bool { return true }); err != nil {
			return err
		}
	}
	return nil
}

// bulkCredentials answers with the credentials of the bulk API.
func (p *Placer) bulkCredentials(m *nats.Msg) {
	if m.Reply == "" {
		return
	}
	a := p.Config.Now().BulkAPI.Auth
	p.publish(m.Reply, wire.BulkCredentials{User: a.User, Password: a.Password, Address: p.Address()})
}
