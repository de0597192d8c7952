package client

import (
	"context"
	"net/http"
	"time"
)

// Snapshot is one of a service.
type Snapshot struct {
	ID   string    `json:"snapshot_id"`
	Name string    `json:"name"`
	Date time.Time `json:"date"`
	Size int64     `json:"size"`   // bytes
	By   string    `json:"reason"` // "user" or "schedule"
}

// ServiceJob is work of a service's node that takes long.
type ServiceJob struct {
	ID         string    `json:"job_id"`
	Kind       string    `json:"description"` // "snapshot", "rollback", "delete", "export" or "import"
	Status     string    `json:"status"`      // "queued", "working", "completed" or "failed"
	SnapshotID string    `json:"snapshot_id"`
	Done       int64     `json:"done"`  // bytes so far
	Total      int64     `json:"total"` // bytes in all; 0: not known
	Snapshot   *Snapshot `json:"result,omitempty"`
	Error      *struct {
		Code        int    `json:"code"`
		Description string `json:"description"`
	} `json:"error,omitempty"`
}

// Over reports whether a job has ended.
func (j ServiceJob) Over() bool { return j.Status == "completed" || j.Status == "failed" }

// ServiceData is a service of a user, for what concerns what is in it.
type ServiceData struct {
	client *Client
	name   string
}

// DataOf returns the service that a user calls name.
func DataOf(c *Client, name string) ServiceData { return ServiceData{c, name} }

func (i ServiceData) path(more ...string) []string {
	return append([]string{"services", "v1", "configurations", i.name}, more...)
}

// Snapshots lists those of a service, the oldest first.
func (i ServiceData) Snapshots(ctx context.Context) ([]Snapshot, error) {
	var doc struct{ Snapshots []Snapshot }
	err := i.client.get(ctx, &doc, i.path("snapshots")...)
	return doc.Snapshots, err
}

// CreateSnapshot begins to make one; with name "", it gets one.
func (i ServiceData) CreateSnapshot(ctx context.Context, name string) (j ServiceJob, err error) {
	body := map[string]string{}
	if name != "" {
		body["name"] = name
	}
	return j, i.client.call(ctx, true, http.MethodPost, body, &j, i.path("snapshots")...)
}

// RollbackSnapshot begins to replace all that is in a service by a snapshot.
func (i ServiceData) RollbackSnapshot(ctx context.Context, id string) (j ServiceJob, err error) {
	return j, i.client.call(ctx, true, http.MethodPut, nil, &j, i.path("snapshots", id)...)
}

// DeleteSnapshot begins to delete one.
func (i ServiceData) DeleteSnapshot(ctx context.Context, id string) (j ServiceJob, err error) {
	return j, i.client.call(ctx, true, http.MethodDelete, nil, &j, i.path("snapshots", id)...)
}

// Job tells how far a job is.
func (i ServiceData) Job(ctx context.Context, id string) (j ServiceJob, err error) {
	return j, i.client.get(ctx, &j, i.path("jobs", id)...)
}
