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
)

// watchPause is between two looks at a version that is watched; crashes are told of
// at once.
const watchPause = 2 * time.Second

// beginWatch goes from the update to the watch over its version. A controller that
// takes a watch over watches anew: rather longer than less.
func (d *driver) beginWatch(state rolling.Update) {
	d.machine, d.watch = nil, rolling.ResumeWatch(state)
	d.watchEnds = time.Now().Add(d.Config.Now().Update.WatchTime)
}

// watched looks once at the instances of a version whose update is done, and takes
// it back if it proves bad.
func (d *driver) watched(ctx context.Context) error {
	app, err := d.Store.AppByID(ctx, d.update.AppID)
	if errors.Is(err, store.ErrNotFound) {
		return errOver
	}
	if err != nil {
		return err
	}
	looked, err := d.look(ctx, app)
	if err != nil {
		return err
	}
	for _, e := range append(d.arrived(), looked) {
		if reason := d.watch.Step(e, app.Instances); reason != "" {
			return d.takeBack(ctx, app, reason)
		}
	}
	if time.Now().After(d.watchEnds) {
		if err := d.Store.EndWatch(ctx, d.update); err != nil && !errors.Is(err, store.ErrStale) {
			return err
		}
		return errOver
	}
	if d.watch.Changed() || time.Since(d.saved) > beatEvery {
		return d.saveState(ctx, d.watch.Update)
	}
	return nil
}

// takeBack brings the release before a version that proves bad back, by an update
// like any other.
func (d *driver) takeBack(ctx context.Context, app store.App, reason string) error {
	data, err := json.Marshal(d.watch.Update)
	if err != nil {
		return fmt.Errorf("cannot write the update's state: %w", err)
	}
	bad := d.update
	bad.Reason, bad.State = reason, string(data)
	cause := fmt.Sprintf("back to release %d: %s", d.previous.Number, reason)
	// A new version that fails is no reason to refuse the old one: no limits.
	update, err := d.Begin(ctx, app, Request{Cause: cause, Back: &d.previous, takesBack: &bad}, nil)
	switch {
	case errors.Is(err, store.ErrStale), errors.Is(err, store.ErrNotFound):
		return errOver // it was updated or stopped in this moment
	case err != nil:
		return err
	}
	d.Log.Warn("a new version crashes; returning to the previous one", append(model.Attributes(app), "update", bad.RunCount, "by", update.RunCount, "reason", reason)...)
	if err := d.Store.NoteEvent(ctx, app.ID, app.OwnerEmail, fmt.Sprintf("update %d begun by itself: %s", update.RunCount, cause)); err != nil {
		d.Log.Warn("cannot keep an event of an app", "app", app.ID, "error", err)
	}
	return errOver
}
