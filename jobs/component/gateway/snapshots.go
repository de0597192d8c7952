package gateway

import (
	"encoding/json"

	"github.com/clusterworks/deploy/jobs/wire"
)

// The owner of an instance makes snapshots of it and goes back to them. The gateway
// passes on to the instance's node what the controller asks, and keeps nothing: jobs are
// the node's.

// askAboutSnapshots asks the node of the instance in the path.
func (g api) askAboutSnapshots(c *call, operation string, r wire.SnapshotRequest) (wire.SnapshotAnswer, error) {
	r.InstanceID = c.PathValue("instance")
	doc, err := json.Marshal(r)
	if err == nil {
		_, err = wire.ParseSnapshotRequest(doc)
	}
	if err != nil {
		return wire.SnapshotAnswer{}, wire.Failure(wire.ServiceMalformed, "Malformed request: %v", err)
	}
	h, known, err := g.find(c.ctx, func(h handles) (wire.ServiceHandle, bool) { return h.instance(r.InstanceID) })
	if err != nil {
		return wire.SnapshotAnswer{}, err
	}
	if !known {
		return wire.SnapshotAnswer{}, errNotFound("instance")
	}
	data, err := g.askRaw(c.ctx, h.Credentials.NodeID(), operation, r)
	if err != nil {
		return wire.SnapshotAnswer{}, err
	}
	answer, err := wire.ParseSnapshotAnswer(data)
	if err == nil && !answer.Success {
		err = answer.Error
	}
	return answer, err
}

// jobOf answers with the job that an operation begins, or tells about.
func (g api) jobOf(operation string) func(*call) (any, error) {
	return func(c *call) (any, error) {
		answer, err := g.askAboutSnapshots(c, operation, wire.SnapshotRequest{SnapshotID: c.PathValue("snapshot"), JobID: c.PathValue("job")})
		return answer.Job, err
	}
}

func (g api) servedCreateSnapshot(c *call) (any, error) {
	var body struct {
		Name string `json:"name"`
	}
	if len(c.body) > 0 {
		if err := c.read(&body); err != nil {
			return nil, err
		}
	}
	answer, err := g.askAboutSnapshots(c, wire.ServiceCreateSnapshot, wire.SnapshotRequest{Name: body.Name})
	return answer.Job, err
}

func (g api) servedSnapshots(c *call) (any, error) {
	answer, err := g.askAboutSnapshots(c, wire.ServiceListSnapshots, wire.SnapshotRequest{})
	return map[string][]wire.Snapshot{"snapshots": append([]wire.Snapshot{}, answer.Snapshots...)}, err
}

func (g api) servedSnapshot(c *call) (any, error) {
	answer, err := g.askAboutSnapshots(c, wire.ServiceListSnapshots, wire.SnapshotRequest{})
	if err != nil {
		return nil, err
	}
	for _, s := range answer.Snapshots {
		if s.ID == c.PathValue("snapshot") {
			return s, nil
		}
	}
	return nil, errNotFound("snapshot")
}
