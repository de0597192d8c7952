package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// States of an index that no DEA has.
const (
	stateFlapping = "FLAPPING"
	stateDown     = "DOWN"
)

type instanceInfo struct {
	Index       int     `json:"index"`
	State       string  `json:"state"`
	Since       int64   `json:"since"`
	DebugIP     *string `json:"debug_ip"`
	DebugPort   *int    `json:"debug_port"`
	ConsoleIP   *string `json:"console_ip"`
	ConsolePort *int    `json:"console_port"`
}

// getInstances lists the state of each index of an app.
func (s *Server) getInstances(w http.ResponseWriter, r *http.Request, _ model.Account, app store.App) error {
	list := []instanceInfo{}
	if app.State == store.Started {
		var err error
		if list, err = s.instances(r.Context(), app); err != nil {
			return err
		}
	}
	rest.WriteJSON(w, http.StatusOK, map[string]any{"instances": list})
	return nil
}

func (s *Server) instances(ctx context.Context, app store.App) ([]instanceInfo, error) {
	flapping := map[int]int64{}
	err := s.Placer.HealthStatus(ctx, wire.HealthStatusRequest{Droplet: model.ID(app), Version: model.Version(app), State: wire.StatusFlapping}, func(data []byte) error {
		answer, err := wire.ParseFlappingIndices(data)
		for _, f := range answer.Indices {
			if f.Index >= 0 && f.Index < app.Instances {
				flapping[f.Index] = f.Since
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	found := map[int]wire.DEAFound{}
	version, err := s.version(ctx, app)
	if err != nil {
		return nil, err
	}
	if expected := app.Instances - len(flapping); expected > 0 {
		if version == "" {
			expected *= 2
		}
		answers, err := s.Placer.Find(ctx, wire.DEAFind{Droplet: model.ID(app), InstanceFilter: wire.InstanceFilter{
			Version: version, States: []string{wire.StateStarting, wire.StateRunning},
		}}, expected)
		if err != nil {
			return nil, err
		}
		for _, f := range answers {
			if known, ok := found[f.Index]; !ok || known.State != wire.StateRunning {
				found[f.Index] = f
			}
		}
	}
	list := []instanceInfo{}
	for index := range app.Instances {
		if since, ok := flapping[index]; ok {
			list = append(list, instanceInfo{Index: index, State: stateFlapping, Since: since})
			continue
		}
		f, ok := found[index]
		if !ok {
			list = append(list, instanceInfo{Index: index, State: stateDown, Since: time.Now().Unix()})
			continue
		}
		list = append(list, instanceInfo{
			Index: index, State: f.State, Since: f.StateTimestamp,
			DebugIP: f.DebugIP, DebugPort: f.DebugPort, ConsoleIP: f.ConsoleIP, ConsolePort: f.ConsolePort,
		})
	}
	return list, nil
}

// getStats lists the usage of each running instance.
func (s *Server) getStats(w http.ResponseWriter, r *http.Request, _ model.Account, app store.App) error {
	type stats struct {
		State string              `json:"state"`
		Since int64               `json:"since,omitempty"`
		Stats *wire.InstanceStats `json:"stats,omitempty"`
	}
	doc := map[string]stats{}
	if app.State == store.Started && app.Instances > 0 {
		version, err := s.version(r.Context(), app)
		if err != nil {
			return err
		}
		answers, err := s.Placer.Find(r.Context(), wire.DEAFind{Droplet: model.ID(app), IncludeStats: true, InstanceFilter: wire.InstanceFilter{
			Version: version, States: []string{wire.StateRunning},
		}}, app.Instances)
		if err != nil {
			return err
		}
		for _, f := range answers {
			if f.Index >= 0 && f.Index < app.Instances {
				doc[strconv.Itoa(f.Index)] = stats{State: f.State, Stats: f.Stats}
			}
		}
		for index := range app.Instances {
			if key := strconv.Itoa(index); doc[key].State == "" {
				doc[key] = stats{State: stateDown, Since: time.Now().Unix()}
			}
		}
	}
	rest.WriteJSON(w, http.StatusOK, doc)
	return nil
}

// getCrashes lists the instances that have crashed.
func (s *Server) getCrashes(w http.ResponseWriter, r *http.Request, _ model.Account, app store.App) error {
	crashes := []wire.CrashedInstance{}
	err := s.Placer.HealthStatus(r.Context(), wire.HealthStatusRequest{Droplet: model.ID(app), State: wire.StatusCrashed}, func(data []byte) error {
		answer, err := wire.ParseCrashedInstances(data)
		crashes = append(crashes, answer.Instances...)
		return err
	})
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, map[string]any{"crashes": crashes})
	return nil
}
