package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/model"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/rest"
	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// maxBatch bounds one answer of the bulk API.
const maxBatch = 1000

type bulkToken struct {
	ID int64 `json:"id"`
}

// bulkApps lists all apps, a batch at a time.
func (s *Server) bulkApps(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	size := 200
	if text := query.Get("batch_size"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return model.Because(model.ErrBadRequest, "batch_size is no positive number")
		}
		size = min(n, maxBatch)
	}
	var token bulkToken
	if text := query.Get("bulk_token"); text != "" {
		if err := json.Unmarshal([]byte(text), &token); err != nil {
			return model.Because(model.ErrBadRequest, "bulk_token is not what was given")
		}
	}
	apps, err := s.Store.AppsAfter(r.Context(), token.ID, size)
	if err != nil {
		return err
	}
	updating, err := s.Updates.Targets(r.Context())
	if err != nil {
		return err
	}
	answer := wire.BulkApps{Results: map[wire.ID]wire.BulkApp{}}
	for _, a := range apps {
		token.ID = a.ID
		state := a.PackageState
		if a.DropletHash != "" {
			// Whatever was uploaded since: there is a droplet, and it should run.
			state = store.Staged
		}
		answer.Results[model.ID(a)] = wire.BulkApp{
			ID: a.ID, Name: a.Name, Instances: a.Instances, State: a.State, Framework: a.Framework, Runtime: a.Runtime,
			Memory: a.Memory, PackageState: state, UpdatedAt: wire.BulkTime{Time: time.Unix(a.UpdatedAt, 0)}, Version: model.Version(a),
			Updating: updating[a.ID],
		}
	}
	if answer.BulkToken, err = json.Marshal(token); err != nil {
		return fmt.Errorf("cannot write the bulk token: %w", err)
	}
	rest.WriteJSON(w, http.StatusOK, answer)
	return nil
}

// bulkCounts counts users or apps.
func (s *Server) bulkCounts(w http.ResponseWriter, r *http.Request) error {
	counted := r.URL.Query().Get("model")
	count := s.Store.CountUsers
	switch counted {
	case "user":
	case "app":
		count = s.Store.CountApps
	default:
		return model.Because(model.ErrBadRequest, "model is neither user nor app")
	}
	n, err := count(r.Context())
	if err != nil {
		return err
	}
	rest.WriteJSON(w, http.StatusOK, wire.BulkCounts{Counts: map[string]int{counted: n}})
	return nil
}
