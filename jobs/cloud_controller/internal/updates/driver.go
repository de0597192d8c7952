package updates

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rolling"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// pause is between two looks at an app's instances, and longPause after one that
// failed.
const (
	pause     = 200 * time.Millisecond
	longPause = time.Second
)

// driver carries one update out.
type driver struct {
	*Updates
	update         store.Update
	next, previous store.Release
	machine        *rolling.Machine
	watch          *rolling.Watch // instead, when the update is done
	watchEnds      time.Time
	settings       rolling.Settings
	saved          time.Time
	events         chan rolling.Event
	poke           chan struct{} // look now
}

func (d *driver) wake() {
	select {
	case d.poke <- struct{}{}:
	default:
	}
}

// errOver says that the update is over, or another controller's.
var errOver = errors.New("the update is over")

// run drives the update until it is over, or ctx is.
func (d *driver) run(ctx context.Context) {
	log := d.Log.With("app", d.update.AppID, "update", d.update.RunCount)
	for wait := time.Duration(0); ; {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-d.poke:
			timer.Stop()
		case <-timer.C:
		}
		if d.leaves() {
			give, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			if err := d.Store.ReleaseUpdate(give, d.update); err != nil {
				log.Warn("another controller will take over an update", "error", err)
			}
			cancel()
			return
		}
		err := d.round(ctx)
		wait = pause
		if d.watch != nil {
			wait = watchPause
		}
		switch {
		case errors.Is(err, errOver):
			return
		case err != nil && ctx.Err() == nil:
			// What was not saved was not done either: it goes on from what was.
			log.Warn("an update waits", "error", err)
			d.machine, d.watch = nil, nil
			wait = longPause
		}
	}
}

// load reads what the update is about, and how far it has come.
func (d *driver) load(ctx context.Context) (err error) {
	now, err := d.Store.Update(ctx, d.update.AppID, d.update.RunCount)
	if err == nil && (now.Status != store.Updating && now.Watching == 0 || now.Claim != d.update.Claim) || errors.Is(err, store.ErrNotFound) {
		return errOver
	}
	if err != nil {
		return err
	}
	d.update = now
	if d.next, err = d.Store.Release(ctx, now.AppID, now.RunCount); err != nil {
		return err
	}
	if d.previous, err = d.Store.Release(ctx, now.AppID, now.Previous); err != nil {
		return err
	}
	state, err := State(now)
	if err != nil {
		return err
	}
	if !state.Back {
		state.Hold = now.Hold
	}
	if now.Status != store.Updating {
		d.beginWatch(state)
		return nil
	}
	c := d.Config.Now().Update
	d.settings = rolling.DefaultSettings(c.MaxInFlight, c.MinHealthyTime)
	d.machine = rolling.Resume(state, d.settings)
	return nil
}

// round looks once at the app and its instances, and does what follows.
func (d *driver) round(ctx context.Context) error {
	if d.machine == nil && d.watch == nil {
		if err := d.load(ctx); err != nil {
			return err
		}
	}
	if d.watch != nil {
		return d.watched(ctx)
	}
	app, err := d.Store.AppByID(ctx, d.update.AppID)
	if errors.Is(err, store.ErrNotFound) {
		return errOver
	}
	if err != nil {
		return err
	}
	if d.machine.Held() {
		now, err := d.Store.Update(ctx, d.update.AppID, d.update.RunCount)
		if err != nil {
			return err
		}
		if now.Hold == 0 {
			if err := d.step(ctx, app, rolling.Promoted{}); err != nil {
				return err
			}
		}
	}
	events := append([]rolling.Event{rolling.Scaled{Instances: app.Instances}}, d.arrived()...)
	looked, err := d.look(ctx, app)
	if err != nil {
		return err
	}
	for _, e := range append(events, looked) {
		if err := d.step(ctx, app, e); err != nil {
			return err
		}
	}
	if d.machine.Outcome != rolling.Running {
		return d.finish(ctx)
	}
	if time.Since(d.saved) > beatEvery {
		return d.save(ctx)
	}
	return nil
}

// arrived returns the events that have come since the last call.
func (d *driver) arrived() (events []rolling.Event) {
	for {
		select {
		case e := <-d.events:
			events = append(events, e)
		default:
			return events
		}
	}
}

func (d *driver) look(ctx context.Context, app store.App) (rolling.Looked, error) {
	found, err := d.Placer.Instances(ctx, app)
	var l rolling.Looked
	for _, f := range found {
		l.Instances = append(l.Instances, rolling.Instance{
			ID: f.Instance, Version: f.Version, Index: f.Index, Running: f.State == wire.StateRunning, Crashed: f.State == wire.StateCrashed,
			Proven: time.Duration(f.MinHealthy*float64(time.Second)) >= d.settings.MinHealthy,
		})
	}
	return l, err
}

// step takes an event: what follows from it is saved, and then done.
func (d *driver) step(ctx context.Context, app store.App, e rolling.Event) error {
	wasBack := d.machine.Back
	actions := d.machine.Step(time.Now(), e)
	if d.machine.Back && !wasBack {
		d.Log.Warn("the new version fails; returning to the previous one", "app", app.ID, "name", app.Name, "update", d.update.RunCount, "reason", d.machine.Reason)
	}
	if d.machine.Changed() && d.machine.Outcome == rolling.Running {
		if err := d.save(ctx); err != nil {
			return err
		}
	}
	for _, action := range actions {
		switch a := action.(type) {
		case rolling.Stop:
			d.stop(app, a)
		case rolling.Start:
			if err := d.start(ctx, app, a); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *driver) stop(app store.App, a rolling.Stop) {
	filter := wire.InstanceFilter{States: []string{wire.StateStarting, wire.StateRunning}} // the logs of a crash stay
	if a.Index != rolling.Everywhere {
		filter.Indices = []int{a.Index}
		d.Log.Info("stopping what was replaced", "app", app.ID, "index", a.Index, "versions", a.Versions)
	}
	for _, filter.Version = range a.Versions {
		d.Placer.Stop(wire.DEAStop{Droplet: model.ID(app), InstanceFilter: filter})
	}
}

func (d *driver) start(ctx context.Context, app store.App, a rolling.Start) error {
	as := d.next.Of(app)
	if model.Version(as) != a.Version {
		as = d.previous.Of(app)
	}
	if model.Version(as) != a.Version {
		return fmt.Errorf("nothing is known of version %s", a.Version)
	}
	var trial wire.Trial
	if a.Watched {
		trial.MinHealthy = d.settings.MinHealthy.Seconds()
	}
	left, err := d.Placer.Place(ctx, as, a.Indices, trial, func(store.App) bool { return true })
	if err != nil || len(left) == 0 {
		return err
	}
	why := d.Placer.NoRoom(as)
	if d.machine.Count() == 0 {
		why += ". Nothing was stopped. Free some memory, or say --now: then all old instances stop before the new ones start"
	}
	return d.step(ctx, app, rolling.NoRoom{Indices: left, Why: why})
}

func (d *driver) save(ctx context.Context) error { return d.saveState(ctx, d.machine.Update) }

func (d *driver) saveState(ctx context.Context, u rolling.Update) error {
	data, err := json.Marshal(u)
	if err != nil {
		return fmt.Errorf("cannot write the update's state: %w", err)
	}
	d.update.State = string(data)
	err = d.Store.SaveUpdate(ctx, d.update)
	if errors.Is(err, store.ErrStale) {
		return errOver
	}
	if err == nil {
		d.saved = time.Now()
	}
	return err
}

// finish puts on record what came of the update.
func (d *driver) finish(ctx context.Context) error {
	data, err := json.Marshal(d.machine.Update)
	if err != nil {
		return fmt.Errorf("cannot write the update's state: %w", err)
	}
	d.update.State, d.update.Status, d.update.Reason = string(data), store.Updated, ""
	if d.machine.Outcome == rolling.Undone {
		d.update.Status, d.update.Reason = store.Undone, d.machine.Reason
	}
	d.update.Watching = 0
	if d.machine.Outcome == rolling.Done && d.machine.Watch && d.Config.Now().Update.WatchTime > 0 {
		d.update.Watching = 1
	}
	app, err := d.Store.FinishUpdate(ctx, d.update)
	if errors.Is(err, store.ErrStale) {
		// It is over, or the app was changed in this moment: then once more.
		d.machine = nil
		return d.load(ctx)
	}
	if err != nil {
		return err
	}
	d.Log.Info("update ended", append(model.Attributes(app), "update", d.update.RunCount, "status", d.update.Status, "reason", d.update.Reason)...)
	text := fmt.Sprintf("update %d ended: %s", d.update.RunCount, d.update.Status)
	if d.update.Reason != "" {
		text += ": " + d.update.Reason
	}
	if err := d.Store.NoteEvent(ctx, app.ID, app.OwnerEmail, text); err != nil {
		d.Log.Warn("cannot keep an event of an app", "app", app.ID, "error", err)
	}
	d.Placer.TellUpdated(app)
	if d.update.Watching == 0 {
		return errOver
	}
	d.beginWatch(d.machine.Update)
	return nil
}
