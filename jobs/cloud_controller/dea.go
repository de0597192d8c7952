package cloudcontroller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/blob"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// publish sends a message that nobody must receive: the health manager repairs
// what is lost.
func (c *Controller) publish(subject string, message any) {
	data, err := json.Marshal(message)
	if err == nil {
		err = c.base.Bus().Publish(subject, data)
	}
	if err != nil {
		c.base.Log().Warn("cannot publish", "subject", subject, "error", err)
	}
}

func (c *Controller) stop(message wire.DEAStop) { c.publish(wire.SubjectDEAStop, message) }

// tellUpdated tells the health manager that what is wanted of an app changed.
func (c *Controller) tellUpdated(app store.App) {
	c.publish(wire.SubjectDropletUpdated, wire.DropletUpdated{Droplet: appID(app), CCPartition: c.config.CCPartition})
}

// startDocument is all that a DEA needs to run an instance; Index is left open.
func (c *Controller) startDocument(ctx context.Context, app store.App) (wire.DEAStart, error) {
	services, err := c.boundServices(ctx, app)
	if err != nil {
		return wire.DEAStart{}, err
	}
	info := c.catalog.runtimes[app.Runtime]
	info.Name = app.Runtime
	droplet := blob.Blob{Kind: blob.Droplet, App: app.ID, SHA1: app.DropletHash}
	return wire.DEAStart{
		Droplet: appID(app), Name: app.Name, Version: version(app), URIs: notNil(app.URIs),
		Runtime: app.Runtime, RuntimeInfo: info, Framework: app.Framework,
		SHA1: app.DropletHash, ExecutableFile: c.blobs.Path(droplet),
		ExecutableURI: c.url() + fmt.Sprintf("/staged_droplets/%d/%s", app.ID, app.DropletHash),
		Services:      services,
		Limits:        wire.Limits{Mem: app.Memory, Disk: app.Disk, FDs: app.FDs},
		Env:           notNil(app.Environment), Users: []string{app.OwnerEmail},
		Debug: debugMode(app), Console: console(app), CCPartition: c.config.CCPartition,
	}, nil
}

// url is where other components reach this controller.
func (c *Controller) url() string { return "http://" + c.address() }

// updateURIs tells the DEAs an app's host names.
func (c *Controller) updateURIs(ctx context.Context, app store.App) error {
	document, err := c.startDocument(ctx, app)
	if err != nil {
		return err
	}
	c.publish(wire.SubjectDEAUpdate, document)
	return nil
}

// ask publishes a request. The answers come to the subscription; done ends it.
func (c *Controller) ask(subject string, request []byte) (*nats.Subscription, error) {
	bus := c.base.Bus()
	inbox := bus.NewRespInbox()
	sub, err := bus.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("cannot ask %s: %w", subject, err)
	}
	if err := bus.PublishRequest(subject, inbox, request); err != nil {
		done(sub)
		return nil, fmt.Errorf("cannot ask %s: %w", subject, err)
	}
	return sub, nil
}

// done ends a subscription of ask. That fails only with the connection, and then
// there is nothing to undo.
func done(sub *nats.Subscription) { _ = sub.Unsubscribe() }

// nextAnswer is the next answer to what was asked, nil if none comes until a time;
// nats.ErrNoResponders if there is nobody to answer. One that is here already is
// returned whatever the time is.
func nextAnswer(ctx context.Context, sub *nats.Subscription, until time.Time) (*nats.Msg, error) {
	m, err := sub.NextMsg(0)
	if errors.Is(err, nats.ErrTimeout) {
		ctx, cancel := context.WithDeadline(ctx, until)
		defer cancel()
		if m, err = sub.NextMsgWithContext(ctx); errors.Is(err, context.DeadlineExceeded) {
			return nil, nil
		}
	}
	return m, err
}

// gather publishes a request and hands over each answer until take returns true
// or the time is over, which is no error.
func (c *Controller) gather(ctx context.Context, subject string, request []byte, timeout time.Duration, take func([]byte) bool) error {
	sub, err := c.ask(subject, request)
	if err != nil {
		return err
	}
	defer done(sub)
	for until := time.Now().Add(timeout); ; {
		m, err := nextAnswer(ctx, sub, until)
		switch {
		case errors.Is(err, nats.ErrNoResponders), err == nil && m == nil:
			return nil
		case err != nil:
			return fmt.Errorf("cannot wait for answers on %s: %w", subject, err)
		case take(m.Data):
			return nil
		}
	}
}

// find asks the DEAs for an app's instances, until there are as many answers as
// expected.
func (c *Controller) find(ctx context.Context, request wire.DEAFind, expected int) ([]wire.DEAFound, error) {
	data, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("cannot ask for instances: %w", err)
	}
	var list []wire.DEAFound
	err = c.gather(ctx, wire.SubjectDEAFind, data, c.config.Timeouts.Find, func(data []byte) bool {
		found, err := wire.ParseDEAFound(data)
		if err != nil {
			c.base.Log().Warn("ignoring a message", "subject", wire.SubjectDEAFind, "error", err)
			return false
		}
		list = append(list, found)
		return len(list) >= expected
	})
	return list, err
}

// address is host:port of this controller.
func (c *Controller) address() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.listening != "" {
		return c.listening
	}
	return net.JoinHostPort(c.base.Address(), strconv.Itoa(c.config.ExternalPort))
}
