package updates

import (
	"context"
	"errors"
	"fmt"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// Restart replaces the instances of an app that runs, one by one, for what has changed
// around it. It brings in no files and no version that the owner has not brought in
// himself: where that would be so, an event tells the owner to restart the app.
func (u *Updates) Restart(ctx context.Context, appID int64, cause string) error {
	app, err := u.Store.AppByID(ctx, appID)
	if errors.Is(err, store.ErrNotFound) || err == nil && app.State != store.Started {
		return nil
	}
	if err != nil {
		return err
	}
	running, err := u.Store.Updating(ctx, appID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	held := err == nil && running.Hold > 0
	if held || app.PackageState != store.Staged || app.DropletHash == "" {
		return u.Store.NoteEvent(ctx, appID, "", cause+"; restart the app to let it have that")
	}
	_, err = u.Begin(ctx, app, Request{Cause: cause}, nil)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrStale): // stopped or pushed meanwhile
		return nil
	case err != nil:
		return fmt.Errorf("cannot restart an app: %w", err)
	}
	return u.Store.NoteEvent(ctx, appID, "", "restart begun: "+cause)
}
