// Package updates carries the updates of apps out: it begins them, and drives those
// that this controller holds. What is done next decides package rolling; who does it
// decides the database, where each update has one holder.
package updates

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/placement"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rolling"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

const (
	// lookEvery is the interval at which it is looked for updates that nobody holds, and beatEvery
	// how often a holder shows that it lives.
	lookEvery = time.Second
	beatEvery = time.Second
	// takeOver is for how long an update's holder may show no sign of life, by the
	// clock of who watches it, before another one claims the update. A holder that is
	// slow only loses the update: what it writes afterwards is refused.
	takeOver = 10 * time.Second
	// maxExits is the number of exits that may wait for a driver; more are found by looking.
	maxExits = 256
)

// Deps are the parts that updates work with.
type Deps struct {
	Config *config.Live
	Log    *slog.Logger
	Bus    *nats.Conn
	Store  *store.Store
	Placer *placement.Placer
	Holder string // names this run of the controller
}

// Updates carries updates out.
type Updates struct {
	Deps

	mu      sync.Mutex
	ctx     context.Context // of the drivers; nil: not serving yet
	drivers map[key]*driver
	scaled  map[int64]int // apps that were scaled down, with the looks at each that are left
	group   sync.WaitGroup
	leaving bool
}

// key names an update.
type key struct {
	app      int64
	runCount int
}

// New returns an Updates that drives nothing yet.
func New(d Deps) *Updates {
	return &Updates{Deps: d, drivers: map[key]*driver{}, scaled: map[int64]int{}}
}

// Request describes what an update is to bring.
type Request struct {
	Cause string
	// Back is the release to go back to; nil: App as it is on record, with its droplet
	// and package as they were staged.
	Back *store.Release
	Hold int // instances to replace before it waits to be promoted; 0: it does not
	// takesBack is the update whose version Back takes away again; nil: none.
	takesBack *store.Update
	rebalance *store.Turn // nil: it is none
}

// Begin begins an update of a started app, and returns it. It takes the place of one
// that is under way. store.ErrStale if the app has other files by now,
// store.ErrNotFound if it was stopped.
func (u *Updates) Begin(ctx context.Context, app store.App, r Request, limits store.Limits) (store.Update, error) {
	now, update, err := u.Store.Begin(ctx, app, store.Beginning{
		Cause: r.Cause, DropletHash: app.DropletHash, PackageHash: app.PackageHash, Back: r.Back, Hold: r.Hold, Holder: u.Holder, State: r.firstState, TakesBack: r.takesBack, Rebalance: r.rebalance,
	}, limits)
	if err != nil {
		return update, err
	}
	u.Log.Info("update begun", append(model.Attributes(now), "update", update.RunCount, "cause", r.Cause)...)
	u.Placer.TellUpdated(now)
	u.begin(update)
	return update, nil
}

// firstState writes the state of an update that begins, as it is saved. Who goes back
// to a release has chosen it: only what is new is watched, and only if there is
// another one to go back to.
func (r Request) firstState(app store.App, previous, next store.Release, others []store.Update) (string, error) {
	var versions []string
	for _, other := range others {
		state, err := State(other)
		if err != nil {
			return "", err
		}
		versions = append(versions, state.Target)
		versions = append(versions, state.Others...)
	}
	first := rolling.New(model.Version(next.Of(app)), model.Version(previous.Of(app)), versions, app.Instances)
	first.Rebalance = r.rebalance != nil
	first.Watch = r.Back == nil && next.Number != previous.Number
	data, err := json.Marshal(first)
	return string(data), err
}

// begin drives an update that this controller holds.
func (u *Updates) begin(update store.Update) {
	u.mu.Lock()
	defer u.mu.Unlock()
	at := key{update.AppID, update.RunCount}
	if u.ctx == nil || u.leaving || u.drivers[at] != nil {
		return // whoever looks for updates that nobody drives finds it
	}
	d := &driver{Updates: u, update: update, events: make(chan rolling.Event, maxExits), poke: make(chan struct{}, 1)}
	u.drivers[at] = d
	ctx := u.ctx
	u.group.Go(func() {
		defer func() {
			u.mu.Lock()
			delete(u.drivers, at)
			u.mu.Unlock()
		}()
		d.run(ctx)
	})
}

// Serve drives updates until ctx ends, and watches over those that are done: those
// that begin here, and those whose holder is no more.
func (u *Updates) Serve(ctx context.Context) error {
	for subject, handle := range map[string]nats.MsgHandler{
		wire.SubjectDropletExited: u.exited,
		wire.SubjectDEAHeartbeat:  u.heard,
	} {
		sub, err := u.Bus.Subscribe(subject, handle)
		if err != nil {
			return fmt.Errorf("cannot subscribe %s: %w", subject, err)
		}
		defer func() { _ = sub.Unsubscribe() }() // fails only with the connection
	}
	u.mu.Lock()
	u.ctx = ctx
	u.mu.Unlock()
	defer u.group.Wait()
	// Not of the group, for which Leave waits long before ctx ends.
	var rebalancing sync.WaitGroup
	defer rebalancing.Wait()
	rebalancing.Go(func() { u.rebalance(ctx) })
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	seen := map[key]sign{}
	for {
		u.adopt(ctx, seen)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Leave gives up all updates that this controller holds, for another one to go on
// with at once, and takes none any more.
func (u *Updates) Leave() {
	u.mu.Lock()
	u.leaving = true
	for _, d := range u.drivers {
		d.wake()
	}
	u.mu.Unlock()
	u.group.Wait()
}

func (u *Updates) leaves() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.leaving
}

// sign is the last sign of life of an update's holder.
type sign struct {
	claim, beat int
	at          time.Time // when it was seen first
}

// adopt claims updates whose holder shows no sign of life.
func (u *Updates) adopt(ctx context.Context, seen map[key]sign) {
	list, err := u.Store.AllDriven(ctx)
	if err != nil {
		if ctx.Err() == nil {
			u.Log.Warn("cannot look up updates", "error", err)
		}
		return
	}
	there := map[key]bool{}
	for _, update := range list {
		at := key{update.AppID, update.RunCount}
		there[at] = true
		last, known := seen[at]
		if !known || last.claim != update.Claim || last.beat != update.Beat {
			last = sign{update.Claim, update.Beat, time.Now()}
			seen[at] = last
		}
		u.mu.Lock()
		mine := u.drivers[at] != nil || u.leaving
		u.mu.Unlock()
		// One that began here before this controller served has nobody else either.
		if mine || update.Holder != "" && update.Holder != u.Holder && time.Since(last.at) < takeOver {
			continue
		}
		from := update.Holder
		if err := u.Store.ClaimUpdate(ctx, &update, u.Holder); err != nil {
			if !errors.Is(err, store.ErrStale) {
				u.Log.Warn("cannot claim an update", "app", update.AppID, "error", err)
			}
			continue
		}
		u.Log.Info("update taken over", "app", update.AppID, "update", update.RunCount, "from", from)
		u.begin(update)
	}
	for at := range seen {
		if !there[at] {
			delete(seen, at)
		}
	}
}

// of calls f for the drivers of an app.
func (u *Updates) of(droplet wire.ID, f func(*driver)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for at, d := range u.drivers {
		if droplet == model.ID(store.App{Identity: store.Identity{ID: at.app}}) {
			f(d)
		}
	}
}

// exited hands the end of an instance to whoever updates its app.
func (u *Updates) exited(m *nats.Msg) {
	e, err := wire.ParseDropletExited(m.Data)
	if err != nil || e.Reason == wire.ReasonStopped {
		return // the health manager says what cannot be read
	}
	u.of(e.Droplet, func(d *driver) {
		select {
		case d.events <- rolling.Exited{
			ID: e.Instance, Version: e.Version, Index: e.Index, Crashed: e.Reason == wire.ReasonCrashed,
			Gone: e.Reason == wire.ReasonShutdown || e.Reason == wire.ReasonEvacuation, Why: e.ExitDescription,
		}:
		default:
		}
		d.wake()
	})
}

// heard wakes those whose app a DEA has news of.
func (u *Updates) heard(m *nats.Msg) {
	h, err := wire.ParseDEAHeartbeat(m.Data)
	if err != nil {
		return
	}
	var droplets []wire.ID
	for _, i := range h.Droplets {
		if !slices.Contains(droplets, i.Droplet) {
			droplets = append(droplets, i.Droplet)
		}
	}
	for _, droplet := range droplets {
		u.of(droplet, (*driver).wake)
	}
}

// Targets returns the versions that updates under way bring in, by app. Where one
// goes back, it is the version that it takes away again.
func (u *Updates) Targets(ctx context.Context) (map[int64]string, error) {
	list, err := u.Store.AllUpdating(ctx)
	if err != nil {
		return nil, err
	}
	targets := map[int64]string{}
	for _, update := range list {
		state, err := State(update)
		if err != nil {
			return nil, err
		}
		targets[update.AppID] = state.Target
		if state.Back {
			targets[update.AppID] = state.Previous
		}
	}
	return targets, nil
}

// State returns how far an update has come.
func State(update store.Update) (state rolling.Update, err error) {
	if err := json.Unmarshal([]byte(update.State), &state); err != nil {
		return state, fmt.Errorf("the update of app %d is not readable: %w", update.AppID, err)
	}
	return state, nil
}
