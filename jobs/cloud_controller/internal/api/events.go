package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
)

// note keeps what was done to an app, for its owner. The deed is done by then, so
// that a note which cannot be kept is for the log.
func (s *Server) note(ctx context.Context, a model.Account, app store.App, text string) {
	if err := s.Store.NoteEvent(ctx, app.ID, a.Email, text); err != nil {
		s.Log.Warn("cannot keep an event of an app", "app", app.ID, "event", text, "error", err)
	}
}

// noteChange keeps how an app was changed.
func (s *Server) noteChange(ctx context.Context, a model.Account, before, after store.App) {
	if text := changes(before, after); text != "" {
		s.note(ctx, a, after, text)
	}
}

// changes says in words how an app was changed, "" if not at all. Values of
// variables are no matter for a log.
func changes(before, after store.App) string {
	var all []string
	add := func(changed bool, format string, args ...any) {
		if changed {
			all = append(all, fmt.Sprintf(format, args...))
		}
	}
	add(before.Name != after.Name, "renamed from %s to %s", before.Name, after.Name)
	add(before.State != after.State && after.State == store.Started, "started, version %s", model.Version(after))
	add(before.State != after.State && after.State == store.Stopped, "stopped")
	add(before.Instances != after.Instances, "instances %d, before %d", after.Instances, before.Instances)
	add(before.Memory != after.Memory, "memory %d MB, before %d", after.Memory, before.Memory)
	add(before.Disk != after.Disk, "disk %d MB, before %d", after.Disk, before.Disk)
	add(before.Command != after.Command, "command changed")
	add(before.Health != after.Health, "health check changed")
	if names := differing(before.Environment, after.Environment); len(names) > 0 {
		add(true, "variables changed: %s", strings.Join(names, ", "))
	}
	for _, uri := range after.URIs {
		add(!slices.Contains(before.URIs, uri), "mapped %s", uri)
	}
	for _, uri := range before.URIs {
		add(!slices.Contains(after.URIs, uri), "unmapped %s", uri)
	}
	return strings.Join(all, "; ")
}

// differing returns the names of the variables that are in one list only, or differ.
func differing(before, after []string) []string {
	var names []string
	for _, lists := range [][2][]string{{before, after}, {after, before}} {
		for _, one := range lists[0] {
			name, _, _ := strings.Cut(one, "=")
			if !slices.Contains(lists[1], one) && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// getEvents lists what was done to an app, the latest last.
func (s *Server) getEvents(w http.ResponseWriter, r *http.Request, _ model.Account, app store.App) error {
	events, err := s.Store.Events(r.Context(), app.ID)
	if err != nil {
		return err
	}
	type event struct {
		At    int64  `json:"at"` // Unix seconds
		Actor string `json:"actor"`
		Text  string `json:"text"`
	}
	list := []event{}
	for _, e := range events {
		list = append(list, event(e))
	}
	rest.WriteJSON(w, http.StatusOK, map[string]any{"events": list})
	return nil
}

// getRequests lists the last requests to an app that the routers remember, the latest
// last, and how many routers have not answered.
func (s *Server) getRequests(w http.ResponseWriter, r *http.Request, _ model.Account, app store.App) error {
	requests, silent, err := s.Routers.Requests(r.Context(), model.ID(app))
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, map[string]any{"requests": requests, "silent_routers": silent})
	return nil
}
