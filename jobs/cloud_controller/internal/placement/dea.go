package placement

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/blob"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// publish sends a message that nobody must receive: the health manager repairs
// what is lost.
func (p *Placer) publish(subject string, message any) {
	data, err := json.Marshal(message)
	if err == nil {
		err = p.Bus.Publish(subject, data)
	}
	if err != nil {
		p.Log.Warn("cannot publish", "subject", subject, "error", err)
	}
}

// Stop tells the DEAs to stop instances.
func (p *Placer) Stop(message wire.DEAStop) { p.publish(wire.SubjectDEAStop, message) }

// TellUpdated tells the health manager that an app has changed.
func (p *Placer) TellUpdated(app store.App) {
	p.publish(wire.SubjectDropletUpdated, wire.DropletUpdated{Droplet: model.ID(app), CCPartition: p.Config.Start.CCPartition})
}

// startDocument returns all that a DEA needs to run an instance, but its index.
func (p *Placer) startDocument(ctx context.Context, app store.App) (wire.DEAStart, error) {
	services, err := p.Services.Bound(ctx, app)
	if err != nil {
		return wire.DEAStart{}, err
	}
	info := p.Catalog.Runtimes[app.Runtime]
	info.Name = app.Runtime
	droplet := blob.Blob{Kind: blob.Droplet, App: app.ID, SHA1: app.DropletHash}
	return wire.DEAStart{
		Droplet: model.ID(app), Name: app.Name, Version: model.Version(app), URIs: model.NotNil(app.URIs),
		Runtime: app.Runtime, RuntimeInfo: info, Framework: app.Framework,
		SHA1: app.DropletHash,
		Executable: wire.Executable{
			ExecutableFile: p.Blobs.Path(droplet),
			ExecutableURI:  rest.SignedURL(p.Config, p.Address(), fmt.Sprintf("/staged_droplets/%d/%s", app.ID, app.DropletHash)),
			SecureURI:      rest.SecureURL(p.Config, p.SecureAddress(), fmt.Sprintf("/staged_droplets/%d/%s", app.ID, app.DropletHash)),
		},
		Services: services,
		Limits:   wire.Limits{Mem: app.Memory, Disk: app.Disk, FDs: app.FDs},
		Env:      model.NotNil(app.Environment), Users: []string{app.OwnerEmail},
		Debug: model.Debug(app), Console: model.Console(app), CCPartition: p.Config.Start.CCPartition,
		Health: healthOf(app),
	}, nil
}

// healthOf returns what an app says of its health, nil if nothing.
func healthOf(app store.App) *wire.HealthCheck {
	if app.Health == (store.Health{}) {
		return nil
	}
	check := wire.HealthCheck(app.Health)
	return &check
}

// updateURIs tells the DEAs an app's host names.
func (p *Placer) updateURIs(ctx context.Context, app store.App) error {
	document, err := p.startDocument(ctx, app)
	if err != nil {
		return err
	}
	p.publish(wire.SubjectDEAUpdate, document)
	return nil
}

// ask publishes a request. The answers come to the subscription; done ends it.
func (p *Placer) ask(subject string, request []byte) (*nats.Subscription, error) {
	bus := p.Bus
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

// nextAnswer returns the next answer to a question, nil if none comes until a
// time, nats.ErrNoResponders if there is nobody to answer. An answer that is here
// already is returned whatever the time is.
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
func (p *Placer) gather(ctx context.Context, subject string, request []byte, timeout time.Duration, take func([]byte) bool) error {
	sub, err := p.ask(subject, request)
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

// Find asks the DEAs for an app's instances, until there are as many answers as
// expected.
func (p *Placer) Find(ctx context.Context, request wire.DEAFind, expected int) ([]wire.DEAFound, error) {
	return p.find(ctx, request, p.Config.Start.Timeouts.Find, func(found []wire.DEAFound) bool { return len(found) >= expected })
}

// find asks the DEAs for an app's instances, until the answers so far are enough.
func (p *Placer) find(ctx context.Context, request wire.DEAFind, timeout time.Duration, enough func([]wire.DEAFound) bool) ([]wire.DEAFound, error) {
	data, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("cannot ask for instances: %w", err)
	}
	var list []wire.DEAFound
	err = p.gather(ctx, wire.SubjectDEAFind, data, timeout, func(data []byte) bool {
		found, err := wire.ParseDEAFound(data)
		if err != nil {
			p.Log.Warn("ignoring a message", "subject", wire.SubjectDEAFind, "error", err)
			return false
		}
		list = append(list, found)
		return enough(list)
	})
	return list, err
}
