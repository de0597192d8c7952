package cloudcontroller

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/store"
	"github.com/clusterworks/deploy/jobs/wire"
)

// maxBatch bounds one answer of the bulk API.
const maxBatch = 1000

type bulkToken struct {
	ID int64 `json:"id"`
}

// bulkApps lists all apps, a batch at a time.
func (c *Controller) bulkApps(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	size := 200
	if text := query.Get("batch_size"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return because(errBadRequest, "batch_size is no positive number")
		}
		size = min(n, maxBatch)
	}
	var token bulkToken
	if text := query.Get("bulk_token"); text != "" {
		if err := json.Unmarshal([]byte(text), &token); err != nil {
			return because(errBadRequest, "bulk_token is not what was given")
		}
	}
	apps, err := c.store.AppsAfter(r.Context(), token.ID, size)
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
		answer.Results[appID(a)] = wire.BulkApp{
			ID: a.ID, Name: a.Name, Instances: a.Instances, State: a.State, Framework: a.Framework, Runtime: a.Runtime,
			Memory: a.Memory, PackageState: state, UpdatedAt: wire.BulkTime{Time: time.Unix(a.UpdatedAt, 0)}, Version: version(a),
		}
	}
	if answer.BulkToken, err = json.Marshal(token); err != nil {
		return fmt.Errorf("cannot write the bulk token: %w", err)
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

// bulkCounts says how many users or apps there are.
func (c *Controller) bulkCounts(w http.ResponseWriter, r *http.Request) error {
	model := r.URL.Query().Get("model")
	count := c.store.CountUsers
	switch model {
	case "user":
	case "app":
		count = c.store.CountApps
	default:
		return because(errBadRequest, "model is neither user nor app")
	}
	n, err := count(r.Context())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, wire.BulkCounts{Counts: map[string]int{model: n}})
	return nil
}
