// Package placement decides which DEAs run an app's instances, and speaks with DEAs
// and the health manager.
package placement

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/blob"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/services"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// requestWorkers is how many requests of the health manager are answered at once,
// and requestQueue how many may wait.
const (
	requestWorkers = 8
	requestQueue   = 1024
)

// Deps are the parts that placement works with.
type Deps struct {
	Config   *config.Live
	Log      *slog.Logger
	Bus      *nats.Conn
	Store    *store.Store
	Blobs    *blob.Store
	Catalog  model.Catalog
	Services *services.Services
	Address  func() string // host:port of this controller
}

// Placer starts and stops instances.
type Placer struct {
	Deps
	pool     pool
	requests chan wire.HealthManagerRequest
}

// New returns a placer that knows no DEA yet.
func New(d Deps) *Placer {
	return &Placer{Deps: d, requests: make(chan wire.HealthManagerRequest, requestQueue)}
}

const (
	// advertisedFor is how long a DEA's advertisement is believed.
	advertisedFor = 10 * time.Second
	// pace is between two instances that a DEA gets: by so much a DEA puts off its
	// next offer for each instance of an app that it has, so that others are faster.
	pace = 10 * time.Millisecond
	// perOffer is for how many instances one offer is good. Then the DEAs are asked
	// again, since they also count what else they do.
	perOffer = 8
)

// StartInstances finds a DEA for each index and tells it to start. A DEA that
// cannot after all says nothing; the health manager sees what is missing and
// asks again, as it does when there is no DEA now.
func (p *Placer) StartInstances(ctx context.Context, app store.App, indices []int, flapping bool) error {
	if app.DropletHash == "" {
		return fmt.Errorf("cannot start app %d: it was never staged", app.ID)
	}
	document, err := p.startDocument(ctx, app)
	if err != nil {
		return err
	}
	document.Flapping = flapping
	place := p.placeByOffers
	if p.Config.Start.NewInitialPlacement {
		place = p.placeByMemory
	}
	for len(indices) > 0 {
		placed, err := place(ctx, document, len(indices), func(n int, dea string) {
			document.Index = indices[n]
			p.Log.Info("starting an instance", "app", app.ID, "index", document.Index, "version", document.Version, "dea", dea)
			p.publish(wire.SubjectDEAStartOf(dea), document)
		})
		indices = indices[placed:]
		if err != nil {
			p.Log.Warn("no DEA for instances", "app", app.ID, "instances", len(indices), "memory_mb", app.Memory, "runtime", app.Runtime, "error", err)
			return nil
		}
		// Whoever changes the app meanwhile does not wait until all are placed.
		now, err := p.Store.AppByID(ctx, app.ID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err != nil || now.State != store.Started || model.Version(now) != model.Version(app) {
			return nil
		}
		indices = slices.DeleteFunc(indices, func(index int) bool { return index >= now.Instances })
	}
	return nil
}

// placeByMemory gives each of n instances to the DEA that has advertised the most
// memory, as new_initial_placement wants it.
func (p *Placer) placeByMemory(_ context.Context, s wire.DEAStart, n int, start func(n int, dea string)) (placed int, err error) {
	for ; placed < n; placed++ {
		dea := p.pool.take(s.Limits.Mem, s.Runtime, s.Prod, time.Now())
		if dea == "" {
			return placed, errors.New("none advertises enough memory and the runtime")
		}
		start(placed, dea)
	}
	return placed, nil
}

// placeByOffers asks the DEAs once and gives up to n instances to those that offer
// to run them, as long as their offers last. The more a DEA runs, the later it
// offers. The original took the first offer for each instance, one after the
// other. Here a DEA that was given an instance counts as offering again a pace
// later, which is when it would: the instances are placed as if one by one, but
// the DEAs are asked once.
func (p *Placer) placeByOffers(ctx context.Context, s wire.DEAStart, n int, start func(n int, dea string)) (placed int, err error) {
	request, err := json.Marshal(wire.DEADiscover{
		Droplet: s.Droplet, Limits: s.Limits, Name: s.Name, Runtime: s.Runtime, RuntimeInfo: s.RuntimeInfo, Prod: s.Prod, SHA: s.SHA1,
	})
	if err != nil {
		return 0, fmt.Errorf("cannot ask for a DEA: %w", err)
	}
	asked := time.Now()
	end := asked.Add(p.Config.Start.Timeouts.Discover)
	sub, err := p.ask(wire.SubjectDEADiscover, request)
	if err != nil {
		return 0, err
	}
	defer done(sub)
	var offers []*offer
	for placed < n {
		until := end
		var first *offer
		if len(offers) > 0 {
			first = slices.MinFunc(offers, func(a, b *offer) int { return a.due.Compare(b.due) })
			until = first.due
		}
		m, err := nextAnswer(ctx, sub, until)
		switch {
		case errors.Is(err, nats.ErrNoResponders), err == nil && m == nil && first == nil:
			return placed, errors.New("none offers to run it")
		case err != nil:
			return placed, fmt.Errorf("cannot wait for answers on %s: %w", wire.SubjectDEADiscover, err)
		case m != nil:
			hello, err := wire.ParseDEAHello(m.Data)
			if err != nil {
				p.Log.Warn("ignoring a message", "subject", wire.SubjectDEADiscover, "error", err)
				continue
			}
			offers = append(offers, p.pool.offered(hello.ID, asked, time.Now()))
			continue
		case first.left == 0:
			return placed, nil
		}
		switch wait, ok := p.pool.give(first, s.Limits.Mem, time.Now()); {
		case !ok: // to other requests, since
			offers = slices.DeleteFunc(offers, func(o *offer) bool { return o == first })
			if len(offers) == 0 {
				return placed, nil
			}
		case wait > 0:
			first.due = time.Now().Add(wait)
		default:
			start(placed, first.dea)
			placed++
			first.left--
			first.due = time.Now().Add(pace)
		}
	}
	return placed, nil
}

// Follow makes the DEAs do what changed.
func (p *Placer) Follow(ctx context.Context, before, app store.App) error {
	switch {
	case app.State != before.State && app.State == store.Started:
		p.Log.Info("app started", model.Attributes(app)...)
		if err := p.StartInstances(ctx, app, Indices(0, app.Instances), false); err != nil {
			return err
		}
		p.TellUpdated(app)
	case app.State != before.State:
		p.Log.Info("app stopped", model.Attributes(app)...)
		p.Stop(wire.DEAStop{Droplet: model.ID(app)})
		p.TellUpdated(app)
	case app.State != store.Started:
	case app.Instances > before.Instances:
		p.Log.Info("app scaled", model.Attributes(app)...)
		if err := p.StartInstances(ctx, app, Indices(before.Instances, app.Instances), false); err != nil {
			return err
		}
		p.TellUpdated(app)
	case app.Instances < before.Instances:
		p.Log.Info("app scaled", model.Attributes(app)...)
		p.Stop(wire.DEAStop{Droplet: model.ID(app), InstanceFilter: wire.InstanceFilter{
			Version: model.Version(app), Indices: Indices(app.Instances, before.Instances),
		}})
		p.TellUpdated(app)
	}
	if app.State == store.Started && before.State == store.Started && !slices.Equal(app.URIs, before.URIs) {
		return p.updateURIs(ctx, app)
	}
	return nil
}

// Indices returns the indexes from from up to, but not including, to.
func Indices(from, to int) []int {
	list := []int{}
	for i := from; i < to; i++ {
		list = append(list, i)
	}
	return list
}
