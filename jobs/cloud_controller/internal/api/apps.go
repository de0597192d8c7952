package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// appDocument is an app as clients read it.
type appDocument struct {
	Name             string            `json:"name"`
	Staging          map[string]string `json:"staging"`
	URIs             []string          `json:"uris"`
	Instances        int               `json:"instances"`
	RunningInstances *int              `json:"runningInstances"` // nil: unknown
	Resources        map[string]int    `json:"resources"`
	State            string            `json:"state"`
	Services         []string          `json:"services"`
	Version          string            `json:"version"`
	Env              []string          `json:"env"`
	Meta             appMeta           `json:"meta"`
	Health           store.Health      `json:"health"`
}

type appMeta struct {
	Debug   *string `json:"debug"`
	Console *bool   `json:"console"`
	Command string  `json:"command,omitempty"`
	Version int     `json:"version"`
	Created int64   `json:"created"`
}

// documents describes a user's apps; the health manager is asked once for all of them.
func (s *Server) documents(ctx context.Context, apps []store.App) ([]appDocument, error) {
	docs := []appDocument{}
	if len(apps) == 0 {
		return docs, nil
	}
	services, err := s.Store.BoundAliases(ctx, apps[0].OwnerID)
	if err != nil {
		return nil, err
	}
	running := s.Placer.RunningInstances(ctx, apps)
	for _, a := range apps {
		doc := appDocument{
			Name:      a.Name,
			Staging:   map[string]string{"model": a.Framework, "stack": a.Runtime},
			URIs:      model.NotNil(a.URIs),
			Instances: a.Instances,
			Resources: map[string]int{"memory": a.Memory, "disk": a.Disk, "fds": a.FDs},
			State:     a.State,
			Services:  model.NotNil(services[a.ID]),
			Version:   model.Version(a),
			Env:       model.NotNil(a.Environment),
			Meta:      appMeta{Debug: model.Debug(a), Console: model.Console(a), Command: a.Command, Version: a.LockVersion, Created: a.CreatedAt},
			Health:    a.Health,
		}
		if n, ok := running[a.ID]; ok {
			doc.RunningInstances = &n
		}
		docs = append(docs, doc)
	}
	return docs, nil
}

func (s *Server) listApps(w http.ResponseWriter, r *http.Request, a model.Account) error {
	apps, err := s.Store.Apps(r.Context(), a.ID)
	if err != nil {
		return err
	}
	docs, err := s.documents(r.Context(), apps)
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, docs)
	return nil
}

func (s *Server) getApp(w http.ResponseWriter, r *http.Request, _ model.Account, app store.App) error {
	docs, err := s.documents(r.Context(), []store.App{app})
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, docs[0])
	return nil
}

// createApp answers with a redirect that clients do not follow.
func (s *Server) createApp(w http.ResponseWriter, r *http.Request, a model.Account) error {
	var body appRequest
	if err := rest.ReadJSON(w, r, &body); err != nil {
		return err
	}
	if body.Name == nil || !appName.MatchString(*body.Name) {
		return model.Because(model.ErrInvalidApp, "a name has letters, digits, '_' and '-' only, at most 255")
	}
	if body.Staging == nil {
		return model.Because(model.ErrInvalidApp, "staging is missing")
	}
	most := s.Config.Now().AppLimits
	app := store.App{
		Identity: store.Identity{OwnerID: a.ID, OwnerEmail: a.Email, Name: *body.Name}, State: store.Stopped,
		Spec: store.Spec{Instances: defaultInstances, Memory: max(defaultMemory, most.MemoryMin), Disk: min(defaultDisk, most.Disk), FDs: min(defaultFDs, most.FDs)},
	}
	// It has no files yet that could be started.
	body.State = nil
	if err := s.change(&app, body, a); err != nil {
		return err
	}
	if err := s.Store.CreateApp(r.Context(), &app, limits(a)); err != nil {
		return model.AppError(err)
	}
	if body.Services != nil {
		if err := s.Services.BindTo(r.Context(), a, app, *body.Services); err != nil {
			return errors.Join(err, s.Store.DeleteApp(r.Context(), app))
		}
	}
	s.Hosts.Changed(r.Context(), nil, app.URIs)
	s.note(r.Context(), a, app, "made")
	s.Log.Info("app created", "app", app.ID, "name", app.Name, "owner", a.Email)
	url := "http://" + r.Host + "/apps/" + app.Name
	w.Header().Set("Location", url)
	rest.WriteJSON(w, http.StatusFound, map[string]string{"result": "success", "redirect": url})
	return nil
}

// limits refuses a change that exceeds what the account may have. One that was
// above a limit before, lowered since, may go down.
func limits(a model.Account) store.Limits {
	capacity := a.Capacity
	return func(before, after store.Usage) error {
		switch {
		case after.Apps > capacity.Apps && after.Apps > before.Apps:
			return model.ErrTooManyApps
		case after.Memory > capacity.Memory && after.Memory > before.Memory:
			return model.ErrMemory(capacity.Memory)
		case after.Instances > capacity.Instances && after.Instances > before.Instances:
			return model.Because(model.ErrTooManyStarted, "%d, allowed %d in all apps of the account", after.Instances, capacity.Instances)
		}
		return nil
	}
}

// putApp changes an app. Starting stages first, if it must, and answers when
// that is done; until then the app stays stopped, so that whatever happens in
// between leaves an app that can be started again.
func (s *Server) putApp(w http.ResponseWriter, r *http.Request, a model.Account, app store.App) error {
	var body appRequest
	if err := rest.ReadJSON(w, r, &body); err != nil {
		return err
	}
	if body.Meta != nil && body.Meta.Version != nil && int(*body.Meta.Version) != app.LockVersion {
		return model.ErrLocking
	}
	ctx, cancel := s.Frame.Detached(r)
	defer cancel()
	before := app
	if body.Name != nil {
		if app.Name = *body.Name; !appName.MatchString(app.Name) {
			return model.Because(model.ErrInvalidApp, "a name has letters, digits, '_' and '-' only, at most 255")
		}
	}
	if err := s.change(&app, body, a); err != nil {
		return err
	}
	wanted := app.State
	if body.State != nil {
		wanted = *body.State
	}
	// The capacity is checked for what the app will be.
	starting := wanted == store.Started && before.State != store.Started
	if starting {
		if err := s.mayStart(ctx, app, a); err != nil {
			return err
		}
	}
	begun := 0 // instances
	switch {
	case starting:
		begun = app.Instances
	case wanted == store.Started:
		begun = app.Instances - before.Instances
	}
	if err := s.countStarts(ctx, w, a, app, begun); err != nil {
		return err
	}
	app.State = wanted
	if starting {
		app.State = before.State
	}
	if err := s.Store.UpdateApp(ctx, &app, limits(a)); err != nil {
		return model.AppError(err)
	}
	s.Hosts.Changed(ctx, before.URIs, app.URIs)
	if body.Services != nil {
		if err := s.Services.BindTo(ctx, a, app, *body.Services); err != nil {
			return err
		}
		var err error
		if app, err = s.Store.AppByID(ctx, app.ID); err != nil {
			return model.AppError(err)
		}
	}
	// A running app goes on with the droplet that its record names: new files are
	// used from the next start or update on.
	if starting {
		var err error
		if err := samePackage(app, body.Package); err != nil {
			return err
		}
		if app, err = s.Staging.Staged(ctx, app); err != nil {
			return err
		}
		if err := s.Store.StartApp(ctx, &app, "start", limits(a)); err != nil {
			return model.AppError(err)
		}
	}
	left, err := s.Placer.Follow(ctx, before, app)
	if err != nil {
		return err
	}
	if app.State == store.Started && app.Instances < before.Instances {
		s.Updates.ScaledDown(app)
	}
	s.noteChange(ctx, a, before, app)
	if why := s.noRoom(ctx, a, app, left); why != "" {
		rest.WriteJSON(w, http.StatusOK, map[string]string{"no_room": why})
		return nil
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// noRoom says and notes why these instances of an app cannot start yet; "" if there
// are none.
func (s *Server) noRoom(ctx context.Context, a model.Account, app store.App, left []int) string {
	if len(left) == 0 {
		return ""
	}
	why := fmt.Sprintf("%d of %d instances wait for room: %s", len(left), app.Instances, s.Placer.NoRoom(app))
	s.note(ctx, a, app, why)
	return why
}

// mayStart refuses a start that the account has no memory for, before it takes
// the time of a staging.
func (s *Server) mayStart(ctx context.Context, app store.App, a model.Account) error {
	usage, err := s.Store.Usage(ctx, app.OwnerID)
	if err != nil {
		return err
	}
	after := usage
	after.Memory += app.Memory * app.Instances
	after.Instances += app.Instances
	return limits(a)(usage, after)
}

// countStarts refuses to start n instances if their account has started too many in
// the last minute: each costs DEAs and stagers work, and ends of them are free.
func (s *Server) countStarts(ctx context.Context, w http.ResponseWriter, a model.Account, app store.App, n int) error {
	if n <= 0 {
		return nil
	}
	wait, err := s.Store.CountStarts(ctx, app.OwnerID, n, a.Capacity.StartsPerMinute)
	if err != nil || wait == 0 {
		return err
	}
	seconds := int((wait + time.Second - 1) / time.Second)
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	return model.Because(model.ErrTooManyStarts, "%d instances are allowed in all apps of the account, try again in %d seconds", a.Capacity.StartsPerMinute, seconds)
}

func (s *Server) deleteApp(w http.ResponseWriter, r *http.Request, _ model.Account, app store.App) error {
	ctx, cancel := s.Frame.Detached(r)
	defer cancel()
	if err := s.removeApp(ctx, app); err != nil {
		return model.AppError(err)
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// removeApp unbinds, removes and stops an app. Its files go with the next sweep.
func (s *Server) removeApp(ctx context.Context, app store.App) error {
	if err := s.Services.UnbindAll(ctx, app); err != nil {
		return err
	}
	if err := s.Store.DeleteApp(ctx, app); err != nil {
		return err
	}
	s.Hosts.Changed(ctx, app.URIs, nil)
	s.Log.Info("app deleted", model.Attributes(app)...)
	s.Placer.Stop(wire.DEAStop{Droplet: model.ID(app)})
	s.Placer.TellUpdated(app)
	return nil
}
