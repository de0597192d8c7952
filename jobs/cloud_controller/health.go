package cloudcontroller

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// runningInstances asks the health manager how many instances of each app run.
// What it does not know is absent.
func (c *Controller) runningInstances(ctx context.Context, apps []store.App) map[int64]int {
	running := map[int64]int{}
	waiting := map[wire.ID]int64{}
	var request wire.HealthRequest
	for _, a := range apps {
		if a.State != store.Started {
			running[a.ID] = 0
			continue
		}
		waiting[appID(a)] = a.ID
		request.Droplets = append(request.Droplets, wire.HealthDroplet{Droplet: appID(a), Version: version(a)})
	}
	if len(waiting) == 0 {
		return running
	}
	data, err := json.Marshal(request)
	if err == nil {
		err = c.gather(ctx, wire.SubjectHealthManagerHealth, data, c.config.Timeouts.Health, func(data []byte) bool {
			health, err := wire.ParseHealth(data)
			if err != nil {
				c.base.Log().Warn("ignoring a message", "subject", wire.SubjectHealthManagerHealth, "error", err)
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
		c.base.Log().Warn("cannot ask the health manager", "error", err)
	}
	return running
}

// healthStatus asks the health manager for what only it knows of an app, and
// hands its answer over; nothing if there is none.
func (c *Controller) healthStatus(ctx context.Context, request wire.HealthStatusRequest, take func([]byte) error) error {
	data, err := json.Marshal(request)
	if err != nil {
		return err
	}
	return c.gather(ctx, wire.SubjectHealthManagerStatus, data, c.config.Timeouts.Status, func(data []byte) bool {
		if err := take(data); err != nil {
			c.base.Log().Warn("ignoring a message", "subject", wire.SubjectHealthManagerStatus, "error", err)
			return false
		}
		return true
	})
}

// hmRequest takes what the health manager asks for to a worker.
func (c *Controller) hmRequest(m *nats.Msg) {
	request, err := wire.ParseHealthManagerRequest(m.Data)
	if err != nil {
		c.base.Log().Warn("ignoring a message", "subject", m.Subject, "error", err)
		return
	}
	select {
	case c.hmRequests <- request:
	default:
		// It asks again for what is still missing.
		c.base.Log().Warn("too many requests of the health manager at once, dropping one", "app", request.Droplet, "op", request.Op)
	}
}

// serveHealthManager is one worker.
func (c *Controller) serveHealthManager(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case request := <-c.hmRequests:
			if err := c.obey(ctx, request); err != nil && ctx.Err() == nil {
				c.base.Log().Warn("cannot do what the health manager asks for", "app", request.Droplet, "op", request.Op, "error", err)
			}
		}
	}
}

// obey does what the health manager asks for, unless it judged an app that has
// changed since.
func (c *Controller) obey(ctx context.Context, request wire.HealthManagerRequest) error {
	id, err := strconv.ParseInt(string(request.Droplet), 10, 64)
	if err != nil {
		return errors.New("its id is not one of ours")
	}
	app, err := c.store.AppByID(ctx, id)
	gone := errors.Is(err, store.ErrNotFound)
	if err != nil && !gone {
		return err
	}
	switch request.Op {
	case wire.OpStart:
		if gone || app.State != store.Started || request.Version != version(app) {
			return nil
		}
		var wanted []int
		for _, index := range request.Indices {
			if index < app.Instances {
				wanted = append(wanted, index)
			}
		}
		return c.startInstances(ctx, app, wanted, request.Flapping)
	case wire.OpStop:
		if gone {
			c.stop(wire.DEAStop{Droplet: request.Droplet})
			return nil
		}
		if request.LastUpdated != app.UpdatedAt {
			return nil
		}
		if len(request.Instances) > 0 {
			c.base.Log().Info("stopping instances that are too many", "app", app.ID, "instances", request.Instances)
			c.stop(wire.DEAStop{Droplet: request.Droplet, InstanceFilter: wire.InstanceFilter{Instances: request.Instances}})
		}
	case wire.OpSpinDown:
		if gone || app.State != store.Started {
			return nil
		}
		before := app
		app.State = store.Stopped
		if err := c.store.UpdateApp(ctx, &app, nil); err != nil {
			return err
		}
		return c.follow(ctx, before, app)
	}
	return nil
}

// bulkCredentials answers who has the right to ask on the bus.
func (c *Controller) bulkCredentials(m *nats.Msg) {
	if m.Reply == "" {
		return
	}
	a := c.settings.Load().BulkAPI.Auth
	c.publish(m.Reply, wire.BulkCredentials{User: a.User, Password: a.Password, Address: c.address()})
}
