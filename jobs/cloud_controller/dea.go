package cloudcontroller

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"deploy/jobs/cloud_controller/internal/blob"
	"deploy/jobs/cloud_controller/internal/store"
	"deploy/jobs/wire"
)

// advertisedFor is how long what a DEA has advertised is believed.
const advertisedFor = 10 * time.Second

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

// startInstances finds a DEA for each index and tells it to start. A DEA that
// cannot after all says nothing; the health manager sees what is missing and
// asks again, as it does when there is no DEA now.
func (c *Controller) startInstances(ctx context.Context, app store.App, indices []int, flapping bool) error {
	if app.DropletHash == "" {
		return fmt.Errorf("cannot start app %d: it was never staged", app.ID)
	}
	document, err := c.startDocument(ctx, app)
	if err != nil {
		return err
	}
	document.Flapping = flapping
	for _, index := range indices {
		dea, err := c.findDEA(ctx, document)
		if err != nil {
			c.base.Log().Warn("no DEA for an instance", "app", app.ID, "index", index, "memory_mb", app.Memory, "runtime", app.Runtime, "error", err)
			return nil // nor for the following ones
		}
		document.Index = index
		c.base.Log().Info("starting an instance", "app", app.ID, "index", index, "version", document.Version, "dea", dea)
		c.publish(wire.SubjectDEAStartOf(dea), document)
	}
	return nil
}

// updateURIs tells the DEAs an app's host names.
func (c *Controller) updateURIs(ctx context.Context, app store.App) error {
	document, err := c.startDocument(ctx, app)
	if err != nil {
		return err
	}
	c.publish(wire.SubjectDEAUpdate, document)
	return nil
}

// findDEA chooses who runs an instance: the first that offers to, each waiting a
// little longer the more it has to do; or, with new_initial_placement, the one
// that has advertised the most memory.
func (c *Controller) findDEA(ctx context.Context, s wire.DEAStart) (id string, err error) {
	if c.config.NewInitialPlacement {
		if id := c.pool.take(s.Limits.Mem, s.Runtime, s.Prod, time.Now()); id != "" {
			return id, nil
		}
		return "", errors.New("none advertises enough memory and the runtime")
	}
	request, err := json.Marshal(wire.DEADiscover{
		Droplet: s.Droplet, Limits: s.Limits, Name: s.Name, Runtime: s.Runtime, RuntimeInfo: s.RuntimeInfo, Prod: s.Prod, SHA: s.SHA1,
	})
	if err != nil {
		return "", fmt.Errorf("cannot ask for a DEA: %w", err)
	}
	err = c.gather(ctx, wire.SubjectDEADiscover, request, c.config.Timeouts.Discover, func(data []byte) bool {
		hello, err := wire.ParseDEAHello(data)
		if err != nil {
			c.base.Log().Warn("ignoring a message", "subject", wire.SubjectDEADiscover, "error", err)
			return false
		}
		id = hello.ID
		return true
	})
	if err == nil && id == "" {
		err = errors.New("none offers to run it")
	}
	return id, err
}

// gather publishes a request and hands over each answer until take returns true
// or the time is over, which is no error.
func (c *Controller) gather(ctx context.Context, subject string, request []byte, timeout time.Duration, take func([]byte) bool) error {
	bus := c.base.Bus()
	inbox := bus.NewRespInbox()
	sub, err := bus.SubscribeSync(inbox)
	if err != nil {
		return fmt.Errorf("cannot ask %s: %w", subject, err)
	}
	// Fails only with the connection, and then there is nothing to undo.
	defer func() { _ = sub.Unsubscribe() }()
	if err := bus.PublishRequest(subject, inbox, request); err != nil {
		return fmt.Errorf("cannot ask %s: %w", subject, err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		m, err := sub.NextMsgWithContext(ctx)
		switch {
		case errors.Is(err, nats.ErrNoResponders), errors.Is(err, context.DeadlineExceeded):
			return nil
		case err != nil:
			return fmt.Errorf("cannot wait for answers on %s: %w", subject, err)
		case len(m.Data) == 0 && m.Header.Get("Status") == "503": // nobody subscribes
			return nil
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

// pool is what DEAs have advertised.
type pool struct {
	mu   sync.Mutex
	deas map[string]advertised
}

type advertised struct {
	wire.DEAAdvertise
	at time.Time
}

func (p *pool) heard(a wire.DEAAdvertise, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.deas == nil {
		p.deas = map[string]advertised{}
	}
	p.deas[a.ID] = advertised{a, now}
}

func (p *pool) left(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.deas, id)
}

// take chooses the DEA with the most memory, by chance among equals, and takes
// the memory off what it has advertised, so that the next instance goes
// elsewhere; what it advertises next says what is true. "": there is none.
func (p *pool) take(memory int, runtime string, prod bool, now time.Time) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var fit []advertised
	for id, a := range p.deas {
		if now.Sub(a.at) > advertisedFor {
			delete(p.deas, id)
			continue
		}
		if a.AvailableMemory >= memory && slices.Contains(a.Runtimes, runtime) && (prod || a.Prod == nil || !*a.Prod) {
			fit = append(fit, a)
		}
	}
	if len(fit) == 0 {
		return ""
	}
	rand.Shuffle(len(fit), func(i, j int) { fit[i], fit[j] = fit[j], fit[i] })
	best := slices.MaxFunc(fit, func(a, b advertised) int { return cmp.Compare(a.AvailableMemory, b.AvailableMemory) })
	best.AvailableMemory -= memory
	p.deas[best.ID] = best
	return best.ID
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
