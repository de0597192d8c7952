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
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rolling"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/services"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// requestWorkers is the number of the health manager's requests that are answered at once,
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
	// SecureAddress is the place where they reach it over TLS; "": nowhere.
	SecureAddress func() string
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
	// advertisedFor is the time that a DEA's advertisement is believed.
	advertisedFor = 10 * time.Second
	// window is the time that the DEAs' answers are waited for before one is chosen, unless a
	// DEA that has not answered could run an instance that otherwise shares a DEA with
	// another one of its app. A DEA puts off its offer by up to 250 ms, the more the
	// more it runs.
	window = 400 * time.Millisecond
	// perOffer is for how many instances one offer is good. Then the DEAs are asked
	// again, since they also count what else they do.
	perOffer = 8
)

// StartInstances starts instances of an app's present release, and returns the indices
// for which there is no room. The health manager sees those missing, and asks for them
// again.
func (p *Placer) StartInstances(ctx context.Context, app store.App, indices []int, flapping bool) (left []int, err error) {
	if app.DropletHash == "" {
		return nil, fmt.Errorf("cannot start app %d: it was never staged", app.ID)
	}
	present, err := p.Store.Present(ctx, app)
	if err != nil {
		return nil, err
	}
	return p.Place(ctx, present.Of(app), indices, wire.Trial{Flapping: flapping}, func(now store.App) bool {
		return model.Version(now) == model.Version(app)
	})
}

// Place finds a DEA for each index of an app as it is to run, and tells it to
// start. It returns the indices for which there is no room. A DEA that cannot after
// all says nothing. wanted reports whether the app, as it is on record by now, still
// wants them.
func (p *Placer) Place(ctx context.Context, app store.App, indices []int, trial wire.Trial, wanted func(store.App) bool) (left []int, err error) {
	document, err := p.startDocument(ctx, app)
	if err != nil {
		return indices, err
	}
	document.Trial = trial
	have, since := p.running(ctx, document, app.Instances, indices), time.Now()
	for len(indices) > 0 {
		placed, err := p.place(ctx, document, have, since, len(indices), func(n int, dea string) {
			document.Index = indices[n]
			p.Log.Info("starting an instance", "app", app.ID, "index", document.Index, "version", document.Version, "dea", dea)
			p.publish(wire.SubjectDEAStartOf(dea), document)
		})
		indices = indices[placed:]
		if err != nil {
			p.Log.Warn("no DEA for instances", "app", app.ID, "instances", len(indices), "memory_mb", app.Memory, "runtime", app.Runtime, "error", err)
			return indices, nil
		}
		// Whoever changes the app meanwhile does not wait until all are placed.
		now, err := p.Store.AppByID(ctx, app.ID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return indices, err
		}
		if err != nil || now.State != store.Started || !wanted(now) {
			return nil, nil
		}
		indices = slices.DeleteFunc(indices, func(index int) bool { return index >= now.Instances })
	}
	return nil, nil
}

// place gives up to n instances to DEAs, as long as their offers last. have counts
// the app's instances by DEA as they were at a time.
func (p *Placer) place(ctx context.Context, s wire.DEAStart, have map[string]int, since time.Time, n int, start func(n int, dea string)) (placed int, err error) {
	var offers []*offer
	if p.Config.Start.NewInitialPlacement {
		offers = p.pool.advertised(s, time.Now())
	} else if offers, err = p.offers(ctx, s, have, since, n); err != nil {
		return 0, err
	}
	if len(offers) == 0 {
		return 0, errors.New("none has enough memory and the runtime")
	}
	for ; placed < n; placed++ {
		dea := p.pool.give(offers, have, since, s.Droplet, s.Limits.Mem, time.Now())
		if dea == "" { // the offers are used up, by other requests too
			return placed, nil
		}
		start(placed, dea)
	}
	return placed, nil
}

// offers asks the DEAs who can run n instances. It waits for all that advertise room,
// or for one window if those that have answered take the instances without putting
// two of them where a silent DEA has fewer; else, and for the first offer, as long as
// the time-out says: a DEA that answers late, because its machine is busy, is not
// passed over. One that has not answered by then is not waited for again until it
// advertises.
func (p *Placer) offers(ctx context.Context, s wire.DEAStart, have map[string]int, since time.Time, n int) (offers []*offer, err error) {
	request, err := json.Marshal(wire.DEADiscover{
		Droplet: s.Droplet, Limits: s.Limits, Name: s.Name, Runtime: s.Runtime, RuntimeInfo: s.RuntimeInfo, Prod: s.Prod, SHA: s.SHA1,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot ask for a DEA: %w", err)
	}
	asked := time.Now()
	expected := p.pool.expected(s, asked)
	sub, err := p.ask(wire.SubjectDEADiscover, request)
	if err != nil {
		return nil, err
	}
	defer done(sub)
	for known := len(expected); known == 0 || len(expected) > 0; {
		until := asked.Add(window)
		if !p.pool.spread(offers, expected, have, since, s.Droplet, n) {
			until = asked.Add(max(window, p.Config.Start.Timeouts.Discover))
		}
		m, err := nextAnswer(ctx, sub, until)
		switch {
		case errors.Is(err, nats.ErrNoResponders):
			return offers, nil
		case err == nil && m == nil:
			if until.After(asked.Add(window)) {
				p.pool.silent(expected, asked)
			}
			return offers, nil
		case err != nil:
			return nil, fmt.Errorf("cannot wait for answers on %s: %w", wire.SubjectDEADiscover, err)
		}
		hello, err := wire.ParseDEAHello(m.Data)
		if err != nil {
			p.Log.Warn("ignoring a message", "subject", wire.SubjectDEADiscover, "error", err)
			continue
		}
		offers = append(offers, p.pool.offered(hello.ID, asked, time.Now()))
		delete(expected, hello.ID)
	}
	return offers, nil
}

// running counts by DEA the instances of an app of so many that stay when these
// indices are started. It waits until all other indices have answered, for one window.
func (p *Placer) running(ctx context.Context, document wire.DEAStart, instances int, indices []int) map[string]int {
	others := map[int]bool{}
	for index := range instances {
		if !slices.Contains(indices, index) {
			others[index] = true
		}
	}
	if len(others) == 0 {
		return map[string]int{}
	}
	request := wire.DEAFind{Droplet: document.Droplet, InstanceFilter: wire.InstanceFilter{States: []string{wire.StateStarting, wire.StateRunning}}}
	found, err := p.find(ctx, request, window, func(found []wire.DEAFound) bool {
		if last := found[len(found)-1]; last.Version == document.Version {
			delete(others, last.Index)
		}
		return len(others) == 0
	})
	if err != nil {
		p.Log.Warn("cannot ask where an app runs", "app", document.Droplet, "error", err)
	}
	return staying(found, document.Version, indices)
}

// staying counts by DEA the instances that are still there when instances of a version
// have started at these indices. Those of other versions give way where the version
// has an instance or gets one: who counts them puts two instances on one DEA.
func staying(found []wire.DEAFound, version string, indices []int) map[string]int {
	taken := map[int]bool{}
	for _, index := range indices {
		taken[index] = true
	}
	for _, f := range found {
		if f.Version == version {
			taken[f.Index] = true
		}
	}
	have := map[string]int{}
	for _, f := range found {
		if f.Version == version || !taken[f.Index] {
			have[f.DEA]++
		}
	}
	return have
}

// Instances asks the DEAs for all instances of an app, whatever version they are of,
// those that have crashed too. Those of a DEA that is slow are missing.
func (p *Placer) Instances(ctx context.Context, app store.App) ([]wire.DEAFound, error) {
	return p.find(ctx, wire.DEAFind{Droplet: model.ID(app), InstanceFilter: wire.InstanceFilter{
		States: []string{wire.StateStarting, wire.StateRunning, wire.StateCrashed},
	}}, window, func([]wire.DEAFound) bool { return false })
}

// updating returns how far an app's update has come, nil if none is under way.
func (p *Placer) updating(ctx context.Context, app store.App) (*store.Update, *rolling.Update, error) {
	u, err := p.Store.Updating(ctx, app.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var state rolling.Update
	if err := json.Unmarshal([]byte(u.State), &state); err != nil {
		return nil, nil, fmt.Errorf("the update of app %d is not readable: %w", app.ID, err)
	}
	return &u, &state, nil
}

// Follow makes the DEAs do what changed. An update that is under way sees by itself
// how many instances the app has. It returns the indices for which there is no room.
func (p *Placer) Follow(ctx context.Context, before, app store.App) (left []int, err error) {
	switch {
	case app.State != before.State && app.State == store.Started:
		p.Log.Info("app started", model.Attributes(app)...)
		if left, err = p.StartInstances(ctx, app, Indices(0, app.Instances), false); err != nil {
			return left, err
		}
		p.TellUpdated(app)
	case app.State != before.State:
		p.Log.Info("app stopped", model.Attributes(app)...)
		if err := p.Store.CancelUpdates(ctx, app.ID, "the app was stopped meanwhile"); err != nil {
			return nil, err
		}
		// Not those that have crashed: who stops an app does so to read why.
		p.Stop(wire.DEAStop{Droplet: model.ID(app), InstanceFilter: wire.InstanceFilter{States: []string{wire.StateStarting, wire.StateRunning}}})
		p.TellUpdated(app)
	case app.State != store.Started:
	case app.Instances > before.Instances:
		p.Log.Info("app scaled", model.Attributes(app)...)
		if under, _, err := p.updating(ctx, app); err != nil {
			return nil, err
		} else if under != nil {
			break
		}
		if left, err = p.StartInstances(ctx, app, Indices(before.Instances, app.Instances), false); err != nil {
			return left, err
		}
		p.TellUpdated(app)
	case app.Instances < before.Instances:
		p.Log.Info("app scaled", model.Attributes(app)...)
		p.Stop(wire.DEAStop{Droplet: model.ID(app), InstanceFilter: wire.InstanceFilter{Indices: Indices(app.Instances, before.Instances)}})
		p.TellUpdated(app)
	}
	if app.State == store.Started && before.State == store.Started && !slices.Equal(app.URIs, before.URIs) {
		return left, p.updateURIs(ctx, app)
	}
	return left, nil
}

// Indices returns the indexes from from up to, but not including, to.
func Indices(from, to int) []int {
	list := []int{}
	for i := from; i < to; i++ {
		list = append(list, i)
	}
	return list
}
