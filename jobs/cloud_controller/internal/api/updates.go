package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/config"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/placement"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/updates"
	"github.com/clusterworks/deploy/jobs/wire"
)

// maxCause bounds what an update says of its cause, in bytes.
const maxCause = 200

// updateServer answers what is asked of updates and releases.
type updateServer struct{ *Server }

// updateRequest is the body of PUT /apps/:app/update, ours only: the original's
// clients send none.
type updateRequest struct {
	Cause   string `json:"cause"`
	Now     *bool  `json:"now"`     // nil: as the controller is configured
	Release int    `json:"release"` // to go back to; 0: the present files and settings
	Canary  int    `json:"canary"`  // instances to replace before it waits to be promoted
	Promote bool   `json:"promote"` // ends that wait; nothing else is read
	Package string `json:"package"` // sha1 of the files that are meant; "": those that there are
}

// updateDocument is an update as clients read it.
type updateDocument struct {
	ID        int    `json:"id"`
	Status    string `json:"status"` // running, done, undone, superseded, cancelled
	Reason    string `json:"reason,omitempty"`
	Version   string `json:"version"`
	Previous  string `json:"previous"`
	Instances int    `json:"instances"`
	Replaced  int    `json:"replaced"`          // instances of the version that is to run
	Back      bool   `json:"back"`              // that is the previous one again
	Canary    int    `json:"canary,omitempty"`  // instances after which it waits to be promoted; 0: it does not
	Held      bool   `json:"held"`              // it waits so
	Failed    string `json:"failed,omitempty"`  // id of the instance that is the reason
	Watching  bool   `json:"watching"`          // it is done; if its version crashes now, the one before comes back
	WatchS    int    `json:"watch_s,omitempty"` // for how long that is so, in seconds, from the end of the update on
}

func (s updateServer) describe(u store.Update) (updateDocument, error) {
	state, err := updates.State(u)
	if err != nil {
		return updateDocument{}, err
	}
	doc := updateDocument{
		ID: u.RunCount, Status: u.Status, Reason: u.Reason, Version: state.Target, Previous: state.Previous,
		Instances: len(state.Indices), Replaced: state.Count(), Back: state.Back, Canary: u.Hold, Held: state.Held() && u.Hold > 0, Failed: state.Failed,
	}
	if u.Watching != 0 {
		doc.Watching, doc.WatchS = true, int(s.Config.Now().Update.WatchTime.Seconds())
	}
	if state.Back {
		doc.Version, doc.Previous = state.Previous, state.Target
		doc.Reason = state.Reason
	}
	return doc, nil
}

// statesOfUpdates are the original's words for what becomes of an update.
var statesOfUpdates = map[string]string{
	store.Updating: "UPDATING", store.Updated: "SUCCEEDED", store.Undone: "CANARY_FAILED", store.Superseded: "CANARY_FAILED", store.Cancelled: "CANARY_FAILED",
}

// getUpdate tells how far the last update of an app has come, in the original's
// words.
func (s updateServer) getUpdate(w http.ResponseWriter, r *http.Request, _ model.Account, app store.App) error {
	list, err := s.Store.Updates(r.Context(), app.ID)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		rest.WriteJSON(w, http.StatusOK, map[string]any{"state": "NONE", "since": app.UpdatedAt})
		return nil
	}
	doc, err := s.describe(list[0])
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, map[string]any{"state": statesOfUpdates[list[0].Status], "since": list[0].UpdatedAt, "update": doc})
	return nil
}

// getUpdateOf tells how far one update has come, and what became of it.
func (s updateServer) getUpdateOf(w http.ResponseWriter, r *http.Request, _ model.Account, app store.App) error {
	id, err := strconv.Atoi(r.PathValue("id"))
	var update store.Update
	if err == nil {
		update, err = s.Store.Update(r.Context(), app.ID, id)
	}
	if errors.Is(err, strconv.ErrSyntax) || errors.Is(err, strconv.ErrRange) || errors.Is(err, store.ErrNotFound) {
		return model.Because(model.ErrBadRequest, "%s has no update %q", app.Name, r.PathValue("id"))
	}
	if err != nil {
		return err
	}
	doc, err := s.describe(update)
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, doc)
	return nil
}

// putUpdate takes a running app's new files and settings into use. It answers when
// the update has begun; getUpdate tells the rest.
func (s updateServer) putUpdate(w http.ResponseWriter, r *http.Request, a model.Account, app store.App) error {
	var body updateRequest
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, rest.MaxBody))
	if err != nil {
		return model.Because(model.ErrBadRequest, "cannot read the body: %v", err)
	}
	ours := len(bytes.TrimSpace(text)) > 0
	if ours {
		if err := json.Unmarshal(text, &body); err != nil {
			return model.Because(model.ErrBadRequest, "the body is not the JSON that is wanted: %v", err)
		}
	}
	if app.State != store.Started {
		return model.ErrAppStopped
	}
	ctx, cancel := s.Frame.Detached(r)
	defer cancel()
	if body.Promote {
		return s.promote(w, r, app)
	}
	if body.Release == 0 && body.Package == "" {
		if err := s.noCanary(ctx, app); err != nil {
			return err
		}
	}
	if err := s.countStarts(ctx, w, a, app, app.Instances); err != nil {
		return err
	}
	// It is kept, by a database that takes no NUL.
	cause := strings.ToValidUTF8(strings.ReplaceAll(body.Cause[:min(len(body.Cause), maxCause)], "\x00", ""), "")
	request := updates.Request{Cause: cause, Hold: body.Canary}
	if request.Cause == "" {
		request.Cause = "update"
	}
	if body.Canary < 0 {
		return model.Because(model.ErrBadRequest, "a canary of %d instances", body.Canary)
	}
	if body.Release != 0 {
		release, err := s.release(r, app, body.Release)
		if err != nil {
			return err
		}
		request.Back = &release
		request.Cause = fmt.Sprintf("back to release %d", body.Release)
	} else {
		if err := samePackage(app, body.Package); err != nil {
			return err
		}
		if app, err = s.Staging.Staged(ctx, app); err != nil {
			return err
		}
	}
	now := s.Config.Now().Update.Strategy == config.Now
	if body.Now != nil {
		now = *body.Now
	}
	if now {
		noRoom, err := s.updateNow(ctx, a, app, request)
		if err != nil {
			return err
		}
		if ours {
			rest.WriteJSON(w, http.StatusOK, updateDocument{Status: store.Updated, Reason: noRoom})
		} else {
			w.WriteHeader(http.StatusNoContent)
		}
		return nil
	}
	update, err := s.Updates.Begin(ctx, app, request, limits(a))
	switch {
	case errors.Is(err, store.ErrStale):
		return errLaterPush()
	case errors.Is(err, store.ErrNotFound):
		return model.ErrAppStopped
	case err != nil:
		return model.AppError(err)
	}
	s.note(ctx, a, app, fmt.Sprintf("update %d begun: %s", update.RunCount, request.Cause))
	if !ours {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	doc, err := s.describe(update)
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, doc)
	return nil
}

// noCanary refuses an update that names no files while another one waits to be promoted:
// it would bring the canary's files to all instances.
func (s updateServer) noCanary(ctx context.Context, app store.App) error {
	under, err := s.Store.Updating(ctx, app.ID)
	if errors.Is(err, store.ErrNotFound) || err == nil && under.Hold == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	return model.Because(model.ErrBadRequest, "a canary of %s waits, and a restart would bring its files to all instances: promote it or roll it back first", app.Name)
}

// packageHeader has the sha1 of the package that an upload has made.
const packageHeader = "X-App-Package"

func errLaterPush() error {
	return model.Because(model.ErrLocking, "other files were pushed meanwhile, and the later push wins")
}

// samePackage refuses what is meant for files other than those that the app has by
// now: of two pushes at once the later one wins, and the earlier one must not take
// the other's files for its own.
func samePackage(app store.App, meant string) error {
	if meant != "" && meant != app.PackageHash {
		return errLaterPush()
	}
	return nil
}

// release finds a release by the number that users know it by.
func (s updateServer) release(r *http.Request, app store.App, number int) (store.Release, error) {
	list, err := s.Store.Releases(r.Context(), app.ID)
	if err != nil {
		return store.Release{}, err
	}
	for _, release := range list {
		if release.Number == number {
			return release, nil
		}
	}
	return store.Release{}, model.Because(model.ErrBadRequest, "%s has no release %d any more", app.Name, number)
}

// promote lets an update go on that waits for it.
func (s updateServer) promote(w http.ResponseWriter, r *http.Request, app store.App) error {
	update, err := s.Store.Updating(r.Context(), app.ID)
	if err == nil {
		err = s.Store.PromoteUpdate(r.Context(), update)
	}
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrStale) {
		return model.Because(model.ErrBadRequest, "no update of %s waits to be promoted", app.Name)
	}
	if err != nil {
		return err
	}
	update.Hold = 0
	doc, err := s.describe(update)
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, doc)
	return nil
}

// updateNow is the original's update: all instances are stopped, then started. It
// returns why some cannot start, "" if none.
func (s updateServer) updateNow(ctx context.Context, a model.Account, app store.App, request updates.Request) (noRoom string, err error) {
	if request.Back != nil {
		app = request.Back.Of(app)
	}
	if err := s.Store.StartApp(ctx, &app, request.Cause, limits(a)); err != nil {
		return "", model.AppError(err)
	}
	s.note(ctx, a, app, "updated to version "+model.Version(app)+", all instances at once")
	s.Log.Info("app updated at once", model.Attributes(app)...)
	s.Placer.Stop(wire.DEAStop{Droplet: model.ID(app), InstanceFilter: wire.InstanceFilter{States: []string{wire.StateStarting, wire.StateRunning}}})
	left, err := s.Placer.StartInstances(ctx, app, placement.Indices(0, app.Instances), false)
	if err != nil {
		return "", err
	}
	s.Placer.TellUpdated(app)
	return s.noRoom(ctx, a, app, left), nil
}

// version returns the version that an app's instances are looked for by: "" while
// an update is under way, when there are instances of two.
func (s *Server) version(ctx context.Context, app store.App) (string, error) {
	_, err := s.Store.Updating(ctx, app.ID)
	if errors.Is(err, store.ErrNotFound) {
		return model.Version(app), nil
	}
	return "", err
}

// getReleases lists what an app can go back to, the newest first.
func (s updateServer) getReleases(w http.ResponseWriter, r *http.Request, _ model.Account, app store.App) error {
	type document struct {
		Release int    `json:"release"`
		Version string `json:"version"` // the last that was started
		Cause   string `json:"cause"`
		Created int64  `json:"created"` // Unix seconds
		Present bool   `json:"present"` // runs, or would if the app were started
		// Updating says that an update is under way from it.
		Updating bool `json:"updating,omitempty"`
		// Replacing says that this update brings in what is no release yet, or another one.
		Replacing bool `json:"replacing,omitempty"`
	}
	list, err := s.Store.Releases(r.Context(), app.ID)
	if err != nil {
		return err
	}
	under, err := s.Store.Updating(r.Context(), app.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	updating := err == nil
	next := 0 // the number of the release that is being brought in
	for _, one := range list {
		if updating && one.RunCount == under.RunCount {
			next = one.Number
		}
	}
	docs := []document{}
	for _, one := range list {
		if updating && one.RunCount == under.RunCount {
			continue // it is none yet
		}
		present := one.RunCount == app.RunCount
		if i := slices.IndexFunc(docs, func(d document) bool { return d.Release == one.Number }); i >= 0 {
			docs[i].Present, docs[i].Updating = docs[i].Present || present, docs[i].Updating || present && updating
			docs[i].Replacing = docs[i].Updating && next != one.Number
			continue
		}
		docs = append(docs, document{
			Release: one.Number, Version: model.Version(one.Of(app)), Cause: one.Cause, Created: one.CreatedAt, Present: present,
			Updating: present && updating, Replacing: present && updating && next != one.Number,
		})
	}
	rest.WriteJSON(w, http.StatusOK, docs)
	return nil
}
