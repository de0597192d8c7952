package updates

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// appsALook is the number of apps about which one look for an uneven app asks the DEAs.
const appsALook = 20

// pace decides when the next app may be spread anew, and which has had its turn. It is
// pure: the time is given.
type pace struct {
	turn  store.Turn
	since time.Time // of turn, by this controller's clock; zero: none was seen yet
	// tried has how many DEAs had joined when an app was spread anew. If it is still
	// uneven, another try is of no use before one more has.
	tried map[int64]int
	after int64 // the app that was looked at last
}

// saw takes the present turn.
func (p *pace) saw(turn store.Turn, joined int, now time.Time) {
	if !p.since.IsZero() && turn == p.turn {
		return
	}
	if p.tried == nil {
		p.tried = map[int64]int{}
	}
	p.turn, p.since = turn, now
	p.tried[turn.AppID] = joined
}

// due reports whether an app may be spread anew: none was for so long, by whichever
// controller, and the DEAs are as they are for as long.
func (p *pace) due(every time.Duration, changed, now time.Time) bool {
	return every > 0 && !p.since.IsZero() && now.Sub(p.since) >= every && now.Sub(changed) >= every
}

// may reports whether an app may have a turn.
func (p *pace) may(app store.App, joined int) bool {
	at, tried := p.tried[app.ID]
	return app.State == store.Started && app.Instances > 1 && (!tried || at < joined)
}

// rebalance spreads the instances of apps over the DEAs anew where DEAs that came back
// made room: one app at a time, by an update that changes nothing else.
func (u *Updates) rebalance(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for p := (pace{}); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := u.spreadScaled(ctx); err != nil && ctx.Err() == nil {
			u.Log.Warn("cannot spread apps that were scaled down", "error", err)
		}
		every := u.Config.Now().Update.RebalanceEvery
		if every == 0 || u.leaves() {
			p = pace{}
			continue
		}
		if err := u.rebalanceOne(ctx, &p, every); err != nil && ctx.Err() == nil {
			u.Log.Warn("cannot rebalance apps", "error", err)
		}
	}
}

// rebalanceOne looks at some apps, and spreads the first uneven one anew.
func (u *Updates) rebalanceOne(ctx context.Context, p *pace, every time.Duration) error {
	joined, changed := u.Placer.Joined()
	turn, err := u.Store.Turn(ctx)
	if err != nil {
		return err
	}
	p.saw(turn, joined, time.Now())
	if !p.due(every, changed, time.Now()) {
		return nil
	}
	under, err := u.Store.AllUpdating(ctx)
	if err != nil {
		return err
	}
	updating := map[int64]bool{}
	for _, update := range under {
		state, err := State(update)
		if err != nil {
			return err
		}
		if state.Rebalance {
			return nil // one at a time
		}
		updating[update.AppID] = true
	}
	apps, err := u.Store.AppsAfter(ctx, p.after, appsALook)
	if err != nil {
		return err
	}
	if len(apps) == 0 {
		p.after = 0
	}
	for _, app := range apps {
		p.after = app.ID
		if updating[app.ID] || !p.may(app, joined) {
			continue
		}
		uneven, _, err := u.Placer.Uneven(ctx, app)
		if err != nil {
			return err
		}
		if uneven {
			_, err := u.beginRebalance(ctx, app, turn)
			return err
		}
	}
	return nil
}

// scaledLooks is the number of looks, one each lookEvery, at an app that was scaled down:
// longer than an update is watched, which goes first.
const scaledLooks = 120

// ScaledDown has the instances that are left of an app spread anew if they share a DEA
// while another one with room has fewer: the highest indices end, wherever they run.
func (u *Updates) ScaledDown(app store.App) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.scaled[app.ID] = scaledLooks
}

// Spreads reports whether there are apps that were scaled down and may be spread anew.
func (u *Updates) Spreads() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.scaled) > 0
}

// spreadScaled looks at some apps that were scaled down.
func (u *Updates) spreadScaled(ctx context.Context) error {
	if u.leaves() || u.Config.Now().Update.Strategy == config.Now {
		return nil
	}
	u.mu.Lock()
	var ids []int64
	for id := range u.scaled {
		if u.scaled[id]--; u.scaled[id] == 0 {
			delete(u.scaled, id)
		}
		if ids = append(ids, id); len(ids) == appsALook {
			break
		}
	}
	u.mu.Unlock()
	for _, id := range ids {
		over, err := u.spreadOne(ctx, id)
		if err != nil {
			return err
		}
		if over {
			u.mu.Lock()
			delete(u.scaled, id)
			u.mu.Unlock()
		}
	}
	return nil
}

// spreadOne spreads an app anew if it is uneven, and reports whether no further look is
// of use.
func (u *Updates) spreadOne(ctx context.Context, id int64) (over bool, err error) {
	app, err := u.Store.AppByID(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	turn, err := u.Store.Turn(ctx)
	if err != nil {
		return false, err
	}
	uneven, known, err := u.Placer.Uneven(ctx, app)
	if err != nil || !uneven {
		return known, err
	}
	return u.beginRebalance(ctx, app, turn)
}

// beginRebalance begins an update that spreads an app anew, if the turn is the last and
// nothing else is done to the app.
func (u *Updates) beginRebalance(ctx context.Context, app store.App, turn store.Turn) (begun bool, err error) {
	const cause = "rebalance: a DEA with fewer instances of the app has room"
	// Where an account's limits were lowered, what runs may run elsewhere.
	update, err := u.Begin(ctx, app, Request{Cause: cause, rebalance: &turn}, nil)
	switch {
	case errors.Is(err, store.ErrStale), errors.Is(err, store.ErrNotFound):
		return false, nil // another controller was first, or the app was changed in this moment
	case err != nil:
		return false, err
	}
	if err := u.Store.NoteEvent(ctx, app.ID, app.OwnerEmail, fmt.Sprintf("update %d begun by itself: %s", update.RunCount, cause)); err != nil {
		u.Log.Warn("cannot keep an event of an app", append(model.Attributes(app), "error", err)...)
	}
	return true, nil
}
